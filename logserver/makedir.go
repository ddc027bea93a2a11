package logserver

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// makeDir makes a directory and its parents, and syncs every directory that got
// a new entry: a store whose own directory is lost by a power cut is lost.
func makeDir(fs vfs.FS, dir string) error {
	var parents []string // of what is missing, innermost first
	for p := dir; ; p = fs.PathDir(p) {
		if _, err := fs.Stat(p); err == nil || p == fs.PathDir(p) {
			break
		}
		parents = append(parents, fs.PathDir(p))
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the store directory: %w", storeError(err))
	}
	for _, p := range parents {
		if err := syncDir(fs, p); err != nil {
			return fmt.Errorf("syncing directory %q: %w", p, storeError(err))
		}
	}
	return nil
}
