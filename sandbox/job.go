package sandbox

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"
)

// The most this package takes, whatever a contract says.
const (
	// MaxModuleBytes bounds a module: a Go command is 2 to 6 MB.
	MaxModuleBytes = 16 << 20
	// MaxMemoryPages bounds the memory limit (256 MiB). A worker's own memory
	// limit must leave room for two copies of the largest memory.
	MaxMemoryPages = 4096
	// MaxInputBytes and MaxOutputBytes bound what travels through a worker's
	// pipe in one frame.
	MaxInputBytes  = 16 << 20
	MaxOutputBytes = 16 << 20
	// MaxDiagnosticsBytes bounds what is kept of standard error.
	MaxDiagnosticsBytes = 1 << 20
	// MaxStrings bounds the arguments, and the environment variables, by number;
	// MaxStringBytes bounds the bytes of either list, with terminators.
	MaxStrings     = 256
	MaxStringBytes = 64 << 10
	// MaxGas bounds the gas limit: the largest integer of a contract.
	MaxGas = 1<<53 - 1
	// MaxFrames bounds the limit of nested calls, so that no guest can use up the
	// native stack of the engine: the interpreter's has room for 2,000.
	MaxFrames = 1000
)

// Limits bounds a run. All but WallClock are part of the contract and decide
// the outcome.
type Limits struct {
	// MemoryPages is the most memory, in pages of 64 KiB, 1 to MaxMemoryPages.
	// Growing beyond it fails inside the guest; it is no outcome of its own. A
	// module that declares a smaller maximum keeps it.
	MemoryPages uint32
	// Gas is the budget in units of the cost table, 1 to MaxGas, and Frames the
	// most calls nested in each other, 1 to MaxFrames. Both 0 means that the
	// module runs as it is, unmetered (rewriter version 0, for development).
	Gas, Frames uint64
	// InputBytes, OutputBytes and DiagnosticsBytes are 0 to the Max constants.
	InputBytes, OutputBytes, DiagnosticsBytes int64
	// WallClock is this machine's guard against a run that does not end; 0 means
	// DefaultWallClock. When it passes the run is ErrStopped.
	WallClock time.Duration
}

// DefaultWallClock guards a run whose limits name no guard.
const DefaultWallClock = 30 * time.Second

// DefaultLimits is what a contract gets that names none: 10^9 units of gas,
// which is 0.1 to 0.6 s, 1,000 frames, 64 MiB of memory, 4 MiB of input, 1 MiB
// of output, 64 KiB of diagnostics.
func DefaultLimits() Limits {
	return Limits{Gas: 1_000_000_000, Frames: MaxFrames, MemoryPages: 1024,
		InputBytes: 4 << 20, OutputBytes: 1 << 20, DiagnosticsBytes: 64 << 10}
}

// metered reports whether modules are rewritten before they run.
func (l *Limits) metered() bool { return l.Gas != 0 }

func (l *Limits) check() error {
	switch {
	case (l.Gas == 0) != (l.Frames == 0):
		return invalidJob("gas limit of %d with a limit of %d frames; metered runs need both, unmetered ones have neither", l.Gas, l.Frames)
	case l.Gas > MaxGas:
		return invalidJob("gas limit of %d is not in 1 to %d", l.Gas, uint64(MaxGas))
	case l.Frames > MaxFrames:
		return invalidJob("limit of %d frames is not in 1 to %d", l.Frames, MaxFrames)
	case l.MemoryPages == 0 || l.MemoryPages > MaxMemoryPages:
		return invalidJob("memory limit of %d pages is not in 1 to %d", l.MemoryPages, MaxMemoryPages)
	case l.InputBytes < 0 || l.InputBytes > MaxInputBytes:
		return invalidJob("input limit of %d bytes is not in 0 to %d", l.InputBytes, MaxInputBytes)
	case l.OutputBytes < 0 || l.OutputBytes > MaxOutputBytes:
		return invalidJob("output limit of %d bytes is not in 0 to %d", l.OutputBytes, MaxOutputBytes)
	case l.DiagnosticsBytes < 0 || l.DiagnosticsBytes > MaxDiagnosticsBytes:
		return invalidJob("diagnostics limit of %d bytes is not in 0 to %d", l.DiagnosticsBytes, MaxDiagnosticsBytes)
	case l.WallClock < 0:
		return invalidJob("wall-clock guard of %v is negative", l.WallClock)
	}
	return nil
}

func (l Limits) wallClock() time.Duration {
	if l.WallClock == 0 {
		return DefaultWallClock
	}
	return l.WallClock
}

// A Job is one application of a module to an input. The sandbox does not
// change or keep the slices.
type Job struct {
	// Tenant is whose job it is. A [Pool] has no worker answer jobs of two tenants;
	// nothing else depends on it.
	Tenant string
	// ModuleDigest is the SHA-256 of the module, and decides what runs. Module is
	// the WebAssembly binary; it is checked against the digest when it is compiled
	// and not looked at while its compiled form is warm.
	Module       []byte
	ModuleDigest [sha256.Size]byte
	Input        []byte // standard input
	// Args is the whole argument vector, program name first; programs that index
	// their arguments expect at least one.
	Args []string
	// Env is the environment in the order in which the guest sees it. Names are
	// unique, not empty and without '='.
	Env [][2]string
	// Seed is the contract's; with the input's digest it decides all randomness.
	Seed [sha256.Size]byte
	// Capabilities are granted in addition to stdio, which always is; none twice.
	Capabilities []string
	Limits       Limits
	// MemoryDigest asks for Outcome.Memory: a sharper test for divergence than the
	// output alone, at the cost of hashing the whole memory.
	MemoryDigest bool
}

func (j *Job) check() error {
	if err := j.Limits.check(); err != nil {
		return err
	}
	if int64(len(j.Input)) > j.Limits.InputBytes {
		return invalidJob("input of %d bytes is over its limit of %d", len(j.Input), j.Limits.InputBytes)
	}
	if err := checkStrings("arguments", j.Args); err != nil {
		return err
	}
	seen := make(map[string]bool, len(j.Env))
	for _, kv := range j.Env {
		if kv[0] == "" || strings.Contains(kv[0], "=") {
			return invalidJob("environment name %q is empty or contains '='", kv[0])
		}
		if seen[kv[0]] {
			return invalidJob("environment name %q is repeated", kv[0])
		}
		seen[kv[0]] = true
	}
	if err := checkStrings("environment", j.environ()); err != nil {
		return err
	}
	_, err := capabilitySet(j.Capabilities)
	return err
}

func checkStrings(what string, list []string) error {
	if len(list) > MaxStrings {
		return invalidJob("%d %s, at most %d are taken", len(list), what, MaxStrings)
	}
	n := 0
	for _, s := range list {
		if strings.ContainsRune(s, 0) {
			return invalidJob("%s with a zero byte: %q", what, s)
		}
		n += len(s) + 1
	}
	if n > MaxStringBytes {
		return invalidJob("%s of %d bytes, at most %d are taken", what, n, MaxStringBytes)
	}
	return nil
}

// environ is Env in the form name=value.
func (j *Job) environ() []string {
	list := make([]string, len(j.Env))
	for i, kv := range j.Env {
		list[i] = kv[0] + "=" + kv[1]
	}
	return list
}

// A capSet is a checked set of capabilities as a bit mask, stdio included.
type capSet uint8

func capabilitySet(names []string) (capSet, error) {
	set := capSet(1 << capStdio)
	for i, name := range names {
		c := slices.Index(capNames[:], name)
		if c < 0 {
			return 0, invalidJob("unknown capability %q (known: %s)", name, strings.Join(capNames[:], ", "))
		}
		if slices.Contains(names[:i], name) {
			return 0, invalidJob("capability %q is repeated", name)
		}
		set |= 1 << c
	}
	return set, nil
}

func (s capSet) has(c capability) bool { return s&(1<<c) != 0 }

// names are the set's names in ascending order.
func (s capSet) names() []string {
	var list []string
	for c, name := range capNames {
		if s.has(capability(c)) {
			list = append(list, name)
		}
	}
	return list
}
