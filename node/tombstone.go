package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/internal/digest"
)

// A floor alone does not keep a node from signing twice: a control plane can
// append a submission again, above the floor. In the whole log that record is
// void, for the execution is known, but the records of an assignment do not show
// that. So the id of each execution whose attestation is removed stays behind, a
// tombstone, durable before the removal.
//
// A tombstone goes once no request of its execution can pass any more. A
// submission can be pinned up to its last_epoch. Let a later epoch be one that this
// node is in, whose record it has seen below the floor. A request below the floor
// is refused, and so is one above that record which pins an earlier epoch
// ([Node.checkEpochs]). This holds even if the record seen is not the first of its
// epoch, and the index that is kept only ever falls.
type tombstone struct {
	execution digest.Digest
	lastEpoch uint64
}

const (
	// removedName is the file of tombstones, each the id and last_epoch, big endian.
	removedName   = "removed"
	tombstoneSize = len(digest.Digest{}) + 8
	// maxTombstones bounds the file to 160 MiB, and what is in memory to a few
	// times that. While there are as many, attestations are kept instead.
	maxTombstones = 4 << 20
	// foreverPinned is the last epoch of a submission whose own is not known.
	foreverPinned = math.MaxUint64
)

// removedBefore reports whether an attestation of the execution was removed.
func (s *store) removedBefore(id digest.Digest) bool {
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	_, ok := s.removed[id]
	return ok
}

// readRemoved restores the tombstones. One that a crash cut off is dropped from
// the file: its attestation has not been removed.
func (s *store) readRemoved() error {
	data, err := s.read(removedName, int64(maxTombstones*tombstoneSize+tombstoneSize-1))
	if err != nil || data == nil {
		return err
	}
	whole := len(data) / tombstoneSize * tombstoneSize
	for b := data[:whole]; len(b) > 0; b = b[tombstoneSize:] {
		t := tombstone{digest.Digest(b[:tombstoneSize-8]), binary.BigEndian.Uint64(b[tombstoneSize-8:])}
		s.removed[t.execution] = t.lastEpoch
	}
	f, err := os.OpenFile(filepath.Join(s.dir, removedName), os.O_WRONLY, 0)
	if err != nil {
		return storeError(err)
	}
	if err := errors.Join(f.Truncate(int64(whole)), s.sync(f), f.Close()); err != nil {
		return storeError(fmt.Errorf("file %q: %w", removedName, err))
	}
	return nil
}

// room is how many more tombstones there may be.
func (s *store) room() int {
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	return max(0, s.maxRemoved-len(s.removed))
}

// bury makes tombstones durable, and only then lets them count.
func (s *store) bury(list []tombstone) error {
	var b []byte
	for _, t := range list {
		if !s.removedBefore(t.execution) { // else a crash came before the removal
			b = t.append(b)
		}
	}
	if err := s.extend(removedName, b); err != nil {
		return err
	}
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	for _, t := range list {
		s.removed[t.execution] = t.lastEpoch
	}
	return nil
}

func (t tombstone) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(append(b, t.execution[:]...), t.lastEpoch)
}

// unearth drops the tombstones of what could be pinned before an epoch only. It
// reads them all once for each epoch that passes.
func (s *store) unearth(epoch uint64) error {
	if epoch <= s.unearthed {
		return nil
	}
	s.shardMu.Lock()
	var b []byte
	var gone []digest.Digest
	for id, last := range s.removed {
		if last < epoch {
			gone = append(gone, id)
		} else {
			b = tombstone{id, last}.append(b)
		}
	}
	s.shardMu.Unlock()
	if len(gone) > 0 {
		if err := s.replace(removedName, b); err != nil {
			return err
		}
	}
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	for _, id := range gone {
		delete(s.removed, id)
	}
	s.unearthed = epoch
	return nil
}

// passed returns the newest epoch that the membership has reached and whose record
// was seen below an index of the audit log: no request from there on can pin an
// earlier one. 0 if there is none. The caller holds the view's turn.
func (v *view) passed(floor int64) uint64 {
	var newest uint64
	for epoch, index := range v.epochs {
		if index < floor && epoch <= v.history.Current().Epoch() {
			newest = max(newest, epoch)
		}
	}
	return newest
}
