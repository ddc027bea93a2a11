package logserver

import "github.com/cockroachdb/pebble/v2/vfs"

// How far ahead of its end a write-ahead log is filled, in bytes.
const (
	// fillStep is filled at a time: some hundreds of small groups. The sync that
	// follows takes longer by what so many bytes take.
	fillStep = 256 << 10
	// fillLimit is the largest group that is filled ahead of: the bytes of a
	// larger one would rather be written once than have their sync be cheap.
	fillLimit = 32 << 10
)

// zeros is a page. The kernel keeps what is written at once in one piece, and
// would take all of it for changed with every group that is written to it.
var zeros [4 << 10]byte

// walFile is a write-ahead log that is being written. One goroutine at a time
// uses it, as Pebble does.
//
// A sync of bytes at the end of a file has to store the size of the file, too:
// another write to another place, which the sync waits for. So while groups are
// small the file is filled with zeros ahead of what is written, within the room
// that was allocated for it. For whoever reads the log such zeros are its end, as
// are the remains of an older log in a file that is used again.
type walFile struct {
	vfs.File
	fs storeFS

	end       int64 // of what has been written
	synced    int64 // end at the last sync
	filled    int64 // size of the file: there are bytes to overwrite up to here
	allocated int64 // there is room on the disk up to here
}

// newWALFile takes over a file that is new, or an older log that is used again.
func newWALFile(f vfs.File, fs storeFS) (*walFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fs.check(err)
	}
	return &walFile{File: f, fs: fs, filled: info.Size()}, nil
}

// Write implements vfs.File.
func (f *walFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.end += int64(n)
	return n, f.fs.check(err)
}

// Preallocate implements vfs.File. Pebble asks for the size of a memtable at
// once: on a small disk that alone would go through the reserve, and what the
// memtables hold has yet to be flushed, too.
func (f *walFile) Preallocate(offset, length int64) error {
	if f.fs.space.left() < f.fs.space.enough()+uint64(length)+memTables*memTableSize {
		return nil
	}
	err := f.File.Preallocate(offset, length)
	if err == nil {
		f.allocated = max(f.allocated, offset+length)
	}
	return err
}

// SyncData implements vfs.File.
func (f *walFile) SyncData() error {
	err := f.fs.check(f.File.SyncData())
	f.fill()
	return err
}

// fill writes zeros ahead if the group that was just synced was small and the
// next ones like it would come to the end of the file. An error costs speed only:
// nobody was told that the zeros are there.
func (f *walFile) fill() {
	group := f.end - f.synced
	f.synced = f.end
	f.filled = max(f.filled, f.end)
	if group > fillLimit || f.filled-f.end > fillLimit || f.filled+fillStep > f.allocated {
		return
	}
	for range fillStep / len(zeros) {
		n, err := f.WriteAt(zeros[:], f.filled)
		f.filled += int64(n)
		if err != nil {
			f.allocated = 0
			return
		}
	}
}

// Sync implements vfs.File.
func (f *walFile) Sync() error { return f.fs.check(f.File.Sync()) }

// SyncTo implements vfs.File.
func (f *walFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.check(err)
}

// Close implements vfs.File.
func (f *walFile) Close() error { return f.fs.check(f.File.Close()) }
