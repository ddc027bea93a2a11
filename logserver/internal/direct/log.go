package direct

import (
	"net/http"
	"time"
)

// Log is what the package asks of a log. Its methods are safe for concurrent use
// and do not block.
type Log interface {
	// Enter makes room for one request of some KiB, until Leave. It reports false
	// if there is none: net/http is to say so.
	Enter() bool
	// Ask has an entry appended; the log copies it. If receipt is true the Receipt
	// of its group will be wanted. by is told, once, unless there is an error now:
	// then nothing was appended.
	Ask(entry []byte, receipt bool, by Asker) error
	// Refuse returns the status, headers and body, whose length is known, that an
	// error of Ask or of a Group stands for, and a code for it.
	Refuse(err error) (res *http.Response, code string)
	// Leave ends what Enter has begun. code is that of Refuse, "" if the answer was
	// an index or a receipt, and took the time from the request to its answer.
	Leave(code string, took time.Duration)
}

// Asker waits for the commit group of an entry.
type Asker interface {
	// Answered is called when the entry at a place of the group has an answer. It
	// does not block: whoever has the group tells all of its askers.
	Answered(g Group, place int)
}

// Group is a commit group that has been answered. Its methods are safe for
// concurrent use.
type Group interface {
	// Index returns the index of the entry at a place. An error says why it was
	// not appended, or that nobody knows.
	Index(place int) (int64, error)
	// Receipt returns a proof of that entry under the signed head of the group, as
	// text.
	Receipt(place int) ([]byte, error)
}

// started is where uptime counts from.
var started = time.Now()

// uptime is a time that only goes forward.
func uptime() time.Duration { return time.Since(started) }
