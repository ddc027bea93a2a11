// Command guest is a program as tenants write them, and every way in which a
// program could see that it was run before, or elsewhere. Its first argument
// says which.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
)

var programs = map[string]func() error{
	"normalise":  normalise,
	"clock":      clock,
	"sleep":      sleep,
	"random":     random,
	"maps":       maps,
	"goroutines": goroutines,
	"environ":    environ,
	"stdin":      stdin,
	"stderr":     diagnose,
	"files":      files,
	"exit":       exit,
	"panic":      func() error { panic("as asked") },
	"spin":       func() error { return spin(0) },
	"recurse":    func() error { fmt.Println(recurse(1)); return nil },
	"allocate":   allocate,
	"flood":      flood,
}

func main() {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "guest: name a program")
		os.Exit(64)
	}
	if err := programs[os.Args[1]](); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func environ() error {
	fmt.Printf("%q\n%q\n", os.Args, os.Environ())
	return nil
}

func stdin() error {
	b, err := io.ReadAll(os.Stdin)
	fmt.Printf("%d bytes: %.20q\n", len(b), b)
	return err
}

func diagnose() error {
	for i := range 100 {
		fmt.Fprintln(os.Stderr, "diagnostics", i)
	}
	return nil
}

func files() error {
	_, err := os.ReadFile("/etc/passwd")
	fmt.Println(err)
	_, err = os.CreateTemp("", "")
	fmt.Println(err)
	_, err = os.ReadDir(".")
	fmt.Println(err)
	return nil
}

func exit() error {
	code, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	fmt.Println("leaving with", code)
	os.Exit(code)
	return nil
}
