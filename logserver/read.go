package logserver

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Origin returns the log's origin.
func (l *Log) Origin() string { return l.opts.Origin }

// Vkey returns the verifier key of the log key, in a rotation that of the older
// one: see Keys.
func (l *Log) Vkey() string { return l.keys.Load().log }

// ReceiptVkey returns the verifier key of receipt heads, or "".
func (l *Log) ReceiptVkey() string {
	if l.receipt == nil {
		return ""
	}
	return l.receipt.vkey()
}

// Size returns the size of the durable tree. Every entry below it can be read
// and proven; the public endpoints may serve less.
func (l *Log) Size() int64 { return l.view.Load().size }

// Head returns the head of the newest commit group. While the start-up head
// check is under way it is ErrNotReady for a log with a receipt key: nothing is
// signed before that.
func (l *Log) Head() (Head, error) {
	current := l.head.Load()
	h := *current
	if h.receipt != nil || l.receipt == nil {
		return h, nil
	}
	// Nothing has been appended since the log was opened.
	if err := l.publisher.appendable(); err != nil {
		return Head{}, err
	}
	h.receipt = l.receipt.issue(h.Size, h.Root)
	l.head.CompareAndSwap(current, &h)
	return h, nil
}

// snapshot returns the current view with its store.
func (l *Log) snapshot() snapshot {
	return snapshot{view: l.view.Load(), store: l.store.reader, cache: l.nodes}
}

// EntryAt returns the entry at index.
func (l *Log) EntryAt(index int64) ([]byte, error) {
	return l.snapshot().entry(index)
}

// Entries iterates over the entries from start up to, not including, end. It
// ends after the first error; the slices must not be changed.
func (l *Log) Entries(start, end int64) iter.Seq2[[]byte, error] {
	return l.snapshot().entries(start, end)
}

// Openings iterates over the openings from index start up to, not including,
// end: one for each index, nil where there is none. It ends after the first
// error. Openings are private: who may see one is for the caller to decide.
func (l *Log) Openings(start, end int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if start < 0 || start > end || end > l.Size() {
			yield(nil, fmt.Errorf("openings %d to %d: %w", start, end, ErrNotFound))
			return
		}
		err := l.store.scan(indexKey(kindOpening, start), indexKey(kindOpening, end), func(key, value []byte) error {
			for ; start < keyIndex(key); start++ {
				if !yield(nil, nil) {
					return errStopped
				}
			}
			start++
			if !yield(append([]byte(nil), value...), nil) {
				return errStopped
			}
			return nil
		})
		if errors.Is(err, errStopped) {
			return
		}
		for ; err == nil && start < end; start++ {
			if !yield(nil, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// errStopped ends a scan whose consumer wants no more.
var errStopped = errors.New("stopped")

// Register returns the durable value of a register, 0 if it is unset. It waits
// for the commits that are under way.
func (l *Log) Register(key string) (uint64, error) {
	if err := checkRegisterKey(key); err != nil {
		return 0, err
	}
	v, err := l.store.getUint(registerKey(key))
	if err != nil {
		return 0, err
	}
	// A group that is applied and not durable may have set it.
	err = l.integrated.wait(context.Background(), l.applied.Load(), l.broken)
	if err != nil {
		return 0, l.failed()
	}
	return v, nil
}

// Tile returns the first width hashes of a tile (c2sp.org/tlog-tiles), all of
// which must exist in the tree of size Size. The bytes must not be changed.
func (l *Log) Tile(level int, number int64, width int) ([]byte, error) {
	return l.snapshot().tile(level, number, width)
}

// Bundle returns the first width entries of an entry bundle, all of which must
// exist in the tree of size Size. The bytes must not be changed.
func (l *Log) Bundle(number int64, width int) ([]byte, error) {
	return l.snapshot().bundleBytes(number, width)
}
