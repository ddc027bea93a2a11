package logserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable/blob"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble 2.1.7 panics when it cannot open a blob file because that is missing or
// rotten at its end, on the goroutine of whoever reads: a request, a check or a
// compaction. So a store that lacks blob files is not opened, as Pebble does not
// open one that lacks tables, and what is wrong with one that is there is an
// error which Pebble does not know for corruption. The rest stays readable.

// checkBlobs makes sure that there are as many blob files as the store is made
// of. Pebble does not tell their names. There may be more, which it is about to
// delete; that many missing ones are not noticed.
func checkBlobs(db *pebble.DB, fs vfs.FS, dir string) error {
	live := db.Metrics().BlobFiles.LiveCount
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	there := uint64(0)
	for _, name := range names {
		if strings.HasSuffix(name, blobSuffix) {
			there++
		}
	}
	if there < live {
		return corrupt("%d blob files are missing in %q; %s", live-there, dir, repairHint)
	}
	return nil
}

const blobSuffix = ".blob"

// partialFS shows Pebble blob files that are not there, so that it opens a store
// that lacks some, to read it: opening one of them fails then like a rotten one.
// Pebble does not tell which are missing until it wants to read them, so every
// number that no file has is one, up to those that it can have given away since
// it made the newest table, blob file or write-ahead log that is still there. A
// store that is whole is opened without.
type partialFS struct{ storeFS }

// maxMissing bounds how many numbers past the newest file are shown, and maxNumber
// those of the files: each takes memory. A log comes to it with terabytes.
const (
	maxMissing = 1 << 14
	maxNumber  = 1 << 22
)

// List implements vfs.FS.
func (s partialFS) List(dir string) ([]string, error) {
	names, err := s.storeFS.List(dir)
	if err != nil {
		return nil, err
	}
	taken, last := map[uint64]bool{}, uint64(0)
	for _, name := range names {
		number, suffix, _ := strings.Cut(name, ".")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || suffix != "sst" && suffix != "log" && "."+suffix != blobSuffix {
			continue // of the operator, or of no number that a missing file can have
		}
		if n > maxNumber {
			return nil, fmt.Errorf("%q: files of numbers above %d are too many to look for those that are missing", name, maxNumber)
		}
		last = max(last, n)
		if suffix != "log" {
			taken[n] = true
		}
	}
	for n := uint64(1); n <= last+maxMissing; n++ {
		if !taken[n] {
			names = append(names, fmt.Sprintf("%06d%s", n, blobSuffix))
		}
	}
	return names, nil
}

// Open implements vfs.FS.
func (s storeFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.FS.Open(name, opts...)
	if !strings.HasSuffix(name, blobSuffix) {
		return f, err
	}
	if err == nil {
		if err = checkBlobFooter(f); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, os.ErrNotExist), pebble.IsCorruptionError(err):
		err = corrupt("%s: %v; %s", name, err, repairHint)
		s.faults.corrupted(err)
	}
	return nil, err
}

// checkBlobFooter does what Pebble does first with a blob file.
func checkBlobFooter(f vfs.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = blob.NewFileReader(context.Background(), blobFooter{f, info.Size()}, blob.FileReaderOptions{})
	return err
}

// blobFooter is the end of a blob file as Pebble reads it.
type blobFooter struct {
	file vfs.File
	size int64
}

// ReadAt implements objstorage.Readable.
func (b blobFooter) ReadAt(_ context.Context, p []byte, off int64) error {
	if n, err := b.file.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("%d of %d bytes at %d: %w", n, len(p), off, err)
	}
	return nil
}

// Close implements objstorage.Readable: the file stays open.
func (b blobFooter) Close() error { return nil }

// Size implements objstorage.Readable.
func (b blobFooter) Size() int64 { return b.size }

// NewReadHandle implements objstorage.Readable.
func (b blobFooter) NewReadHandle(objstorage.ReadBeforeSize) objstorage.ReadHandle {
	h := objstorage.MakeNoopReadHandle(b)
	return &h
}
