package membership

import (
	"bytes"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
)

const (
	// maxLeafData bounds leaf data in bytes: 8 keys with all uses, 16 labels and
	// every character escaped stay well below.
	maxLeafData = 8_192
	// maxProofHashes bounds an inclusion proof (docs/formats/README.md, "Limits").
	maxProofHashes = 64
)

// A Leaf is one principal with the proof that it is in a state. Received from
// others, all of it is untrusted until checked.
type Leaf struct {
	Index uint64   // place among the principals, ascending by id, from 0
	Data  []byte   // leaf data
	Proof [][]byte // RFC 6962 inclusion proof of the leaf
}

// ProveMember returns the proof that a principal is a member, for
// [CheckMember]. The error is ErrNotMember if it is not.
func (s *State) ProveMember(id string) (Leaf, error) {
	rank, ok := s.members.rank(id)
	if !ok {
		return Leaf{}, fmt.Errorf("%q at epoch %d: %w", id, s.epoch, ErrNotMember)
	}
	return s.prove(rank)
}

// ProveAbsent returns the proof that no principal has this id, for
// [CheckAbsent]: the leaves that would be its neighbours. The error is
// ErrIsMember if there is one.
func (s *State) ProveAbsent(id string) ([]Leaf, error) {
	if err := validateID("principal id", id); err != nil {
		return nil, err
	}
	rank, ok := s.members.rank(id)
	if ok {
		return nil, fmt.Errorf("%q at epoch %d: %w", id, s.epoch, ErrIsMember)
	}
	var leaves []Leaf
	for i := max(0, rank-1); i <= rank && i < s.members.len(); i++ {
		leaf, err := s.prove(i)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

func (s *State) prove(i int) (Leaf, error) {
	data, err := s.members.at(i).LeafData()
	if err != nil {
		return Leaf{}, err
	}
	hashes, err := s.tree().inclusion(uint64(i))
	if err != nil {
		return Leaf{}, err
	}
	return Leaf{Index: uint64(i), Data: data, Proof: hashes}, nil
}

// CheckMember checks that leaf shows the principal id as a member of the state
// with this membership hash and count, and returns it as that state has it.
// Both must come from a change or state that the caller trusts. Errors wrap
// [ErrProof].
func CheckMember(hash digest.Digest, count uint64, id string, leaf Leaf) (Principal, error) {
	p, err := leaf.open(hash, count)
	if err != nil {
		return Principal{}, err
	}
	if p.ID != id {
		return Principal{}, fmt.Errorf("%w: the leaf is of %q, want %q", ErrProof, p.ID, id)
	}
	return p, nil
}

// CheckAbsent checks that leaves show that no principal with this id is in the
// state with this membership hash and count. Both must come from a change or
// state that the caller trusts. Errors wrap [ErrProof].
func CheckAbsent(hash digest.Digest, count uint64, id string, leaves []Leaf) error {
	if err := validateID("principal id", id); err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	if count == 0 {
		if len(leaves) != 0 || hash != new(tree).root() {
			return fmt.Errorf("%w: not the proof of an empty state", ErrProof)
		}
		return nil
	}
	// Each leaf must be a neighbour of the gap where id would be.
	if len(leaves) < 1 || len(leaves) > 2 {
		return fmt.Errorf("%w: %d leaves, want the 1 or 2 neighbours", ErrProof, len(leaves))
	}
	ids := make([]string, len(leaves))
	for i, leaf := range leaves {
		p, err := leaf.open(hash, count)
		if err != nil {
			return err
		}
		ids[i] = p.ID
	}
	first, last := leaves[0], leaves[len(leaves)-1]
	var holds bool
	switch {
	case len(leaves) == 2:
		holds = last.Index == first.Index+1 && ids[0] < id && id < ids[1]
	case id < ids[0]:
		holds = first.Index == 0
	case ids[0] < id:
		holds = first.Index == count-1
	}
	if !holds {
		return fmt.Errorf("%w: the leaves %q do not enclose %q", ErrProof, ids, id)
	}
	return nil
}

// open checks the inclusion of a leaf and reads its data.
func (l Leaf) open(hash digest.Digest, count uint64) (Principal, error) {
	if l.Index >= count || len(l.Proof) > maxProofHashes {
		return Principal{}, fmt.Errorf("%w: index %d of %d with %d hashes", ErrProof, l.Index, count, len(l.Proof))
	}
	for _, h := range l.Proof {
		if len(h) != digest.Size {
			return Principal{}, fmt.Errorf("%w: a hash of %d bytes", ErrProof, len(h))
		}
	}
	leaf := hashLeaf(l.Data)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, l.Index, count, leaf[:], l.Proof, hash[:]); err != nil {
		return Principal{}, fmt.Errorf("%w: leaf %d: %w", ErrProof, l.Index, err)
	}
	// The hash vouches for the data only as far as its maker was lawful.
	var p Principal
	if err := strictjson.Unmarshal(l.Data, &p, maxLeafData); err != nil {
		return Principal{}, fmt.Errorf("%w: leaf data: %w", ErrProof, err)
	}
	canonical, err := p.LeafData()
	if err != nil {
		return Principal{}, fmt.Errorf("%w: leaf data: %w", ErrProof, err)
	}
	if !bytes.Equal(canonical, l.Data) {
		return Principal{}, fmt.Errorf("%w: leaf data is not in canonical form", ErrProof)
	}
	return p, nil
}
