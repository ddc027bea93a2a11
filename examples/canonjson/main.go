// Command canonjson reads one JSON value from standard input and writes its
// canonical form (RFC 8785) to standard output, followed by a newline. Input
// that two readers could take differently is refused with exit code 1.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/tallystick/tallystick/examples/internal/strictjson"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "canonjson:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	v, err := strictjson.Parse(data)
	if err != nil {
		return err
	}
	_, err = out.Write(append(strictjson.Append(nil, v), '\n'))
	return err
}
