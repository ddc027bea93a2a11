package wiring

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A replaced file has its new name before its directory is synced, and when it
// could not be written the old one is there, and nothing else.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	broken := errors.New("broken")
	for _, test := range []struct {
		text  string
		write error
		sync  error
		after string
	}{
		{text: "one", after: "one"},
		{text: "two", after: "two"},
		{text: "three", write: broken, after: "two"},
		{text: "four", sync: broken, after: "four"},
	} {
		var synced []string
		err := replaceFile(path, 0o640, func(w io.Writer) error {
			_, err := io.WriteString(w, test.text)
			return errors.Join(err, test.write)
		}, func(name string) error {
			data, err := os.ReadFile(path)
			synced = append(synced, name+": "+string(data))
			return errors.Join(err, test.sync)
		})
		if want := errors.Join(test.write, test.sync); (err != nil) != (want != nil) || want != nil && !errors.Is(err, broken) {
			t.Errorf("%s: %v, want %v", test.text, err, want)
		}
		if test.write == nil && (len(synced) != 1 || synced[0] != dir+": "+test.text) || test.write != nil && len(synced) > 0 {
			t.Errorf("%s: synced %q", test.text, synced)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != test.after {
			t.Errorf("%s: the file has %q, %v", test.text, data, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: %v, %v", test.text, info, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
			t.Errorf("%s: the directory has %v, %v", test.text, names, err)
		}
	}
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != text {
			t.Errorf("%q, %v", data, err)
		}
	}
	if err := WriteFile(filepath.Join(path, "below"), nil, 0o600); err == nil {
		t.Error("written below a file")
	}
}

func TestMakeDir(t *testing.T) {
	top := t.TempDir()
	path := filepath.Join(top, "a", "b")
	for range 2 { // also one that is there
		if err := MakeDir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{filepath.Dir(path), path} {
		if info, err := os.Stat(p); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	if err := SyncDir(filepath.Join(path, "c")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("syncing what is not there: %v", err)
	}
	if err := WriteFile(filepath.Join(path, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeDir(filepath.Join(path, "f", "g"), 0o700); err == nil {
		t.Error("made below a file")
	}
}
