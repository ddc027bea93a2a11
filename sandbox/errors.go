package sandbox

import (
	"context"
	"errors"
	"fmt"
)

// What keeps a job from having an outcome. Each is a matter of this machine or
// this call, so none may be recorded as a result of the contract.
var (
	// ErrStopped: the run was abandoned because its context ended or its
	// wall-clock guard passed. The work may be tried elsewhere.
	ErrStopped = errors.New("run stopped")
	// ErrEngineFault: the engine or its worker process failed (memory, compiler,
	// native stack, protocol). The work may be tried elsewhere.
	ErrEngineFault = errors.New("engine fault")
	// ErrInvalidJob: the job itself is malformed or beyond this package's bounds.
	ErrInvalidJob = errors.New("invalid job")
	// errWallClock is why a run was stopped by its own guard.
	errWallClock = fmt.Errorf("wall-clock guard passed: %w", context.DeadlineExceeded)
	// ErrClosed: the pool or engine has been closed.
	ErrClosed = errors.New("sandbox closed")
)

// A RefusalCode names the rule that a refused module breaks. The set is closed.
type RefusalCode string

// The rules of admission, in the order in which they are checked.
const (
	RefusedSize      RefusalCode = "module_too_large" // more than MaxModuleBytes
	RefusedMalformed RefusalCode = "malformed"        // not a well-formed module
	RefusedFeature   RefusalCode = "feature"          // outside the accepted feature set
	RefusedImport    RefusalCode = "import"           // unknown, ungranted, or wrong signature
	RefusedExport    RefusalCode = "export"           // _start or memory missing, or a reserved name
	RefusedStart     RefusalCode = "start_section"    // a start function would run before _start
	RefusedArity     RefusalCode = "arity"            // more than rewrite.MaxArity results of a type or parameters of a block
	RefusedMemory    RefusalCode = "memory"           // minimum above the contract's limit
	RefusedTable     RefusalCode = "table"            // more entries than MaxTableEntries
	RefusedSegment   RefusalCode = "segment"          // out of bounds, init/drop of one that is not passive, init from one of externref
	RefusedLocals    RefusalCode = "locals"           // a function with more than MaxLocals
	RefusedLength    RefusalCode = "length"           // a function with more than rewrite.MaxInstructions
	RefusedControl   RefusalCode = "control"          // a function with more than MaxControl control instructions
	RefusedWork      RefusalCode = "compile_work"     // estimated compile work above MaxCompileWork, or a function's above MaxFunctionWork
	RefusedInvalid   RefusalCode = "invalid"          // fails WebAssembly validation
)

// A Refusal says why a module may not run. It depends only on the module, the
// capabilities and the limits (Detail may also depend on the engine's version).
type Refusal struct {
	Code       RefusalCode
	Item       string // the import, feature, export or limit concerned
	Capability string // the capability that would grant the import, if one would
	Detail     string // what was found and what is required, for people
}

// Error names the rule, the item and, where granting a capability would help,
// that capability.
func (r *Refusal) Error() string {
	s := string(r.Code)
	if r.Item != "" {
		s += fmt.Sprintf(" %q", r.Item)
	}
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	if r.Capability != "" {
		s += fmt.Sprintf(" (grant capability %q in the contract)", r.Capability)
	}
	return s
}

func refuse(code RefusalCode, item, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Item: item, Detail: fmt.Sprintf(format, args...)}
}

func invalidJob(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidJob, fmt.Sprintf(format, args...))
}

func engineFault(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrEngineFault, fmt.Errorf(format, args...))
}
