//go:build unix

package main

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestLockFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockFolder(path); !errors.Is(err, errInUse) {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	if unlock, err = lockFolder(path); err != nil {
		t.Fatalf("after the first was released: %v", err)
	}
	unlock()
	if _, err := lockFolder(filepath.Join(path, "below")); err == nil || errors.Is(err, errInUse) {
		t.Errorf("a folder that is none: %v", err)
	}
}
