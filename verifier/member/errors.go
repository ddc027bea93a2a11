package member

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/printable"
)

// Code says why a membership proof was refused. The set is closed, and a code
// never changes its meaning. Codes are errors themselves, so that
// errors.Is(err, member.CodeChange) asks for one.
type Code string

// The codes, in the order of the steps.
const (
	CodeTrust      Code = "trust"      // the policy or the genesis cannot be used
	CodeFormat     Code = "format"     // not a membership proof, or malformed
	CodeVersion    Code = "version"    // another protocol version
	CodeOther      Code = "other"      // about another principal, epoch or cluster than asked for
	CodeCheckpoint Code = "checkpoint" // not acceptable under the policy
	CodeGenesis    Code = "genesis"    // the log does not begin with the pinned genesis
	CodeChange     Code = "change"     // the change is not in the log, or not the one of the epoch
	CodeLeaf       Code = "leaf"       // the leaves do not show what the file claims
	CodeHistory    Code = "history"    // a change given is not lawful, or they are not those of the checkpoint
	CodeLogKeys    Code = "log_keys"   // signed by a log or key that membership does not name
)

// Error returns the code as text.
func (c Code) Error() string { return "membership proof refused: " + string(c) }

var hints = map[Code]string{
	CodeTrust:      "check the policy and genesis files; get them again from the cluster's operators, not from its server",
	CodeFormat:     "this is no membership proof of this version, or a part of one; fetch it again",
	CodeVersion:    "use a release of tallystick that knows this protocol version",
	CodeOther:      "ask for the proof of the principal and epoch that you want to check",
	CodeCheckpoint: "check that the policy is that of this cluster's membership log; if it is, the proof is not backed by its witnesses",
	CodeGenesis:    "check that the genesis file is this cluster's; if it is, the log was forked or the proof forged: keep it as evidence",
	CodeChange:     "the membership shown is not the one that the witnesses saw; keep the proof as evidence",
	CodeLeaf:       "the proof was changed or forged; do not rely on it",
	CodeHistory:    "the changes given are not the membership log that the witnesses saw, or it is unlawful; keep them as evidence",
	CodeLogKeys:    "the policy accepts a log key that the cluster's members never named; compare it with the genesis",
}

// Error says why a membership proof was refused. errors.Is matches its Code
// and, where a package below found the fault, that package's error.
type Error struct {
	Code   Code
	Step   string // that failed
	Detail string // what was found; text of the file in it is made printable

	cause error
}

func (e *Error) Error() string { return fmt.Sprintf("step %q: %s: %s", e.Step, e.Code, e.Detail) }

// Unwrap lets errors.Is find the code and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.cause}
}

// Hint says what whoever holds the proof can do about it.
func (e *Error) Hint() string { return hints[e.Code] }

func refuse(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Detail: printable.Text(err.Error()), cause: errors.Unwrap(err)}
}
