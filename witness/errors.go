package witness

import (
	"errors"
	"fmt"
)

// The outcomes of a request, one for each answer of c2sp.org/tlog-witness.
var (
	// ErrMalformed: the request body is not in the specified form (400).
	ErrMalformed = errors.New("malformed request")
	// ErrTooLarge: the request body is longer than any request has to be (413).
	ErrTooLarge = errors.New("request too large")
	// ErrUnknownOrigin: the witness is not configured for this log (404).
	ErrUnknownOrigin = errors.New("unknown origin")
	// ErrSignature: no known key of the log signed, or its signature is bad (403).
	ErrSignature = errors.New("no valid signature of the log")
	// ErrOldSize: the old size is larger than the checkpoint's (400).
	ErrOldSize = errors.New("old size is larger than the checkpoint")
	// ErrConflict: the old size is not that of the checkpoint cosigned last (409).
	// The error is a *ConflictError.
	ErrConflict = errors.New("old size is not the size cosigned last")
	// ErrInconsistent: the checkpoint does not provably extend the one cosigned
	// last (422).
	ErrInconsistent = errors.New("inconsistent checkpoint")
	// ErrUnlawful: the membership log has a change that breaks a rule (422). Only a
	// cosigner of lawful membership answers so, and of the two next.
	ErrUnlawful = errors.New("unlawful change")
	// ErrForeignKey: no key that signed is one that genesis or a lawful change names
	// for the log (403).
	ErrForeignKey = errors.New("signed by a key that the membership does not name")
	// ErrUnreadable: the changes that the checkpoint covers can't be read from the
	// log, or not be judged by this program, so nothing is said of them (503).
	ErrUnreadable = errors.New("changes of the membership log cannot be read")
	// ErrUnavailable: the witness can't keep its promise at the moment, because a
	// key or the disk fails (503).
	ErrUnavailable = errors.New("witness unavailable")
)

// ConflictError is ErrConflict with what the client needs to go on.
type ConflictError struct {
	Size int64 // tree size of the checkpoint cosigned last, 0 if there is none
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v, which is %d", ErrConflict, e.Size)
}

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }
