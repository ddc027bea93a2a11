package client

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// ErrReceipt says that a receipt does not bind the log. Whoever got one has no
// evidence that the operation was recorded: submit again, and keep the answer.
var ErrReceipt = errors.New("client: the receipt does not bind the log")

// VerifyReceipt checks that a receipt binds the log to the record that it
// opens, and returns the record. The log is the one that the user's own genesis
// names. The receipt is not proof that anybody else sees the same log: that is
// what the witnessed checkpoint adds.
func VerifyReceipt(log membership.Log, r *pb.Receipt) (*pb.Record, error) {
	opening, err := record.ParseOpening(r.GetOpening())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	rec, err := record.Parse(opening.Record())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	var keys []note.Verifier
	for _, vkey := range log.ReceiptKeys {
		key, err := checkpoint.ParseVkey(vkey)
		if err != nil {
			return nil, fmt.Errorf("receipt key of the genesis: %w", err)
		}
		keys = append(keys, key)
	}
	head, err := checkpoint.Open(r.Head, log.Origin, keys)
	if err != nil {
		return nil, fmt.Errorf("%w: head: %w", ErrReceipt, err)
	}
	if len(r.InclusionProof) > checkpoint.MaxInclusionHashes {
		return nil, fmt.Errorf("%w: %d hashes in the inclusion proof", ErrReceipt, len(r.InclusionProof))
	}
	proof := make([]tlog.Hash, len(r.InclusionProof))
	for i, h := range r.InclusionProof {
		if len(h) != tlog.HashSize {
			return nil, fmt.Errorf("%w: hash %d of the inclusion proof has %d bytes", ErrReceipt, i, len(h))
		}
		proof[i] = tlog.Hash(h)
	}
	if r.Index >= uint64(head.Size) {
		return nil, fmt.Errorf("%w: index %d is not in a tree of size %d", ErrReceipt, r.Index, head.Size)
	}
	entry := opening.Entry()
	if err := checkpoint.VerifyInclusion(head.Tree(), int64(r.Index), tlog.RecordHash(entry[:]), proof); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	return rec, nil
}
