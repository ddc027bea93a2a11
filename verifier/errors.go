package verifier

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/printable"
	"github.com/tallystick/tallystick/provenance"
)

// Code says why a bundle was refused. The set is closed, and a code never
// changes its meaning. Codes are errors themselves, so that
// errors.Is(err, verifier.CodeInclusion) asks for one.
type Code string

// The codes, in the order of the steps.
const (
	CodeTrust                Code = "trust"                 // the policies or the genesis cannot be used
	CodeFormat               Code = "format"                // not a proof bundle, or malformed
	CodeDamaged              Code = "damaged"               // the whole-file digest differs
	CodeVersion              Code = "version"               // another protocol version
	CodeOtherExecution       Code = "other_execution"       // proves another execution or cluster than asked for
	CodeAuditCheckpoint      Code = "audit_checkpoint"      // not acceptable under the audit policy
	CodeMembershipCheckpoint Code = "membership_checkpoint" // not acceptable under the membership policy
	CodeRequestCheckpoint    Code = "request_checkpoint"    // not acceptable under the audit policy
	CodeExternalMembership   Code = "external_membership"   // the membership log is not in the bundle and was not given
	CodeGenesis              Code = "genesis"               // begins with another genesis than the pinned one
	CodeMembership           Code = "membership"            // a change is not lawful, or the changes are not those of the checkpoint
	CodeLogKeys              Code = "log_keys"              // signed by a log or key that membership does not name
	CodeConsistency          Code = "consistency"           // the audit root is not part of the audit log
	CodeInclusion            Code = "inclusion"             // a record is not in the audit log
	CodeRecord               Code = "record"                // an opening does not hold a record
	CodeRules                Code = "rules"                 // a record is void, evidence only, or out of place
	CodeIncomplete           Code = "incomplete"            // the attestations do not agree on a result
	CodeProvenance           Code = "provenance"            // the closing record differs from what was attested
	CodeAncestor             Code = "ancestor"              // an ancestor is missing, superfluous, or not what its child names
	CodeNoResult             Code = "no_result"             // proven, but the execution ended without a result
)

// Error returns the code as text.
func (c Code) Error() string { return "bundle refused: " + string(c) }

// Error says why a bundle was refused. errors.Is matches its Code and, where a
// package below found the fault, that package's error.
type Error struct {
	Code Code
	// Step is the name of the step that failed.
	Step string
	// Rule is the rule of the fold that a record breaks; set with CodeRules and
	// CodeProvenance only, and not always.
	Rule provenance.Code
	// Detail says what was found. It quotes the bundle, so it is untrusted text,
	// in printable form.
	Detail string

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

// Hint says what whoever holds the bundle can do about it.
func (e *Error) Hint() string { return hints[e.Code] }

var hints = map[Code]string{
	CodeTrust:                "check the policy and genesis files; get them again from the cluster's operators, not from its server",
	CodeFormat:               "this is no proof bundle of this version, or a part of one; fetch it again",
	CodeDamaged:              "the file was damaged or changed after it was written; fetch it again",
	CodeVersion:              "use a release of tallystick that knows this protocol version",
	CodeOtherExecution:       "ask for the bundle of the execution that you want to check",
	CodeAuditCheckpoint:      "check that the audit policy is this cluster's; if it is, the bundle is not backed by its witnesses",
	CodeMembershipCheckpoint: "check that the membership policy is this cluster's; if it is, the bundle is not backed by its witnesses",
	CodeRequestCheckpoint:    "the nodes were shown an audit root that the witnesses did not see; keep the bundle as evidence",
	CodeExternalMembership:   "give the changes of the membership log as well; this bundle leaves them out",
	CodeGenesis:              "check that the genesis file is this cluster's; if it is, the bundle is of another cluster",
	CodeMembership:           "the membership in the bundle is not the one that the witnesses saw; keep the bundle as evidence",
	CodeLogKeys:              "the policy accepts a log key that the cluster's members never named; compare it with the genesis",
	CodeConsistency:          "the audit log was forked or the bundle was forged; keep the bundle as evidence",
	CodeInclusion:            "the record is not what the log committed to; the bundle was changed or forged",
	CodeRecord:               "the bundle was changed or made by a faulty server",
	CodeRules:                "the records do not make an execution by the rules; do not rely on the result",
	CodeIncomplete:           "too few nodes agree; do not rely on the result",
	CodeProvenance:           "the server claims what the nodes did not attest; do not rely on the result",
	CodeAncestor:             "the ancestors in the bundle are not those of the execution; do not rely on where its input comes from",
	CodeNoResult:             "the bundle is good: it proves that there is no result; submit the work again with another nonce",
}

func refuse(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Detail: printable.Text(err.Error()), cause: errors.Unwrap(err)}
}

// failureOf is an error in the form of a report.
func failureOf(err *Error) *Failure {
	return &Failure{Code: err.Code, Step: err.Step, Rule: err.Rule, Detail: err.Detail, Hint: err.Hint()}
}
