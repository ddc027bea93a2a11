package controlapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/controlapi/token"
)

// Code is the stable name of a refusal. The set is closed: the core's codes and
// those below.
type Code = orchestrator.Code

// The codes of the edge.
const (
	codeOK Code = "ok" // in records and metrics only

	// No principal can be named: get a new token.

	CodeTokenMissing   Code = "token_missing"   // no bearer token
	CodeTokenMalformed Code = "token_malformed" // not of the documented form
	CodeTokenKey       Code = "token_key"       // no valid token key has its key id
	CodeTokenSignature Code = "token_signature" // does not verify
	CodeTokenAudience  Code = "token_audience"  // made for another cluster
	CodeTokenExpired   Code = "token_expired"   // too old
	CodeTokenEarly     Code = "token_early"     // from the future: a clock is wrong
	CodeTokenClaims    Code = "token_claims"    // lives too long, or names another principal

	// The principal asks for what it may not have, or too much of it.

	CodePermission    Code = "permission_denied" // its kind may not call the method
	CodeMalformed     Code = "request_malformed" // the body is not one message of the method
	CodeEncoding      Code = "request_encoding"  // the body is compressed
	CodeBodyTooLarge  Code = "request_too_large" // the body is over the method's bound
	CodeQuotaRate     Code = "quota_rate"        // too many calls
	CodeQuotaInFlight Code = "quota_in_flight"   // too many calls at the same time
	CodeQuotaBytes    Code = "quota_bytes"       // too many bytes
	CodeQuotaStreams  Code = "quota_streams"     // too many streams at the same time
	CodeQuotaBodies   Code = "quota_bodies"      // too many bytes of request bodies at the same time

	// The call ended otherwise.

	CodeReplaced     Code = "stream_replaced" // the node opened another stream
	CodeNotWitnessed Code = "not_witnessed"   // recorded, but the wait for witnesses took too long
	CodeCanceled     Code = "canceled"        // the caller went away
	CodeDeadline     Code = "deadline"        // the call took too long
	CodeInternal     Code = "internal"        // a fault of this program
)

// connectCode says how a code looks to a Connect or gRPC client. Codes by which
// the caller should try again are Unavailable or ResourceExhausted and carry a
// Retry-After header.
func connectCode(code Code) connect.Code {
	switch code {
	case CodeTokenMissing, CodeTokenMalformed, CodeTokenKey, CodeTokenSignature, CodeTokenAudience,
		CodeTokenExpired, CodeTokenEarly, CodeTokenClaims:
		return connect.CodeUnauthenticated
	case CodePermission, orchestrator.CodeForeign, orchestrator.CodeWrongNode, orchestrator.CodeSignature:
		return connect.CodePermissionDenied
	case CodeMalformed, CodeBodyTooLarge,
		orchestrator.CodeEnvelope, orchestrator.CodeVersion, orchestrator.CodeContractRules, orchestrator.CodeModule,
		orchestrator.CodeModuleDigest, orchestrator.CodeInputDigest, orchestrator.CodeTooLarge, orchestrator.CodeSubmission,
		orchestrator.CodeChange, orchestrator.CodeAttestation, orchestrator.CodeArgument:
		return connect.CodeInvalidArgument
	case orchestrator.CodeContractUnknown, orchestrator.CodeExecutionUnknown, orchestrator.CodeBlobUnknown,
		orchestrator.CodeNotMember, orchestrator.CodeEpochUnknown, orchestrator.CodeIndexUnknown:
		return connect.CodeNotFound
	case orchestrator.CodeContractRetired, orchestrator.CodeContractInvalid, orchestrator.CodeExecutionClosed,
		orchestrator.CodeModuleMissing, orchestrator.CodeInputMissing, orchestrator.CodeEpochPassed, orchestrator.CodeParent,
		orchestrator.CodeQuorum, orchestrator.CodeEligible, orchestrator.CodeProofNotReady:
		return connect.CodeFailedPrecondition
	case CodeEncoding:
		return connect.CodeUnimplemented
	case CodeQuotaRate, CodeQuotaInFlight, CodeQuotaBytes, CodeQuotaStreams, CodeQuotaBodies:
		return connect.CodeResourceExhausted
	case CodeReplaced:
		return connect.CodeAborted
	case CodeCanceled:
		return connect.CodeCanceled
	case CodeDeadline, CodeNotWitnessed:
		return connect.CodeDeadlineExceeded
	case orchestrator.CodeBusy, orchestrator.CodeUnavailable:
		return connect.CodeUnavailable
	}
	return connect.CodeInternal
}

// refuse makes a refusal. The message says what is wrong and, after a colon,
// what to do; it never holds payloads, tokens or what another tenant wrote.
func refuse(code Code, format string, args ...any) error {
	return &orchestrator.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// errRecord answers an operation that could not be recorded.
func errRecord(cause error) error {
	return &orchestrator.Error{
		Code:    orchestrator.CodeUnavailable,
		Message: "the operation could not be recorded, so it has no answer: try again",
		Cause:   cause,
	}
}

// asRefusal turns any error into a refusal. What is none, an error of a
// context aside, is a fault of this program: its text stays with the operator.
func asRefusal(err error) *orchestrator.Error {
	var refusal *orchestrator.Error
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.Is(err, context.Canceled):
		return &orchestrator.Error{Code: CodeCanceled, Message: "the caller went away", Cause: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &orchestrator.Error{Code: CodeDeadline, Message: "the call took too long: try again with a longer timeout", Cause: err}
	}
	return &orchestrator.Error{Code: CodeInternal, Message: "a fault of the control plane: report it to the operator with the time", Cause: err}
}

// retryError asks the caller to wait.
type retryError struct {
	refusal error
	after   time.Duration
}

func (e *retryError) Error() string { return e.refusal.Error() }

// Unwrap lets errors.As find the refusal.
func (e *retryError) Unwrap() error { return e.refusal }

// retryAfter makes a refusal that says how long to wait.
func retryAfter(code Code, after time.Duration, format string, args ...any) error {
	return &retryError{refuse(code, format, args...), after}
}

// wireError is what a client gets: the refusal's code and message, how long to
// wait if that helps, and nothing of its cause.
func wireError(err error) *connect.Error {
	refusal := asRefusal(err)
	out := connect.NewError(connectCode(refusal.Code), errors.New(refusal.Error()))
	wait := time.Duration(0)
	if c := out.Code(); c == connect.CodeUnavailable || c == connect.CodeResourceExhausted {
		wait = time.Second
	}
	var retry *retryError
	if errors.As(err, &retry) && retry.after > wait {
		wait = retry.after
	}
	if wait > 0 {
		out.Meta().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	return out
}

// tokenRefusal says what to do about a token that does not verify.
func tokenRefusal(err error) error {
	switch {
	case errors.Is(err, token.ErrMalformed):
		// The text names the part at fault and quotes nothing.
		return refuse(CodeTokenMalformed, "%v: see \"Token\" in docs/architecture.md", err)
	case errors.Is(err, token.ErrKey):
		return refuse(CodeTokenKey, "no valid token key has this key id: use a key with use \"token\" of a current member")
	case errors.Is(err, token.ErrAudience):
		return refuse(CodeTokenAudience, "the token is for another cluster: make one for this cluster")
	case errors.Is(err, token.ErrExpired):
		return refuse(CodeTokenExpired, "the token has expired: make a new one")
	case errors.Is(err, token.ErrEarly):
		return refuse(CodeTokenEarly, "the token was issued in the future: check the clocks")
	case errors.Is(err, token.ErrClaims):
		return refuse(CodeTokenClaims, "%v", err)
	}
	return refuse(CodeTokenSignature, "the token's signature does not verify: sign it with the key that \"kid\" names")
}
