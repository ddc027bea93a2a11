package node

import (
	"errors"
	"fmt"
)

// A RefusalCode says why an assignment was not run. The set is closed; a code
// never changes its meaning. Codes are errors themselves, so that
// errors.Is(err, node.RefusedFork) asks for one.
type RefusalCode string

// The reasons, in the order in which they are checked. What follows each is said
// in one table, refusals.
const (
	RefusedMalformed   RefusalCode = "malformed"             // the assignment lacks a part, or a part is not in its form
	RefusedMembership  RefusalCode = "membership_checkpoint" // does not satisfy the membership policy
	RefusedStale       RefusalCode = "membership_stale"      // too few cosignatures of the membership log are fresh
	RefusedChanges     RefusalCode = "membership_changes"    // the log's entries are not lawful changes from the pinned genesis
	RefusedAudit       RefusalCode = "audit_checkpoint"      // does not satisfy the audit policy
	RefusedRequest     RefusalCode = "request_checkpoint"    // does not satisfy the audit policy
	RefusedLogKey      RefusalCode = "log_key"               // signed by no key that the membership names for the log
	RefusedFork        RefusalCode = "fork"                  // contradicts a checkpoint that was accepted before
	RefusedConsistency RefusalCode = "consistency"           // the log's tiles do not hash to the checkpoint
	RefusedInclusion   RefusalCode = "inclusion"             // a record is not proven to be in the log
	RefusedRecord      RefusalCode = "record"                // a record is malformed, or void by the rules of the fold
	RefusedExecution   RefusalCode = "execution"             // the records are about another execution
	RefusedAttempt     RefusalCode = "attempt"               // the reschedule records do not lead to the attempt
	RefusedNotAssigned RefusalCode = "not_assigned"          // the schedule does not name this node
	RefusedNotMember   RefusalCode = "not_member"            // this node's key is not valid at the pinned epoch and now
	RefusedSettled     RefusalCode = "settled"               // requested so long ago that this node keeps no attestations of that time
	RefusedEpoch       RefusalCode = "epoch_unproven"        // an epoch that the node knows of is not shown in the audit log
	RefusedStalePin    RefusalCode = "stale_pin"             // pinned an epoch after its successor was in the audit log
	RefusedUnsupported RefusalCode = "unsupported"           // versions that this node's sandbox does not have
	RefusedCapacity    RefusalCode = "capacity"              // limits above what this node declares
	RefusedParent      RefusalCode = "parent"                // a parent's bundle does not prove what the submission needs
	RefusedMissing     RefusalCode = "payload_missing"       // the control plane does not have a payload
	RefusedModule      RefusalCode = "module"                // not the module of the contract, or too large
	RefusedInput       RefusalCode = "input"                 // not the input of the submission, or too large
	RefusedAdmission   RefusalCode = "admission"             // the sandbox refuses the module
)

// Error returns the code as text.
func (c RefusalCode) Error() string { return "assignment refused: " + string(c) }

// A RefusalError says why an assignment was not run. errors.Is matches its code
// and its cause.
type RefusalError struct {
	Code   RefusalCode
	Detail string // for operators; quotes untrusted text
	Cause  error  // what was found below, or nil
}

// Error returns code and detail in one line.
func (e *RefusalError) Error() string {
	return fmt.Sprintf("assignment refused (%s): %s", string(e.Code), e.Detail)
}

// Unwrap lets errors.Is find the code and the cause.
func (e *RefusalError) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Cause}
}

func refuse(code RefusalCode, format string, args ...any) error {
	return &RefusalError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func refuseCause(code RefusalCode, cause error) error {
	return &RefusalError{Code: code, Detail: cause.Error(), Cause: cause}
}

var (
	// ErrUnavailable says that something could not be fetched or done now. The
	// assignment is tried again.
	ErrUnavailable = errors.New("unavailable")
	// ErrStopped says that a run was stopped when its time was over, as it would be
	// again: mostly one of an unmetered contract. Runners return it.
	ErrStopped = errors.New("run stopped")
	// errFault is ErrUnavailable when the runner failed, or contradicts itself.
	errFault = fmt.Errorf("%w: the runner failed", ErrUnavailable)
	// errFaultSoon is errFault of a run that had used little of its guard's time.
	errFaultSoon = fmt.Errorf("%w: soon after it began", errFault)
	// errOutdated says that an assignment went stale before its turn, and lacks what
	// came since: it is assigned again, as it is now, when the stream is opened anew.
	errOutdated = errors.New("the assignment is out of date")
	// errUndelivered is ErrUnavailable when an attestation is kept and was not
	// handed in.
	errUndelivered = fmt.Errorf("%w: attestation kept, not delivered", ErrUnavailable)
	// ErrStore says that the node's directory could not be read or written, or
	// holds what this node cannot have written. After a write whose outcome is
	// unknown the node does no work until it is started again.
	ErrStore = errors.New("node directory")
)
