package logserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A log's place is where on which file system its store came to be. A store that
// was copied, or unpacked from an archive, is somewhere else, and the original
// may still be running, or may have signed more since: until it has caught up it
// neither signs nor appends (ErrRestored).
//
// The place is read off a small file in the store directory whose inode the
// store remembers: renaming directories within a file system keeps it, copying
// files cannot. What works below files is not noticed: a block device, virtual
// machine or ZFS dataset that was copied or rolled back as a whole. The witnesses
// are the defence against those.

// placeFile is the file whose inode tells the place.
const placeFile = "PLACE"

const placeText = "The inode of this file tells the log where its store belongs.\n" +
	"A copy of the store has another one, and does not sign until it has caught up:\n" +
	"see logserver restore --help.\n"

// makePlace creates the place file, unless it is there, and returns the place:
// unknownPlace if the file system keeps none, as those in memory.
func makePlace(dir string, fs vfs.FS) (place string, err error) {
	if !onDisk(fs) {
		return unknownPlace, nil
	}
	path := fs.PathJoin(dir, placeFile)
	if _, err := fs.Stat(path); err == nil {
		return readPlace(dir, fs)
	}
	if err := writeFileSync(fs, path, []byte(placeText)); err != nil {
		return "", fmt.Errorf("recording the place of the store: %w", err)
	}
	return readPlace(dir, fs)
}

// handleMark begins the part of a place that not every file system and not every
// kernel has, and that ends it: a type, a colon, and the handle.
const handleMark = " handle "

// samePlace compares the place that a store remembers with where it is now.
// Handles are compared only if both have one of the same type: a new kernel or
// mount option that knows others must not suspend a log.
func samePlace(stored, now string) bool {
	a, handleA, _ := strings.Cut(stored, handleMark)
	b, handleB, _ := strings.Cut(now, handleMark)
	if a != b {
		return false
	}
	typeA, _, okA := strings.Cut(handleA, ":")
	typeB, _, okB := strings.Cut(handleB, ":")
	return !okA || !okB || typeA != typeB || handleA == handleB
}

// unknownPlace is the place on a file system that keeps none: it is compared
// with nothing.
const unknownPlace = "unknown"

// readPlace returns the place that the store directory is at now, "" if there is
// no place file.
func readPlace(dir string, fs vfs.FS) (string, error) {
	if !onDisk(fs) {
		return unknownPlace, nil
	}
	place, err := placeOf(fs.PathJoin(dir, placeFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the place of the store: %w", err)
	}
	return place, nil
}

// onDisk reports whether the files of fs are those of the operating system.
func onDisk(fs vfs.FS) bool { return fs == vfs.Default }

// writeFileSync writes a new file and makes it and its name durable.
func writeFileSync(fs vfs.FS, path string, data []byte) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(path))
}

// syncDir makes the names in a directory durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readFileLimit reads a file of at most limit bytes.
func readFileLimit(fs vfs.FS, path string, limit int64) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", path, limit)
	}
	return b, errors.Join(err, f.Close())
}
