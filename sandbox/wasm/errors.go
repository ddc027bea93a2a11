package wasm

import (
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by every error that says the bytes are no
// well-formed module.
var ErrMalformed = errors.New("malformed module")

// ErrInvalid is wrapped by every error that says a well-formed module breaks
// the rules of validation.
var ErrInvalid = errors.New("invalid module")

// A Feature is a WebAssembly feature outside the accepted set, by the name of
// its proposal.
type Feature string

// The features that are recognised and refused.
const (
	SIMD               Feature = "simd"
	Threads            Feature = "threads"
	Exceptions         Feature = "exception-handling"
	TailCall           Feature = "tail-call"
	FunctionReferences Feature = "function-references"
	GC                 Feature = "gc"
	Memory64           Feature = "memory64"
	MultiMemory        Feature = "multi-memory"
	ExtendedConst      Feature = "extended-const"
	CustomPageSizes    Feature = "custom-page-sizes"
	WideArithmetic     Feature = "wide-arithmetic"
	StackSwitching     Feature = "stack-switching"
	Component          Feature = "component-model"
)

// A FeatureError refuses a module that uses a feature outside the set.
type FeatureError struct {
	Feature Feature
	Offset  int    // in the module, of the construct
	What    string // the construct
}

func (e *FeatureError) Error() string {
	return fmt.Sprintf("%s at offset %d needs feature %q, which is not accepted", e.What, e.Offset, e.Feature)
}

// A bail carries an error up from the decoder's depths; only the exported
// functions recover it.
type bail struct{ err error }

func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case bail:
		*err = r.err
	default:
		panic(r)
	}
}
