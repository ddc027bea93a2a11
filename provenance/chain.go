package provenance

import (
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/record"
)

// A Link is one record of an execution's provenance chain.
type Link struct {
	Index int64       // of the record in the audit log
	Kind  record.Kind // of the record
	Hash  digest.Digest
}

// ChainStart is chain(0): the hash of an execution's chain before its first
// record.
func ChainStart(execution digest.Digest) digest.Digest {
	return digest.New("tallystick/v1/chain").Digest(execution).Sum()
}

// ChainNext is chain(i) from chain(i−1) and the i-th record's index, which must
// not be negative, and entry.
func ChainNext(previous digest.Digest, index int64, entry [record.EntrySize]byte) digest.Digest {
	return digest.New("tallystick/v1/chain-link").Digest(previous).Uint(uint64(index)).Digest(entry).Sum()
}

// ExecutionProof is the proof hash of a result: the same whenever the same
// execution has the same result under the same membership.
func ExecutionProof(execution, contractHash, input, schedule, result digest.Digest) digest.Digest {
	return digest.New("tallystick/v1/execution-proof").
		Digest(execution).Digest(contractHash).Digest(input).Digest(schedule).Digest(result).Sum()
}
