package checkpoint

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/internal/edkey"
)

// The outcomes of this package. Every error that it returns matches exactly one
// of them with [errors.Is].
var (
	// ErrMalformed: the bytes are not in the form that the specification gives.
	ErrMalformed = errors.New("malformed")
	// ErrTooLarge: the bytes are longer than the bound for their kind.
	ErrTooLarge = errors.New("too large")
	// ErrExtension: the checkpoint has extension lines, which logs of this
	// project never write. Use ParseAny to read those of other logs.
	ErrExtension = errors.New("checkpoint has extension lines")
	// ErrKey: a verifier key or private key is malformed or of a signature type
	// that does not belong where it was found.
	ErrKey = edkey.ErrKey
	// ErrSigning: a signer returned an error or a signature that its own public
	// key does not verify.
	ErrSigning = errors.New("signing")

	// ErrOrigin: the checkpoint is of another log than the expected ones.
	ErrOrigin = errors.New("checkpoint of another origin")
	// ErrLogSignature: no known key of the log signed the checkpoint, or a
	// signature that names such a key does not verify.
	ErrLogSignature = errors.New("log signature")
	// ErrCosignature: a signature that names a known witness key does not verify.
	ErrCosignature = errors.New("witness cosignature")
	// ErrQuorum: the cosignatures do not satisfy the policy's quorum. The error
	// is a *QuorumError.
	ErrQuorum = errors.New("witness quorum not reached")
	// ErrStale: the quorum is reached, but not by cosignatures that are recent
	// enough. The error is a *QuorumError.
	ErrStale = errors.New("witness quorum not fresh")

	// ErrPolicy: the policy file is not valid. The error is a *PolicyError.
	ErrPolicy = errors.New("invalid policy")
	// ErrManyOrigins: the policy names no log or logs of several origins where
	// exactly one origin is needed.
	ErrManyOrigins = errors.New("policy does not name exactly one origin")

	// ErrProof: an inclusion or consistency proof does not prove its claim.
	ErrProof = errors.New("merkle proof does not verify")
)

// malformed says what about the input is not as specified.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// unusable says why a key cannot be used.
func unusable(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrKey, fmt.Sprintf(format, args...))
}

// QuorumError says which witnesses of a policy were counted when its quorum was
// not reached. It matches ErrQuorum, or ErrStale if cosignatures that are too
// old or in the future would have made up the difference.
type QuorumError struct {
	Quorum string   // the name on the policy's quorum line
	Have   []string // names of the witnesses that were counted, in policy order
	Stale  []string // names of those whose cosignature is valid but not fresh
}

// Error says which witnesses were counted, and which are not fresh.
func (e *QuorumError) Error() string {
	if len(e.Stale) > 0 {
		return fmt.Sprintf("%v: quorum %q has fresh cosignatures of %s, and old or future ones of %s",
			ErrStale, e.Quorum, list(e.Have), list(e.Stale))
	}
	return fmt.Sprintf("%v: quorum %q has cosignatures of %s", ErrQuorum, e.Quorum, list(e.Have))
}

// Unwrap returns ErrStale or ErrQuorum.
func (e *QuorumError) Unwrap() error {
	if len(e.Stale) > 0 {
		return ErrStale
	}
	return ErrQuorum
}

// list formats witness names for an error message.
func list(names []string) string {
	if len(names) == 0 {
		return "no witness"
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(quoted, ", ")
}

// PolicyError names the line of a policy file that is not valid.
type PolicyError struct {
	Line   int // counted from 1; 0 if the file as a whole is at fault
	Reason string
}

// Error returns the line and what is wrong with it.
func (e *PolicyError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%v: %s", ErrPolicy, e.Reason)
	}
	return fmt.Sprintf("%v: line %d: %s", ErrPolicy, e.Line, e.Reason)
}

// Unwrap returns ErrPolicy.
func (e *PolicyError) Unwrap() error { return ErrPolicy }
