package logserver

import "fmt"

// Bounds of what a caller may append. They keep one entry, one commit group
// and the queue within memory that is known beforehand.
const (
	// MaxEntrySize is the largest entry, in bytes: c2sp.org/tlog-tiles frames
	// entries with a uint16 length.
	MaxEntrySize = 1<<16 - 1
	// MaxOpeningSize bounds an opening. The largest records hold a signed
	// contract or submission, which are bounded well below this.
	MaxOpeningSize = 1 << 20
	// MaxDedupSize bounds a deduplication key: a SHA-512 fits.
	MaxDedupSize = 64
	// MaxKeySize bounds the name of a register.
	MaxKeySize = 128
	// MaxConditions bounds the guards, and the registers set, of one entry.
	MaxConditions = 16
	// MaxBatch bounds the entries of one AppendBatch.
	MaxBatch = 4096
)

// Entry is what a caller asks the log to sequence. The log copies what it
// keeps: the caller may reuse every slice when Append has returned, even when
// it returned early because its context ended.
type Entry struct {
	// Data is the public entry, 0 to MaxEntrySize bytes.
	Data []byte
	// Opening is the private counterpart, nil or up to MaxOpeningSize bytes.
	// It is stored in the same commit and never served by Handler.
	Opening []byte
	// Dedup, if not empty, is the deduplication key, up to MaxDedupSize
	// bytes: the log sequences at most one entry per key, ever, and answers
	// every later one with that entry's index.
	Dedup []byte
	// Guards must all hold when the entry is sequenced.
	Guards []Guard
	// Sets are the registers that take a new value when, and only when, the
	// entry is sequenced; they are durable in the same commit.
	Sets []Register
}

// Guard asks that a register holds a value. Everything that is sequenced
// ahead of the entry counts, in the same commit too.
type Guard struct {
	Key  string // 1 to MaxKeySize bytes
	Want uint64 // 0 asks that the register is unset
}

// Register is a named number kept beside the log for guards to check. It is
// private to the embedder and not committed to by the tree.
type Register struct {
	Key   string // 1 to MaxKeySize bytes
	Value uint64 // 0 removes the register
}

// Result is the outcome of one entry.
type Result struct {
	// Index is the entry's place in the log; -1 if Err is set.
	Index int64
	// Duplicate says that an earlier entry with the same deduplication key
	// holds Index, and that nothing was sequenced now.
	Duplicate bool
	// Err is nil or a *GuardError.
	Err error
}

// Head is the tree after the commit group that made an append durable.
type Head struct {
	// Size and Root are the tree size and root hash.
	Size int64
	Root Hash
	// receipt signs the head when somebody asks for it; nil for a log without a
	// receipt key.
	receipt *receiptHead
}

// Note returns the checkpoint of the head signed by the log's receipt key:
// evidence against the log if an entry below Size is ever missing. It has been
// seen by no witness. It is nil for a log without a receipt key. The first call
// for a commit group signs, later ones return the same bytes, which must not be
// changed.
func (h Head) Note() ([]byte, error) {
	if h.receipt == nil {
		return nil, nil
	}
	return h.receipt.sign()
}

// check reports why the entry is out of bounds, if it is.
func (e *Entry) check() error {
	switch {
	case len(e.Data) > MaxEntrySize:
		return invalid("entry of %d bytes, at most %d are allowed", len(e.Data), MaxEntrySize)
	case len(e.Opening) > MaxOpeningSize:
		return invalid("opening of %d bytes, at most %d are allowed", len(e.Opening), MaxOpeningSize)
	case len(e.Dedup) > MaxDedupSize:
		return invalid("deduplication key of %d bytes, at most %d are allowed", len(e.Dedup), MaxDedupSize)
	case len(e.Guards) > MaxConditions || len(e.Sets) > MaxConditions:
		return invalid("%d guards and %d registers, at most %d of each are allowed", len(e.Guards), len(e.Sets), MaxConditions)
	}
	for _, g := range e.Guards {
		if err := checkRegisterKey(g.Key); err != nil {
			return fmt.Errorf("guard: %w", err)
		}
	}
	for _, r := range e.Sets {
		if err := checkRegisterKey(r.Key); err != nil {
			return fmt.Errorf("register: %w", err)
		}
	}
	return nil
}

func checkRegisterKey(key string) error {
	if len(key) == 0 || len(key) > MaxKeySize {
		return invalid("register key of %d bytes, 1 to %d are allowed", len(key), MaxKeySize)
	}
	return nil
}
