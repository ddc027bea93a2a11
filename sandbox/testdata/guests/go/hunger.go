package main

import (
	"bytes"
	"os"
)

// spin computes for ever.
func spin(n uint32) error {
	for n != 1 {
		n = n*1664525 + 1013904222 // even, so never 1
		n &^= 1
	}
	return nil
}

// recurse calls itself until something else gives in.
func recurse(n int) int {
	if n < 0 {
		return n
	}
	return recurse(n+1) + n
}

// allocate takes memory until there is none.
func allocate() error {
	var list [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 1000 { // fresh memory is zero
			if b[i] != 0 {
				panic("not zero")
			}
			b[i] = 0xff
		}
		list = append(list, b)
	}
}

// flood writes for ever.
func flood() error {
	line := bytes.Repeat([]byte("flood "), 1000)
	for {
		if _, err := os.Stdout.Write(line); err != nil {
			return err
		}
	}
}
