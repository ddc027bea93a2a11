package contract

import (
	"math"

	"github.com/tallystick/tallystick/internal/digest"
)

// OutcomeKind is how a run ended. The set is closed.
type OutcomeKind string

// The kinds of outcome. A run that was stopped from outside or met a fault of
// the engine has no outcome at all.
const (
	OutcomeOK              OutcomeKind = "ok"               // returned, or exit code 0
	OutcomeExit            OutcomeKind = "exit"             // exit code other than 0
	OutcomeTrap            OutcomeKind = "trap"             // a WebAssembly trap
	OutcomeBudgetExhausted OutcomeKind = "budget_exhausted" // gas used up
	OutcomeStackExhausted  OutcomeKind = "stack_exhausted"  // frames used up
	OutcomeOutputTooLarge  OutcomeKind = "output_too_large" // wrote more to standard output than the limit
)

// Valid reports whether k is one of the kinds above.
func (k OutcomeKind) Valid() bool {
	switch k {
	case OutcomeOK, OutcomeExit, OutcomeTrap, OutcomeBudgetExhausted, OutcomeStackExhausted, OutcomeOutputTooLarge:
		return true
	}
	return false
}

// An Outcome is what every honest node finds for the same contract and input
// (docs/formats/execution.md, "Outcome and result digest"). It is the member
// "outcome" of an attestation's statement. Lengths are in bytes.
type Outcome struct {
	DiagnosticsDigest digest.Digest  `json:"diagnostics_digest"` // of the bytes kept of standard error
	DiagnosticsLength uint64         `json:"diagnostics_length"`
	ExitCode          uint64         `json:"exit_code,omitempty"` // 1 to 2^32 − 1 with OutcomeExit, else 0
	Gas               *uint64        `json:"gas,omitempty"`       // absent with rewriter 0
	Kind              OutcomeKind    `json:"kind"`
	MemoryDigest      *digest.Digest `json:"memory_digest,omitempty"` // of the whole final memory, if asked for
	OutputDigest      digest.Digest  `json:"output_digest"`           // of standard output, up to the limit
	OutputLength      uint64         `json:"output_length"`
	PeakPages         uint64         `json:"peak_pages"` // memory at the end, in pages of 64 KiB
}

// emptyDigest is the digest of nothing, and of nothing else.
var emptyDigest = digest.Of(nil)

// Validate checks what an outcome must hold whatever the contract. The error is
// a [*RefusalError] with code [RefusedOutcome].
func (o Outcome) Validate() error {
	switch {
	case !o.Kind.Valid():
		return refuse(RefusedOutcome, "unknown kind %q", o.Kind)
	case o.Kind == OutcomeExit && (o.ExitCode < 1 || o.ExitCode > math.MaxUint32):
		return refuse(RefusedOutcome, "exit code is %d, want 1 to 2^32 - 1 for kind \"exit\"", o.ExitCode)
	case o.Kind != OutcomeExit && o.ExitCode != 0:
		return refuse(RefusedOutcome, "exit code %d with kind %q, which has none", o.ExitCode, o.Kind)
	case o.Gas == nil && (o.Kind == OutcomeBudgetExhausted || o.Kind == OutcomeStackExhausted):
		return refuse(RefusedOutcome, "kind %q without gas: only metered runs end so", o.Kind)
	case o.Gas != nil && *o.Gas > maxInteger, o.OutputLength > maxInteger, o.DiagnosticsLength > maxInteger:
		return refuse(RefusedOutcome, "gas or length above 2^53 - 1")
	case o.PeakPages > MaxMemoryPages:
		return refuse(RefusedOutcome, "peak of %d pages, want at most %d", o.PeakPages, MaxMemoryPages)
	case (o.OutputLength == 0) != (o.OutputDigest == emptyDigest):
		return refuse(RefusedOutcome, "output of %d bytes with digest %s", o.OutputLength, o.OutputDigest)
	case (o.DiagnosticsLength == 0) != (o.DiagnosticsDigest == emptyDigest):
		return refuse(RefusedOutcome, "diagnostics of %d bytes with digest %s", o.DiagnosticsLength, o.DiagnosticsDigest)
	}
	return nil
}

// ResultDigest is the hash that attestations agree on. It binds every field.
func (o Outcome) ResultDigest() digest.Digest {
	var exit *uint64
	if o.Kind == OutcomeExit {
		exit = &o.ExitCode
	}
	return digest.New("tallystick/v1/result").
		Text(string(o.Kind)).
		OptionalUint(exit).
		OptionalUint(o.Gas).
		Uint(o.PeakPages).
		Uint(o.OutputLength).
		Digest(o.OutputDigest).
		Uint(o.DiagnosticsLength).
		Digest(o.DiagnosticsDigest).
		OptionalDigest(o.MemoryDigest).
		Sum()
}

// CheckOutcome reports whether o is an outcome that a run under c can have:
// valid, metered exactly if the contract is, and within the contract's limits.
// Errors are [*RefusalError] with code [RefusedOutcome].
func (c *Contract) CheckOutcome(o Outcome) error {
	if err := o.Validate(); err != nil {
		return err
	}
	l := c.Limits
	switch {
	case (o.Gas != nil) != (c.Versions.Rewriter >= 1):
		return refuse(RefusedOutcome, "gas is present: %t, with rewriter %d", o.Gas != nil, c.Versions.Rewriter)
	case o.Gas != nil && *o.Gas > l.Gas:
		return refuse(RefusedOutcome, "gas %d, the limit is %d", *o.Gas, l.Gas)
	case o.OutputLength > l.OutputBytes:
		return refuse(RefusedOutcome, "output of %d bytes, the limit is %d", o.OutputLength, l.OutputBytes)
	case o.Kind == OutcomeOutputTooLarge && o.OutputLength != l.OutputBytes:
		return refuse(RefusedOutcome, "kind %q with an output of %d bytes, want the limit of %d", o.Kind, o.OutputLength, l.OutputBytes)
	case o.DiagnosticsLength > l.DiagnosticsBytes:
		return refuse(RefusedOutcome, "diagnostics of %d bytes, the limit is %d", o.DiagnosticsLength, l.DiagnosticsBytes)
	case o.PeakPages > l.MemoryPages:
		return refuse(RefusedOutcome, "peak of %d pages, the limit is %d", o.PeakPages, l.MemoryPages)
	}
	return nil
}
