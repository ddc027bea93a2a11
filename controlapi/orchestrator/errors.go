package orchestrator

import (
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/provenance"
)

// Code names why an operation was refused. The set is closed, a code never
// changes its meaning, and it is what operation records state.
type Code string

// The codes, by what the caller can do about them.
const (
	// The bytes are at fault: correct and sign again.

	CodeEnvelope      Code = "envelope_malformed"  // not a well-formed envelope or payload of its kind
	CodeVersion       Code = "protocol_version"    // another protocol version
	CodeSignature     Code = "signature_invalid"   // not signed by a key that may sign this now
	CodeForeign       Code = "wrong_tenant"        // signed for another tenant or cluster than the caller's
	CodeWrongNode     Code = "wrong_node"          // the attestation of another node than the caller
	CodeContractRules Code = "contract_refused"    // breaks a rule of contracts or a cluster limit
	CodeModule        Code = "module_refused"      // the module fails admission
	CodeModuleDigest  Code = "module_digest"       // the module is not the one that the contract names
	CodeInputDigest   Code = "input_digest"        // the input is not the one that the submission names
	CodeTooLarge      Code = "too_large"           // a payload is over its limit
	CodeSubmission    Code = "submission_refused"  // breaks a rule of submissions
	CodeChange        Code = "change_refused"      // an unlawful membership change
	CodeAttestation   Code = "attestation_refused" // does not count for its execution
	CodeArgument      Code = "invalid_argument"    // an id, page token or range is malformed

	// The state is at fault: bring it about, or choose another object.

	CodeContractUnknown  Code = "contract_unknown"  // no such contract for this tenant
	CodeContractRetired  Code = "contract_retired"  // it was withdrawn
	CodeContractInvalid  Code = "contract_invalid"  // it has expired, or its key was revoked
	CodeExecutionUnknown Code = "execution_unknown" // no such execution for this tenant
	CodeExecutionClosed  Code = "execution_closed"  // it has ended already
	CodeBlobUnknown      Code = "blob_unknown"      // no such payload for this caller
	CodeModuleMissing    Code = "module_missing"    // neither sent nor put before
	CodeInputMissing     Code = "input_missing"     // neither sent nor put before
	CodeEpochPassed      Code = "epoch_passed"      // last_epoch lies behind
	CodeParent           Code = "parent_not_usable" // a parent is unknown, not complete, or not ok
	CodeQuorum           Code = "node_quorum"       // fewer nodes are members than the quorum
	CodeEligible         Code = "too_few_nodes"     // fewer nodes are eligible than the contract asks for
	CodeProofNotReady    Code = "proof_not_ready"   // not complete, or not covered by a checkpoint yet
	CodeNotMember        Code = "not_a_member"      // no such principal at this epoch
	CodeEpochUnknown     Code = "epoch_unknown"     // beyond the current epoch
	CodeIndexUnknown     Code = "index_unknown"     // beyond the log

	// The service is at fault: try again.

	CodeBusy        Code = "busy"        // queues are full, or the state keeps moving
	CodeUnavailable Code = "unavailable" // the control plane refuses until it is restarted, or is stopping
)

// Error is a refusal. Every error of this package's operations is one, or the
// error of the caller's context.
type Error struct {
	Code    Code
	Message string // lower case, says what to do, holds no payload and no token
	Cause   error  // for the operator's log; nil if the message says it all
}

// Error returns the message with its code in brackets, as clients see it.
func (e *Error) Error() string { return fmt.Sprintf("[%s] %s", e.Code, e.Message) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// CodeOf returns the code of a refusal anywhere in err's chain, CodeUnavailable
// for any other error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeUnavailable
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func refuseCause(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Cause: cause}
}

// voidRefusal tells why the fold would find a record void.
func voidRefusal(effect provenance.Effect) *Error {
	code, hint := CodeBusy, "try again"
	switch effect.Code {
	case provenance.CodeContractInvalid, provenance.CodeRetirementInvalid, provenance.CodeSubmissionInvalid,
		provenance.CodeCancellationInvalid:
		// Form and rules were checked before: what remains is who signed.
		code, hint = CodeSignature, "sign it with a key of the caller that is valid now and may sign this"
	case provenance.CodeContractUnknown:
		return refuse(CodeContractUnknown, "no such contract for this caller: register it first")
	case provenance.CodeContractRetired:
		code, hint = CodeContractRetired, "register another contract"
	case provenance.CodeContractExpired, provenance.CodeContractRevoked:
		code, hint = CodeContractInvalid, "sign and register a new contract"
	case provenance.CodeContractLimits:
		code, hint = CodeContractRules, "ask for less, or have the cluster's limits raised"
	case provenance.CodeSubmissionExpired:
		code, hint = CodeEpochPassed, "sign a submission with a later last_epoch"
	case provenance.CodeParent:
		code, hint = CodeParent, "name completed executions of this tenant that ended ok"
	case provenance.CodeQuorum:
		code, hint = CodeQuorum, "wait until more nodes have been admitted"
	case provenance.CodeEligible:
		code, hint = CodeEligible, "ask for fewer nodes or fewer constraints, or have nodes admitted"
	case provenance.CodeExecutionUnknown, provenance.CodeNotAssigned:
		// A node that is not assigned learns nothing about the execution.
		return errUnknownExecution()
	case provenance.CodeDecided:
		code, hint = CodeExecutionClosed, "nothing needs to be done"
	case provenance.CodeAttestationInvalid, provenance.CodeAttestationDiffers, provenance.CodeRepeated:
		code, hint = CodeAttestation, "attest only what was assigned and verified, once"
	}
	return refuse(code, "%s: %s", effect.Detail, hint)
}
