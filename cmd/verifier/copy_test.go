package main

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// copyCmd writes the tree of a log into a directory: copy NAME DIR.
func copyCmd(ts *testscript.TestScript, _ bool, args []string) {
	l := ts.Value("logs").(map[string]*testLog)[args[0]]
	l.mu.Lock()
	defer l.mu.Unlock()
	names := []string{"checkpoint"}
	for level := -1; level < 2; level++ {
		hashes := len(l.entries) >> (8 * max(level, 0))
		for first := 0; first < hashes; first += 256 {
			index, width := int64(first/256), min(256, hashes-first)
			if level < 0 {
				names = append(names, tiles.BundlePath(index, width))
			} else {
				names = append(names, tiles.TilePath(level, index, width))
			}
		}
	}
	for _, name := range names {
		b, err := l.resource(name)
		ts.Check(err)
		file := filepath.Join(ts.MkAbs(args[1]), filepath.FromSlash(name))
		ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
		ts.Check(os.WriteFile(file, b, 0o644))
	}
}

// treeOf writes the static tree that a log of up to 256 entries had at a size.
func treeOf(ts *testscript.TestScript, dir string, l *testcluster.Log, size int64) {
	var bundle, tile []byte
	for _, entry := range l.Entries[:size] {
		leaf := tlog.RecordHash(entry)
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(entry))), entry...)
		tile = append(tile, leaf[:]...)
	}
	for name, b := range map[string][]byte{"checkpoint": l.Signed(size), tiles.BundlePath(0, int(size)): bundle, tiles.TilePath(0, 0, int(size)): tile} {
		file := filepath.Join(ts.MkAbs(dir), filepath.FromSlash(name))
		ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
		ts.Check(os.WriteFile(file, b, 0o644))
	}
}
