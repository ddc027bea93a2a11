package wholelog

import (
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// MaxVoids bounds the void records that are listed; all are counted. A control
// plane that writes them could fill the memory of whoever reads its log.
const MaxVoids = 1000

// Entry is an entry of an audit log as its readers have it.
type Entry struct {
	Data    []byte // what the log committed to
	Opening []byte // suspect
}

// Log is what a whole audit log says.
type Log struct {
	// Fold has the state of every execution. Nothing may be applied to it.
	Fold *provenance.Fold
	// Tree is that of all entries that were read.
	Tree tlog.Tree
	// Voids are the first MaxVoids records without effect. An honest control plane
	// writes none.
	Voids []Void
	// VoidCounts counts all of them by code; it is never nil.
	VoidCounts map[provenance.Code]int

	hashes hashes
}

// Void is a record without effect.
type Void struct {
	Index  int64           `json:"index"`
	Kind   record.Kind     `json:"kind"` // "" if the entry commits to no record
	Code   provenance.Code `json:"code"`
	Detail string          `json:"detail"`
}

// Read folds the entries of an audit log in order, from its first to the last that
// there is, under a membership that has at least the genesis. Progress, if it is
// not nil, is told the index of every entry once it is read. An error means that
// nothing is known of the log.
func Read(entries iter.Seq2[Entry, error], members *membership.History, progress func(index int64)) (*Log, error) {
	l := &Log{Fold: provenance.NewFold(members.Current().Cluster(), members), VoidCounts: map[provenance.Code]int{}}
	for entry, err := range entries {
		if err != nil {
			return nil, err
		}
		index := l.Fold.Size()
		effect, r, err := l.Fold.Read(index, entry.Data, entry.Opening)
		if err != nil {
			return nil, err
		}
		// The executions of that epoch and of later ones would be void, and so be
		// missing from the fold without a word.
		if effect.Code == provenance.CodeEpochUnknown {
			return nil, fmt.Errorf("%w: record %d: %s", ErrMembershipBehind, index, effect.Detail)
		}
		if effect.Void {
			l.VoidCounts[effect.Code]++
			if len(l.Voids) < MaxVoids {
				l.Voids = append(l.Voids, Void{index, record.KindOf(r), effect.Code, effect.Detail})
			}
		}
		if err := l.hashes.add(index, entry.Data); err != nil {
			return nil, err
		}
		if progress != nil {
			progress(index)
		}
	}
	l.Tree.N = l.Fold.Size()
	var err error
	l.Tree.Hash, err = l.Root(l.Tree.N)
	return l, err
}

// Root returns the root hash that the log had when it had size entries; the error
// is [ErrSize] if it was not read so far.
func (l *Log) Root(size int64) (tlog.Hash, error) {
	if size < 0 || size > l.Fold.Size() {
		return tlog.Hash{}, fmt.Errorf("%w: %d, of %d entries", ErrSize, size, l.Fold.Size())
	}
	return tlog.TreeHash(size, &l.hashes)
}

// hashes are those of a log's tree as tlog stores them: two for each entry, about.
type hashes struct{ stored []tlog.Hash }

func (h *hashes) add(index int64, entry []byte) error {
	more, err := tlog.StoredHashes(index, entry, h)
	h.stored = append(h.stored, more...)
	return err
}

// ReadHashes makes them a tlog.HashReader.
func (h *hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = h.stored[index]
	}
	return out, nil
}
