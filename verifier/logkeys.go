package verifier

import (
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// logKey is a key of a log as membership names it.
type logKey struct {
	log          membership.LogName
	origin, vkey string
}

// logKeys are the keys that any epoch names: a log that changed its key or found
// a successor keeps what it signed before.
type logKeys map[logKey]bool

func knownKeys(history *membership.History) (logKeys, error) {
	known := logKeys{}
	for epoch := uint64(1); epoch <= history.Size(); epoch++ {
		state, err := history.StateAt(epoch)
		if err != nil {
			return nil, err
		}
		for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
			log := state.Logs().Named(name)
			for _, vkey := range log.Keys {
				known[logKey{name, log.Origin, vkey}] = true
			}
		}
	}
	return known, nil
}

// check checks that a checkpoint is signed by a key that both the policy and some
// epoch of the membership name for its log.
func (known logKeys) check(log membership.LogName, policy *checkpoint.Policy, signed []byte) *Error {
	origin, err := policy.Origin()
	if err != nil {
		return refuse(CodeTrust, "policy: %w", err)
	}
	var keys []note.Verifier
	for _, key := range policy.Logs() {
		if known[logKey{log, origin, key.Vkey}] {
			keys = append(keys, key.Key)
		}
	}
	if _, err := checkpoint.Open(signed, origin, keys); err != nil {
		return refuse(CodeLogKeys, "%s checkpoint of %q is not signed by a key that policy and membership both name: %w",
			log, origin, err)
	}
	return nil
}

// CheckLogKey checks that a checkpoint, which the policy accepts, is signed by a
// key that the membership names for the log too. The error is an [*Error].
func CheckLogKey(history *membership.History, log membership.LogName, policy *checkpoint.Policy, signed []byte) error {
	known, err := knownKeys(history)
	if err != nil {
		return refuse(CodeMembership, "%w", err)
	}
	if err := known.check(log, policy, signed); err != nil {
		return err
	}
	return nil
}
