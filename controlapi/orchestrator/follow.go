package orchestrator

import (
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// followAudit raises the published size with every witnessed checkpoint of the
// audit log. A log that fails open may publish what the policy does not accept:
// nothing is built on that.
func (o *Orchestrator) followAudit() {
	o.follow(o.cfg.Audit, o.cfg.AuditPolicy, o.published.raise)
}

// followMembership tells those who wait for a membership checkpoint.
func (o *Orchestrator) followMembership() {
	o.follow(o.cfg.Membership, o.cfg.MembershipPolicy, func(int64) {})
}

// follow calls witnessed with the size of each published checkpoint that
// satisfies the policy, ascending, until the orchestrator is closed.
func (o *Orchestrator) follow(log Log, policy *checkpoint.Policy, witnessed func(size int64)) {
	for seen := int64(0); ; {
		signed, err := log.WaitPublished(o.ctx, seen+1)
		if o.ctx.Err() != nil {
			return
		}
		if err != nil {
			o.fail(err)
			return
		}
		c, err := readCheckpoint(signed)
		if err != nil {
			o.fail(err)
			return
		}
		seen = c.Size
		if _, err := policy.Verify(signed); err != nil {
			o.log.Warn("published checkpoint does not satisfy the policy", "origin", c.Origin, "size", c.Size, "err", err)
			continue
		}
		witnessed(c.Size)
		o.news.ring()
	}
}

// readCheckpoint reads the text of a signed note from one of our own logs.
func readCheckpoint(signed []byte) (checkpoint.Checkpoint, error) {
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return checkpoint.Parse(n.Text)
}
