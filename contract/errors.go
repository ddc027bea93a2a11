package contract

import "fmt"

// A RefusalCode names the rule that a payload, an envelope or an outcome
// breaks. The set is closed; a code never changes its meaning. Codes are errors
// themselves, so that errors.Is(err, contract.RefusedLimits) asks for one.
type RefusalCode string

// The rules, in the order in which they are checked.
const (
	RefusedEnvelope     RefusalCode = "envelope"         // not an envelope of the kind's payload type
	RefusedSyntax       RefusalCode = "syntax"           // payload is not strict JSON of the documented members
	RefusedVersion      RefusalCode = "protocol_version" // another protocol version
	RefusedIdentifier   RefusalCode = "identifier"       // the name of a cluster, tenant or contract is malformed
	RefusedValue        RefusalCode = "value"            // a member breaks a rule of its own
	RefusedScheduling   RefusalCode = "scheduling"       // agreement, nodes, step and max_assigned do not fit each other
	RefusedCapabilities RefusalCode = "capabilities"     // unknown, unordered, repeated, or without stdio
	RefusedArguments    RefusalCode = "arguments"        // argv or environment is malformed or too long
	RefusedMetering     RefusalCode = "metering"         // gas, frames and cost table do not fit the rewriter version
	RefusedLimits       RefusalCode = "limits"           // a limit is 0, out of range, or above the cluster's
	RefusedParents      RefusalCode = "parents"          // too many parents, or one listed twice
	RefusedCluster      RefusalCode = "cluster"          // made for another cluster
	RefusedSigner       RefusalCode = "signer"           // not signed by exactly one key of the tenant
	RefusedSignature    RefusalCode = "signature"        // the signature does not verify
	RefusedModule       RefusalCode = "module"           // the module is not the one the contract names
	RefusedOutcome      RefusalCode = "outcome"          // an outcome contradicts itself or its contract
)

// Error returns the code as text.
func (c RefusalCode) Error() string { return "refused: " + string(c) }

// A RefusalError says which rule was broken and how. It depends on nothing but
// the arguments of the call. errors.Is matches its code and its cause.
type RefusalError struct {
	Code   RefusalCode
	Detail string // for people; quotes untrusted text
	Cause  error  // what a parser or verifier below found, or nil
}

// Error returns code and detail in one line.
func (e *RefusalError) Error() string {
	return fmt.Sprintf("refused (%s): %s", string(e.Code), e.Detail)
}

// Unwrap lets errors.Is find the code and the cause.
func (e *RefusalError) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Cause}
}

func refuse(code RefusalCode, format string, args ...any) *RefusalError {
	return &RefusalError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func refuseCause(code RefusalCode, cause error) *RefusalError {
	return &RefusalError{Code: code, Detail: cause.Error(), Cause: cause}
}
