package witness

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// head is a cosigned checkpoint. It does not change once it is made; a nil *head
// is that of an origin that was never cosigned.
type head struct {
	checkpoint checkpoint.Checkpoint
	body       []byte // note text, extension lines included
	signed     []byte // with the log's signatures and the cosignatures
	// cosignatures are those that were given for this checkpoint, one of each key
	// at most, in the order of the witness's keys.
	cosignatures []cosignature
}

// cosignature is one of a head's. A zero one means that this key has not
// cosigned the checkpoint: nobody asked for it.
type cosignature struct {
	line      []byte // signature line with its newline, part of the head's signed
	timestamp int64  // POSIX seconds
}

// tree returns what the next checkpoint has to extend.
func (h *head) tree() tlog.Tree {
	if h == nil {
		return tlog.Tree{Hash: checkpoint.EmptyRoot}
	}
	return h.checkpoint.Tree()
}

// lines returns the cosignatures by some of the keys, given by their places, and
// whether all of them are there and have the given time.
func (h *head) lines(keys []int, timestamp int64) (lines []byte, all bool) {
	all = true
	for _, i := range keys {
		c := h.cosignatures[i]
		lines = append(lines, c.line...)
		all = all && c.line != nil && c.timestamp == timestamp
	}
	return lines, all
}

// newHead makes the head for a checkpoint that was checked. Signed is its note
// with signatures of the log only; keys are the places of the witness's keys
// that cosign it now. Those of the others stay if old is of the same text.
func (k *Keys) newHead(old *head, c checkpoint.Checkpoint, signed []byte, keys []int, now int64) (*head, error) {
	text := bytes.LastIndex(signed, []byte("\n\n"))
	h := &head{checkpoint: c, body: signed[:text+1], signed: bytes.Clone(signed), cosignatures: make([]cosignature, len(k.all()))}
	if old != nil && bytes.Equal(old.body, h.body) {
		copy(h.cosignatures, old.cosignatures)
	}
	for _, i := range keys {
		sig, err := k.all()[i].Cosign(h.body, now)
		if err != nil {
			return nil, err
		}
		h.cosignatures[i] = cosignature{line: sig.Line(), timestamp: now}
	}
	for i, c := range h.cosignatures {
		start := len(h.signed)
		h.signed = append(h.signed, c.line...)
		if c.line != nil {
			h.cosignatures[i].line = h.signed[start:]
		}
	}
	// The slices above may be of arrays that append has left behind; so may body.
	return h.own(), nil
}

// own makes all slices of h parts of signed, so that a head is one allocation.
func (h *head) own() *head {
	h.signed = bytes.Clone(h.signed)
	h.body = h.signed[:len(h.body):len(h.body)]
	for i, c := range h.cosignatures {
		if c.line != nil {
			at := bytes.LastIndex(h.signed, c.line)
			h.cosignatures[i].line = h.signed[at : at+len(c.line) : at+len(c.line)]
		}
	}
	return h
}

// parseHead reads a head. At least one of the witness's keys must have cosigned
// it, each at most once.
func parseHead(signed []byte, own []note.Verifier) (*head, error) {
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.ParseAny(n.Text)
	if err != nil {
		return nil, err
	}
	h := &head{checkpoint: c, body: n.Text, signed: signed, cosignatures: make([]cosignature, len(own))}
	cosigned := false
	for i, key := range own {
		sigs, err := n.Verified([]note.Verifier{key})
		if err != nil {
			return nil, err
		}
		if len(sigs) > 1 {
			return nil, fmt.Errorf("%d cosignatures by key %q, ID %08x", len(sigs), key.Name(), key.KeyHash())
		}
		for _, sig := range sigs {
			// A valid cosignature begins with its timestamp.
			h.cosignatures[i] = cosignature{line: sig.Line(), timestamp: int64(binary.BigEndian.Uint64(sig.Bytes))}
			cosigned = true
		}
	}
	if !cosigned {
		return nil, errors.New("no cosignature by this witness")
	}
	return h.own(), nil
}
