package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// maxGenesis bounds a genesis file: one entry of a public log.
const maxGenesis = 65_535

// readFile reads a file of at most limit bytes.
func readFile(what, name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fail(exitFailed, "", "reading the %s: %w", what, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fail(exitFailed, "", "reading the %s: %w", what, err)
	}
	if int64(len(b)) > limit {
		return nil, fail(exitMalformed, "", "the %s %q has more than %d bytes", what, name, limit)
	}
	return b, nil
}

// readPolicy reads a c2sp.org/tlog-policy file.
func readPolicy(what, name string) (*checkpoint.Policy, error) {
	b, err := readFile(what, name, checkpoint.MaxPolicySize)
	if err != nil {
		return nil, err
	}
	p, err := checkpoint.ParsePolicy(b)
	if err != nil {
		return nil, fail(exitMalformed, "the file is a c2sp.org/tlog-policy: log, witness, group and quorum lines", "%s %q: %w", what, name, err)
	}
	return p, nil
}

// writeFile replaces a file so that, whatever happens, either the old or the new
// content is there.
func writeFile(name string, b []byte) error {
	if err := wiring.MakeDir(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("making the folder of %q: %w", name, err)
	}
	if err := wiring.WriteFile(name, b, 0o600); err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	return nil
}
