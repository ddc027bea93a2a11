package orchestrator

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// The two policies and the keys that the logs sign with are configured beside
// the membership, which has the last word on both: origins and keys of the
// cluster's logs are those that genesis or a later lawful change names. What is
// checked here keeps an operator from finding that out from nodes and verifiers
// that refuse everything; those check it for themselves.

// checkLogs compares policies and signing keys with the membership, whose
// current state is s.
func (o *Orchestrator) checkLogs(s *membership.State) error {
	for name, policy := range map[membership.LogName]*checkpoint.Policy{
		membership.LogAudit: o.cfg.AuditPolicy, membership.LogMembership: o.cfg.MembershipPolicy,
	} {
		log := s.Logs().Named(name)
		origin, err := policy.Origin()
		if err != nil {
			return fmt.Errorf("%s policy: %w", name, err)
		}
		if origin != log.Origin {
			return fmt.Errorf("%s policy is about %q, the cluster's log is %q", name, origin, log.Origin)
		}
		named, err := o.everNamed(name, s)
		if err != nil {
			return err
		}
		for _, l := range policy.Logs() {
			if !slices.Contains(named, l.Vkey) {
				return fmt.Errorf("%s policy accepts the log key %q, which no change of the membership has named: take its line out, or have the admins name it first (tally member propose log-keys)", name, l.Vkey)
			}
		}
		if err := o.checkSigning(name, log); err != nil {
			return err
		}
	}
	return nil
}

// everNamed returns the keys that any epoch up to that of s named for a log.
// What a key signed before it was replaced remains good, so a policy may keep it.
func (o *Orchestrator) everNamed(name membership.LogName, s *membership.State) ([]string, error) {
	keys := slices.Clone(s.Logs().Named(name).Keys)
	for epoch := uint64(1); epoch < s.Epoch(); epoch++ {
		past, err := o.history.StateAt(epoch)
		if err != nil {
			return nil, err
		}
		if log := past.Logs().Named(name); log.Origin == s.Logs().Named(name).Origin {
			keys = append(keys, log.Keys...)
		}
	}
	return keys, nil
}

// checkSigning makes sure that one of the keys which sign for a log is one that
// the membership names for it.
func (o *Orchestrator) checkSigning(name membership.LogName, log membership.Log) error {
	signing := o.cfg.SigningKeys[name]
	if len(signing) == 0 || slices.ContainsFunc(signing, func(vkey string) bool { return slices.Contains(log.Keys, vkey) }) {
		return nil
	}
	return fmt.Errorf("the %s log signs with %s, and the membership names %s for it: nobody would accept its checkpoints",
		name, strings.Join(signing, " and "), strings.Join(log.Keys, " and "))
}

// keepsLogKeys refuses a change after which no key that signs for one of the
// logs is named any more: the key has to be rotated first.
func (o *Orchestrator) keepsLogKeys(after *membership.State) error {
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		if err := o.checkSigning(name, after.Logs().Named(name)); err != nil {
			return refuseCause(CodeChange, err, "%v: begin the rotation of the log's key first, or name both keys", err)
		}
	}
	return nil
}
