package member

import (
	"fmt"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Report says what was checked and what was found. It marshals to JSON; digests
// are lowercase hexadecimal, the root hash of the checkpoint is base64 as in the
// checkpoint itself.
type Report struct {
	Verified bool `json:"verified"`
	// Steps has one entry for each step that was begun, in order; the last one
	// has failed if Verified is false.
	Steps   []verifier.Step `json:"steps"`
	Failure *Failure        `json:"failure,omitempty"`

	// What follows is set as far as the steps came, and proven only if Verified.
	Cluster   string `json:"cluster,omitempty"`
	Principal string `json:"principal,omitempty"`
	Epoch     uint64 `json:"epoch,omitempty"`
	// Member is the verdict: true if the principal is a member at the epoch,
	// false if it is none.
	Member bool `json:"member"`
	// As is the principal as the epoch has it; nil if it is no member.
	As *membership.Principal `json:"as,omitempty"`
	// LastEpoch is the last epoch that the checkpoint covers.
	LastEpoch           uint64               `json:"last_epoch,omitempty"`
	MembershipHash      string               `json:"membership_hash,omitempty"`
	MembershipCount     uint64               `json:"membership_count,omitempty"`
	ClusterIdentityHash string               `json:"cluster_identity_hash,omitempty"`
	Checkpoint          *verifier.Checkpoint `json:"checkpoint,omitempty"`
	// Lawful says that every change was replayed from the genesis.
	Lawful bool `json:"lawful"`
	// Proven and NotProven say in words what the proof shows and what it leaves
	// to others.
	Proven    []string `json:"proven,omitempty"`
	NotProven []string `json:"not_proven,omitempty"`
}

// Failure is the error of a report, for JSON.
type Failure struct {
	Code   Code   `json:"code"`
	Step   string `json:"step"`
	Detail string `json:"detail"`
	Hint   string `json:"hint"`
}

func checkpointOf(v *checkpoint.Verified) *verifier.Checkpoint {
	c := &verifier.Checkpoint{Origin: v.Checkpoint.Origin, Size: v.Checkpoint.Size, RootHash: v.Checkpoint.Root.String()}
	for _, s := range v.Cosignatures {
		c.Cosignatures = append(c.Cosignatures, verifier.Cosignature(s))
	}
	return c
}

// conclude says what the steps amount to.
func (v *verification) conclude() {
	r := v.report
	r.Verified = true
	verdict := fmt.Sprintf("%q is a member of cluster %q at epoch %d, with the keys shown", r.Principal, r.Cluster, r.Epoch)
	if !r.Member {
		verdict = fmt.Sprintf("%q is no member of cluster %q at epoch %d", r.Principal, r.Cluster, r.Epoch)
	}
	r.Proven = []string{
		verdict,
		fmt.Sprintf("the change that makes epoch %d is in the membership log that the policy accepts, which begins with the pinned genesis", r.Epoch),
	}
	if r.Lawful {
		r.Proven = append(r.Proven, fmt.Sprintf("all %d changes are lawful: each is signed by as many admins as the one before asks for", r.LastEpoch))
	} else {
		r.NotProven = append(r.NotProven,
			"that the changes up to the epoch are lawful: that rests on a witness of the policy that checks it, or give the changes as well")
	}
	if !v.keyNamed && !r.Lawful {
		r.NotProven = append(r.NotProven,
			"that the admins named the log's origin and key: the genesis does not, so that rests on the policy, or give the changes as well")
	}
	current := "that a later epoch does not exist: the checkpoint ends with this one"
	if r.LastEpoch > r.Epoch {
		current = fmt.Sprintf("what became of the principal later: the log has at least %d epochs", r.LastEpoch)
	}
	r.NotProven = append(r.NotProven, current)
	if v.trust.Policy.QuorumNone() {
		r.NotProven = append(r.NotProven, "that everybody is shown the same log: the policy asks for no witness")
	}
}
