package provenance

import "github.com/tallystick/tallystick/internal/digest"

// An opinion is what attestations agree on: those with equal opinions form a
// set.
type opinion struct {
	result     digest.Digest
	checkpoint CheckpointRef // the request checkpoint
}

// verdict is what the attestations of an execution come to so far.
type verdict uint8

const (
	undecided  verdict = iota
	agreed             // some set has enough nodes and a strict majority
	impossible         // no set can ever have both
)

// ballot counts the nodes that attested to one execution. The zero value is an
// empty ballot.
type ballot struct {
	voices map[string]voice // by node id
}

// voice is what one node said.
type voice struct {
	opinion opinion
	void    bool // it said two different things: out of every set and count
}

// isNew reports whether an attestation by a node tells anything: it does not
// when the node is void already, or said the same before.
func (b *ballot) isNew(node string, o opinion) bool {
	v, heard := b.voices[node]
	return !heard || !v.void && v.opinion != o
}

// add counts an attestation that is new.
func (b *ballot) add(node string, o opinion) {
	if b.voices == nil {
		b.voices = map[string]voice{}
	}
	v, heard := b.voices[node]
	if !heard {
		v.opinion = o
	}
	v.void = heard
	b.voices[node] = v
}

// judge decides by the rules of docs/formats/execution.md, "The fold". ranks is
// how many nodes may ever be assigned, void nodes included. With agreed comes
// the opinion that won; there is at most one, since it has a strict majority.
func (b *ballot) judge(agreement, ranks int) (opinion, verdict) {
	sets := map[opinion]int{}
	attested := 0 // non-void nodes: m of the format
	for _, v := range b.voices {
		if !v.void {
			sets[v.opinion]++
			attested++
		}
	}
	largest := 0
	for o, n := range sets {
		if n >= agreement && 2*n > attested {
			return o, agreed
		}
		largest = max(largest, n)
	}
	// What the largest set cannot reach with every unheard node joining it, no
	// other set can, nor can the unheard nodes by themselves.
	unheard := ranks - len(b.voices)
	if largest+unheard < agreement || 2*(largest+unheard) <= attested+unheard {
		return opinion{}, impossible
	}
	return opinion{}, undecided
}
