package wiring

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// ReadFile reads a file of at most limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", path, limit)
	}
	return data, err
}

// WriteFile replaces a file durably and in one step: a reader, or the next
// start, sees the old content or the new.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return ReplaceFile(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// ReplaceFile is [WriteFile] for content that is written piece by piece. When
// write fails, the file stays as it was.
func ReplaceFile(path string, mode fs.FileMode, write func(io.Writer) error) error {
	return replaceFile(path, mode, write, SyncDir)
}

func replaceFile(path string, mode fs.FileMode, write func(io.Writer) error, syncDir func(string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// MakeDir makes a directory and all of its parents durably. Mode is that of those
// that were not there.
func MakeDir(path string, mode fs.FileMode) error {
	var missing []string // innermost first
	for p := filepath.Clean(path); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			break // it exists, or MkdirAll says what is wrong with it
		}
		missing = append(missing, p)
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	for _, p := range missing {
		if err := SyncDir(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes the names in a directory durable, as far as its file system can:
// one that cannot sync a directory says EINVAL, and Windows syncs none.
func SyncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}
