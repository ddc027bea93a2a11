package sandbox

import (
	"crypto/sha256"
	"fmt"
	"time"
)

// A Kind is how a run ended. The set is closed; the values are those of the
// word in an outcome's text.
type Kind uint8

// The kinds of outcome. Only metered runs end with KindBudgetExhausted or
// KindStackExhausted.
const (
	KindOK              Kind = iota + 1 // _start returned, or exit code 0
	KindExit                            // proc_exit with a code other than 0
	KindTrap                            // a WebAssembly trap; which one is a diagnostic only
	KindBudgetExhausted                 // gas used up
	KindStackExhausted                  // frames used up
	KindOutputTooLarge                  // wrote more to standard output than the limit
)

var kindNames = [...]string{
	KindOK:              "ok",
	KindExit:            "exit",
	KindTrap:            "trap",
	KindBudgetExhausted: "budget_exhausted",
	KindStackExhausted:  "stack_exhausted",
	KindOutputTooLarge:  "output_too_large",
}

// String returns the kind's word, as records and statements spell it.
func (k Kind) String() string {
	if k.Valid() {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Valid reports whether k is one of the kinds above.
func (k Kind) Valid() bool { return k >= KindOK && int(k) < len(kindNames) }

// An Outcome is what every honest node finds for the same module and job. All
// fields are compared; two outcomes agree if they are equal after following
// the pointers.
type Outcome struct {
	Kind     Kind
	ExitCode uint32 // not 0 with KindExit, else 0
	// Gas is what the run used, the whole budget if it is exhausted; nil if
	// unmetered.
	Gas *uint64
	// PeakPages is the size of the memory at the end, its largest since it never shrinks, in pages of 64 KiB.
	PeakPages uint32
	// Output covers what was written to standard output, up to its limit: with
	// KindOutputTooLarge its length is exactly the limit.
	Output Digest
	// Diagnostics covers the kept bytes of standard error: its first
	// Limits.DiagnosticsBytes. What is dropped leaves no trace here.
	Diagnostics Digest
	// Memory is the SHA-256 of the whole final memory, if the job asked for it.
	Memory *[sha256.Size]byte
}

// A Digest is the length and SHA-256 of a byte string.
type Digest struct {
	Length int64
	SHA256 [sha256.Size]byte
}

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest {
	return Digest{Length: int64(len(b)), SHA256: sha256.Sum256(b)}
}

// String is one line with every field, equal exactly for equal outcomes.
func (o Outcome) String() string {
	s := o.Kind.String()
	if o.Kind == KindExit {
		s += fmt.Sprintf("(%d)", o.ExitCode)
	}
	if o.Gas != nil {
		s += fmt.Sprintf(" gas=%d", *o.Gas)
	}
	s += fmt.Sprintf(" pages=%d output=%d:%x diagnostics=%d:%x", o.PeakPages,
		o.Output.Length, o.Output.SHA256, o.Diagnostics.Length, o.Diagnostics.SHA256)
	if o.Memory != nil {
		s += fmt.Sprintf(" memory=%x", *o.Memory)
	}
	return s
}

// A Result is an outcome with the bytes it covers.
type Result struct {
	Outcome Outcome
	// RewrittenModule is the SHA-256 of the module as it ran; nil if unmetered.
	RewrittenModule *[sha256.Size]byte
	// Output and Diagnostics are what Outcome.Output and Outcome.Diagnostics digest.
	Output, Diagnostics []byte
	// Engine tells how the result was obtained. It is never compared or recorded
	// as part of the outcome.
	Engine EngineInfo
}

// EngineInfo describes the engine that made a result. Informational only.
type EngineInfo struct {
	Name    string // "wazero"
	Version string // of the engine's module
	Mode    string // "compiler" or "interpreter"
	GOARCH  string
	Trap    string // the engine's words for a trap, empty otherwise; untrusted text
	// WallTime is how long the guest ran; CompileTime how long this job waited
	// for its module to be compiled or loaded (0 if it was warm).
	WallTime, CompileTime time.Duration
}
