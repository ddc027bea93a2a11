//go:build unix

package dirlock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for range 2 { // a file that is left behind locks nobody out
		f, err := Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := Lock(path); !errors.Is(err, ErrHeld) {
			t.Errorf("a second lock: %v, %v", second, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if _, err := Lock(filepath.Join(path, "below")); err == nil || errors.Is(err, ErrHeld) {
		t.Errorf("a directory that is none: %v", err)
	}
}
