package rewrite

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/sandbox/wasm"
)

// A Rule names why a module is refused. The set is closed; the names are those
// of the sandbox's refusal codes.
type Rule string

// The rules.
const (
	RuleSize      Rule = "module_too_large" // more than MaxInput, or rewritten more than MaxOutput
	RuleMalformed Rule = "malformed"        // not a well-formed module
	RuleInvalid   Rule = "invalid"          // fails WebAssembly validation
	RuleFeature   Rule = "feature"          // outside the accepted feature set
	RuleImport    Rule = "import"           // not a function, or of a reserved module
	RuleExport    Rule = "export"           // a reserved name
	RuleArity     Rule = "arity"            // a type with more than MaxArity results, or a block with so many parameters
	RuleMemory    Rule = "memory"           // minimum above the limit
	RuleTable     Rule = "table"            // minimum above MaxTableEntries
	RuleSegment   Rule = "segment"          // init or drop of a segment that is not passive, or init from one of externref
	RuleLocals    Rule = "locals"           // a function with more than MaxLocals
	RuleLength    Rule = "length"           // a function with more than MaxInstructions
)

// A Refusal says why a module cannot be rewritten. It depends only on the
// module and the configuration.
type Refusal struct {
	Rule   Rule
	Item   string // the import, export or feature concerned
	Detail string // what was found and what is required, for people
	cause  error
}

// Error names the rule, the item and what was found.
func (r *Refusal) Error() string {
	s := string(r.Rule)
	if r.Item != "" {
		s += fmt.Sprintf(" %q", r.Item)
	}
	return s + ": " + r.Detail
}

// Unwrap is the decoder's error, if it was the decoder that refused.
func (r *Refusal) Unwrap() error { return r.cause }

func refuse(rule Rule, item, format string, args ...any) *Refusal {
	return &Refusal{Rule: rule, Item: item, Detail: fmt.Sprintf(format, args...)}
}

// decodeRefusal names an error of the decoder; refusals of this package that
// came through it stay as they are.
func decodeRefusal(err error) error {
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return r
	}
	if f := (*wasm.FeatureError)(nil); errors.As(err, &f) {
		return &Refusal{RuleFeature, string(f.Feature), fmt.Sprintf("%s at offset %d", f.What, f.Offset), err}
	}
	if errors.Is(err, wasm.ErrInvalid) {
		return &Refusal{RuleInvalid, "", strings.TrimPrefix(err.Error(), wasm.ErrInvalid.Error()+": "), err}
	}
	return &Refusal{RuleMalformed, "", strings.TrimPrefix(err.Error(), wasm.ErrMalformed.Error()+": "), err}
}
