package logserver

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The signed file repeats the size and root of the last signed head outside of
// Pebble, which cannot tell the rotten end of a write-ahead log from one that a
// power cut tore and opens a store that is older than it was. With the entries
// goes the signed head that would tell; the witnesses know what they cosigned,
// and where there are none, nobody does. So each head that the log key signs is
// written here before it leaves: a store that does not reach it has lost
// entries, and is suspended until it has caught up. Receipt heads, which may be
// signed with every commit group, are not covered until the next round.
//
// The file has two slots, written in turns and in place, so that a torn write
// leaves the older head. It is as trusted as the store. What it says was durable
// in the store before, so that no crash makes it say too much.
const (
	signedName = "SIGNED"
	// signedSlotSize is a page, the largest unit that disks and file systems are
	// known to tear or to lose as one.
	signedSlotSize = 4096
	signedSlots    = 2
	// signedSlotUsed bytes of a slot are a head as under metaHead and its digest.
	signedSlotUsed = 8 + HashSize + sha256.Size
)

// signedFile is owned by the goroutine that signs.
type signedFile struct {
	fs   vfs.FS
	path string
	last Head // of size 0 if there is no file
	slot int  // where last is
}

// readSignedFile reads the file of a store, if there is one.
func readSignedFile(fs vfs.FS, dir string) (*signedFile, error) {
	f := &signedFile{fs: fs, path: fs.PathJoin(dir, signedName)}
	b, err := readFileLimit(fs, f.path, signedSlots*signedSlotSize)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the size of the last signed head: %w", err)
	}
	valid := false
	for slot := range signedSlots {
		if head, ok := decodeSignedSlot(b[min(slot*signedSlotSize, len(b)):]); ok && head.Size >= f.last.Size {
			f.last, f.slot, valid = head, slot, true
		}
	}
	if !valid {
		return nil, corrupt("%q holds no head; delete it after \"logserver fsck\" has found nothing else", f.path)
	}
	return f, nil
}

func decodeSignedSlot(b []byte) (Head, bool) {
	if len(b) < signedSlotUsed {
		return Head{}, false
	}
	value := b[:8+HashSize]
	if signedDigest(value) != [sha256.Size]byte(b[len(value):signedSlotUsed]) {
		return Head{}, false
	}
	size, root, err := decodeHead(value)
	return Head{Size: size, Root: root}, err == nil
}

func encodeSignedSlot(h Head) []byte {
	value := encodeHead(h.Size, h.Root)
	digest := signedDigest(value)
	return append(value, digest[:]...)
}

// signedDigest tells a slot from bytes that are none, such as zeroes.
func signedDigest(value []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte("tallystick signed head\n"), value...))
}

// raise makes a head that is durable in the store the last signed one. After an
// error it is not known which one the file holds.
func (f *signedFile) raise(h Head) error {
	if h.Size <= f.last.Size {
		return nil // the same tree with other signatures
	}
	write := f.overwrite
	if f.last.Size == 0 {
		write = f.create
	}
	if err := write(h); err != nil {
		return fmt.Errorf("recording the size of the signed head in %q: %w", f.path, err)
	}
	f.last, f.slot = h, (f.slot+1)%signedSlots
	return nil
}

// create makes a file of full length, under its name once it is whole.
func (f *signedFile) create(h Head) error {
	b := make([]byte, signedSlots*signedSlotSize)
	copy(b[(f.slot+1)%signedSlots*signedSlotSize:], encodeSignedSlot(h))
	if err := writeFileSync(f.fs, f.path+".new", b); err != nil {
		return err
	}
	if err := f.fs.Rename(f.path+".new", f.path); err != nil {
		return err
	}
	return syncDir(f.fs, f.fs.PathDir(f.path))
}

// overwrite changes the slot that does not hold the last head. The length stays,
// so that one flush of the data makes it durable.
func (f *signedFile) overwrite(h Head) error {
	file, err := f.fs.OpenReadWrite(f.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(encodeSignedSlot(h), int64((f.slot+1)%signedSlots*signedSlotSize))
	return errors.Join(err, file.SyncData(), file.Close())
}

// reaches makes sure that a tree of the given size holds the last signed head.
func (f *signedFile) reaches(size int64) error {
	if f.last.Size > size {
		return fmt.Errorf("%w: it has lost entries: the log has signed a tree of size %d, in the store are %d; the disk has lost what it had made durable",
			ErrRestored, f.last.Size, size)
	}
	return nil
}

// checkIn makes sure that the last signed head is of this tree.
func (f *signedFile) checkIn(s snapshot) error {
	if f.last.Size == 0 || f.last.Size > s.size {
		return nil // suspended, see reaches
	}
	root, err := s.rootAt(f.last.Size)
	if err != nil {
		return err
	}
	if root != f.last.Root {
		return corrupt("the stored tree of size %d has root %v, the log has signed %v", f.last.Size, root, f.last.Root)
	}
	return nil
}
