package membership

import (
	"errors"
	"fmt"
)

// A RefusalCode names the rule that a change breaks. The set is closed, and a
// code never changes its meaning. Codes are errors themselves, so that
// errors.Is(err, membership.RefusedReplay) asks for one.
type RefusalCode string

// The rules, in the order in which they are checked.
const (
	RefusedEnvelope         RefusalCode = "envelope"          // not a well-formed envelope of type PayloadType
	RefusedSyntax           RefusalCode = "syntax"            // not strict JSON of the documented members
	RefusedVersion          RefusalCode = "protocol_version"  // made under, or leading to, a version this program does not know
	RefusedValue            RefusalCode = "value"             // a member's value breaks its own rule
	RefusedCluster          RefusalCode = "cluster"           // for another cluster
	RefusedGenesis          RefusalCode = "genesis"           // a genesis that is not first, or a first change that is no genesis
	RefusedReplay           RefusalCode = "replay"            // makes an epoch that exists already: replayed or stale
	RefusedGap              RefusalCode = "gap"               // makes an epoch beyond the next
	RefusedPrevious         RefusalCode = "previous"          // follows another change than the last one
	RefusedExists           RefusalCode = "exists"            // the id is a member already
	RefusedKeyExists        RefusalCode = "key_exists"        // the public key is in the state already
	RefusedUnknownPrincipal RefusalCode = "unknown_principal" // the id is no member
	RefusedUnknownKey       RefusalCode = "unknown_key"       // the principal does not hold the key
	RefusedKind             RefusalCode = "kind"              // the principal's kind does not allow it
	RefusedKeyCount         RefusalCode = "key_count"         // the principal would have no key, or more than MaxKeys
	RefusedFull             RefusalCode = "full"              // the state would have more than MaxPrincipals
	RefusedCheckpoint       RefusalCode = "checkpoint"        // not a signed checkpoint of the log that is succeeded
	RefusedQuorum           RefusalCode = "quorum"            // the node quorum would be set above the number of nodes
	RefusedLockOut          RefusalCode = "lock_out"          // fewer admins could sign than the threshold asks for
	RefusedSigner           RefusalCode = "signer"            // a signature by a key that has no part in it
	RefusedSignature        RefusalCode = "signature"         // a signature that does not verify
	RefusedPossession       RefusalCode = "possession"        // an added key has not signed
	RefusedThreshold        RefusalCode = "threshold"         // too few admins have signed
	RefusedNoChange         RefusalCode = "no_change"         // the state would stay as it is
	RefusedHash             RefusalCode = "hash"              // count or a hash differs from the state it makes
)

// Error returns the code as text.
func (c RefusalCode) Error() string { return "change refused: " + string(c) }

// hints say what whoever hands in the change can do about it.
var hints = map[RefusalCode]string{
	RefusedEnvelope:         "hand in the envelope file exactly as the last signer left it",
	RefusedSyntax:           "propose the change again with a current tool; do not edit payloads by hand",
	RefusedVersion:          "use a release that knows this protocol version",
	RefusedValue:            "correct the value and propose again",
	RefusedCluster:          "hand it in to the cluster that it names",
	RefusedGenesis:          "a cluster has one genesis, its first entry; start a new cluster for another",
	RefusedReplay:           "propose again on the current epoch and have it signed again",
	RefusedGap:              "load the changes that are missing first",
	RefusedPrevious:         "propose again on the current epoch; if nobody else made a change, compare the log with a witness",
	RefusedExists:           "choose another id, or remove the principal first",
	RefusedKeyExists:        "make a new key; a key belongs to one principal and is never listed twice",
	RefusedUnknownPrincipal: "check the id against the list of members",
	RefusedUnknownKey:       "check the key id against the principal's keys",
	RefusedKind:             "check the principal's kind",
	RefusedKeyCount:         "rotate instead of removing the last key, or remove the principal; remove a key before adding one too many",
	RefusedFull:             "remove principals that are gone first",
	RefusedCheckpoint:       "take the last cosigned checkpoint of the old log, verbatim",
	RefusedQuorum:           "add the nodes first, then raise the quorum",
	RefusedLockOut:          "lower the threshold, or add an admin, first",
	RefusedNoChange:         "nothing needs to be done",
	RefusedHash:             "propose again; the payload was made for another state",
	RefusedSigner:           "have it signed only by current admins and the keys it adds",
	RefusedSignature:        "have the key sign this very payload again",
	RefusedPossession:       "have the holder of the added key sign too",
	RefusedThreshold:        "collect signatures of more admins",
}

// Hint says what to do about a refusal with this code.
func (c RefusalCode) Hint() string { return hints[c] }

// A RefusalError says which rule was broken and how. It depends on nothing but
// the state and the bytes handed in. errors.Is matches its code.
type RefusalError struct {
	Code   RefusalCode
	Detail string // for people; untrusted text in it is quoted
	Cause  error  // what a parser found, if one did
}

// Error returns code, detail and what to do, in one line.
func (e *RefusalError) Error() string {
	return fmt.Sprintf("change refused (%s): %s; %s", string(e.Code), e.Detail, e.Code.Hint())
}

// Unwrap lets errors.Is find the code and the cause.
func (e *RefusalError) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Cause}
}

func refuse(code RefusalCode, format string, args ...any) error {
	return &RefusalError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func refuseCause(code RefusalCode, cause error) error {
	return &RefusalError{Code: code, Detail: cause.Error(), Cause: cause}
}

var (
	// ErrProof says that a membership proof does not show what it is said to.
	ErrProof = errors.New("membership proof does not hold")
	// ErrNotMember says that a principal is not in the state.
	ErrNotMember = errors.New("not a member")
	// ErrIsMember says that absence cannot be proven of a member.
	ErrIsMember = errors.New("is a member")
	// ErrUnknownEpoch says that a history does not reach an epoch or index.
	ErrUnknownEpoch = errors.New("epoch is not in the history; load the membership log up to it")
	// ErrScheduleRequest says that the figures of a request do not fit each other.
	ErrScheduleRequest = errors.New("nodes, step and max_assigned do not fit each other")
	// ErrTooFewEligible says that a request asks for more nodes than are eligible.
	ErrTooFewEligible = errors.New("too few eligible nodes; add nodes, or ask for fewer or for fewer constraints")
)
