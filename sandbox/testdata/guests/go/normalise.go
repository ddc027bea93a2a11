package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
)

// normalise writes the JSON on standard input with its keys in order and
// without space, and the SHA-256 of that.
func normalise() error {
	var v any
	d := json.NewDecoder(os.Stdin)
	if err := d.Decode(&v); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%x\n", b, sha256.Sum256(b))
	return nil
}
