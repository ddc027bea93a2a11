package logserver

import (
	"bytes"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fileBytes returns what is in a file.
func fileBytes(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWALFill: a log of small groups is filled with zeros ahead of them, within
// its allocated room; one of large groups is not, and no write is changed by it.
func TestWALFill(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	defer tl.close()
	fs := storeFS{vfs.NewMem(), tl.store.faults, tl.space}
	open := func(allocated int64) (*walFile, func(n int)) {
		f, err := fs.Create("1.log", vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Preallocate(0, allocated); err != nil {
			t.Fatal(err)
		}
		return f.(*walFile), func(n int) {
			if _, err := f.Write(bytes.Repeat([]byte{1}, n)); err != nil {
				t.Fatal(err)
			}
			if err := f.SyncData(); err != nil {
				t.Fatal(err)
			}
		}
	}
	look := func(f *walFile, size, written int64) {
		t.Helper()
		b := fileBytes(t, fs, "1.log")
		if int64(len(b)) != size || bytes.Count(b, []byte{1}) != int(written) || bytes.Count(b[:written], []byte{1}) != int(written) {
			t.Errorf("%d bytes, %d of them written; want %d and %d", len(b), bytes.Count(b, []byte{1}), size, written)
		}
		if f.filled < f.end || f.filled != size {
			t.Errorf("filled up to %d, written up to %d, size %d", f.filled, f.end, size)
		}
	}
	f, group := open(3 * fillStep)
	group(100)
	look(f, 100+fillStep, 100)
	for f.end < 2*fillStep { // small groups go on, the file is filled again
		group(fillLimit / 2)
	}
	look(f, 100+2*fillStep, f.end)
	for f.end < 3*fillStep { // and not beyond its room
		group(fillLimit)
	}
	look(f, f.end, f.end)
	f.Close()

	f, group = open(3 * fillStep)
	group(fillLimit + 1)
	look(f, fillLimit+1, fillLimit+1)
	f.Close()

	f, group = open(0) // the disk has no room to spare
	group(100)
	look(f, 100, 100)
	f.Close()
}
