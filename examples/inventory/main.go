// Command inventory reads a go.sum file from standard input, checks it
// strictly, and writes a canonical inventory of the modules that it pins to
// standard output: one line of JSON. A file that is not well formed is refused
// with exit code 1 and the number of the offending line.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "inventory:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	lines, err := parse(string(data))
	if err != nil {
		return err
	}
	text, err := inventory(lines)
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}
