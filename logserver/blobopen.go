package logserver

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// checkBlobs makes sure that the blob files which the store is made of are there.
// There may be more, which nothing names any more.
//
// A store that is opened to be written deletes those and compacts meanwhile, and
// Pebble does not hold on to the version of the store whose files it names. So the
// files of such a one are only counted, and as many missing ones as there are
// others are not noticed.
func checkBlobs(db *pebble.DB, fs vfs.FS, dir string, readOnly bool) error {
	live := db.Metrics().BlobFiles.LiveCount
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, name := range names {
		if strings.HasSuffix(name, blobSuffix) {
			there[name] = true
		}
	}
	if !readOnly {
		if n := uint64(len(there)); n < live {
			return corrupt("%d blob files are missing in %q; %s", live-n, dir, repairHint)
		}
		return nil
	}
	missing := &missingBlobs{dir: dir}
	for m := range db.DebugCurrentVersion().BlobFiles.All() {
		if name := fmt.Sprintf("%06d%s", uint64(m.Physical.FileNum), blobSuffix); !there[name] {
			missing.names = append(missing.names, name)
		}
	}
	if len(missing.names) > 0 {
		return missing
	}
	return nil
}

const blobSuffix = ".blob"

// missingBlobs is an ErrCorrupt that names the blob files which a store lacks.
type missingBlobs struct {
	dir   string
	names []string
}

func (m *missingBlobs) Error() string {
	return fmt.Sprintf("%v: %d blob files are missing in %q, such as %s; %s", ErrCorrupt, len(m.names), m.dir, m.names[0], repairHint)
}

func (m *missingBlobs) Unwrap() error { return ErrCorrupt }

// partialFS shows Pebble blob files that are not there, so that it opens a store
// that lacks them, to read it: opening one of them fails then like a rotten one.
type partialFS struct {
	storeFS
	missing []string
}

// List implements vfs.FS.
func (s partialFS) List(dir string) ([]string, error) {
	names, err := s.storeFS.List(dir)
	return append(names, s.missing...), err
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
