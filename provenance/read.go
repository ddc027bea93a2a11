package provenance

import (
	"bytes"
	"errors"
	"fmt"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// ErrOpening says that an opening does not open the entry that it came with: it is
// of another entry, was altered, or is none.
var ErrOpening = errors.New("the opening does not open the entry")

// OpenEntry opens the entry of an audit log at an index with its opening. It
// returns the entry, and its record, nil if the bytes are none: such an entry
// has its place in the log and no effect. An opening that does not open the
// entry is an error, since nothing is known then of what the log says there.
//
// The entry is what the log committed to: that it stands at the index is for the
// caller to prove. The opening may come from anywhere.
func OpenEntry(index int64, entry, opening []byte) ([record.EntrySize]byte, *pb.Record, error) {
	o, err := record.ParseOpening(opening)
	if err != nil {
		return [record.EntrySize]byte{}, nil, fmt.Errorf("opening of audit entry %d: %w: %w", index, ErrOpening, err)
	}
	commitment := o.Entry()
	if !bytes.Equal(commitment[:], entry) {
		return [record.EntrySize]byte{}, nil, fmt.Errorf("opening of audit entry %d: %w", index, ErrOpening)
	}
	r, err := record.Parse(o.Record())
	if err != nil {
		r = nil
	}
	return commitment, r, nil
}

// Read folds the next entry of a log as its readers have it: the public entry
// and its opening. It is [OpenEntry] and [Fold.Apply] in one, and what a replica
// and an auditor call for every entry in turn. The record is nil if the bytes
// are none. After an error the fold stands where it stood.
//
// What the log said of every execution is in [Fold.Executions] afterwards.
func (f *Fold) Read(index int64, entry, opening []byte) (Effect, *pb.Record, error) {
	commitment, r, err := OpenEntry(index, entry, opening)
	if err != nil {
		return Effect{}, nil, err
	}
	return f.Apply(index, commitment, r), r, nil
}
