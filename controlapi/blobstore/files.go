package blobstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// readKey returns the key in a file, or ErrNotFound.
func readKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading a payload's key: %w", err)
	}
	return key, nil
}

// writeKey writes a key durably, whole or not at all.
func writeKey(path string, key []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-") // mode 0600
	if err != nil {
		return fmt.Errorf("writing a payload's key: %w", err)
	}
	_, err = tmp.Write(key)
	if err == nil {
		// Before the rename, so that the name never leads to an empty file.
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing a payload's key: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return syncPath(filepath.Dir(path))
}

// removeKey removes a key and makes that durable. No key is no error, but is
// synced all the same: an earlier removal may not have been.
func removeKey(path string) error {
	err := os.Remove(path)
	if err == nil {
		return syncPath(filepath.Dir(path))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroying a payload's key: %w", err)
	}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil // the owner has never put anything
	}
	return syncPath(dir)
}

// syncPath flushes a file, or the names in a directory, to disk.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("syncing %q: %w", path, err)
	}
	return nil
}

// syncFile flushes a file and its name to disk.
func syncFile(path string) error {
	return errors.Join(syncPath(path), syncPath(filepath.Dir(path)))
}
