package testcluster

import "github.com/tallystick/tallystick/membership"

// MemberProof returns the proof that a principal is a member at an epoch, or is
// not, against the checkpoint of the membership log at a size.
func (c *Cluster) MemberProof(id string, epoch uint64, size int64) *membership.ProofFile {
	c.t.Helper()
	state, err := c.History.StateAt(epoch)
	c.must(err)
	p := &membership.ProofFile{
		Principal:    id,
		Epoch:        epoch,
		Change:       c.Membership.Entries[epoch-1],
		ChangeProof:  c.Membership.Inclusion(int64(epoch)-1, size),
		GenesisProof: c.Membership.Inclusion(0, size),
		Checkpoint:   c.Membership.Signed(size),
	}
	if _, p.Member = state.Principal(id); p.Member {
		leaf, err := state.ProveMember(id)
		c.must(err)
		p.Leaves = []membership.Leaf{leaf}
		return p
	}
	p.Leaves, err = state.ProveAbsent(id)
	c.must(err)
	return p
}
