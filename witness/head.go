package witness

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// head is a cosigned checkpoint. It does not change once it is made; a nil *head
// is that of an origin that was never cosigned.
type head struct {
	checkpoint checkpoint.Checkpoint
	body       []byte                 // note text, extension lines included
	signed     []byte                 // with the log's signatures and the cosignatures
	sigs       []checkpoint.Signature // the cosignatures, in the order of the witness's keys
	timestamp  int64                  // of the cosignatures, POSIX seconds
}

// tree returns what the next checkpoint has to extend.
func (h *head) tree() tlog.Tree {
	if h == nil {
		return tlog.Tree{Hash: checkpoint.EmptyRoot}
	}
	return h.checkpoint.Tree()
}

// errHeadMoved: another request has replaced the head in the meantime.
var errHeadMoved = errors.New("head has moved")

// logState is one origin's configuration and its head, in memory and on disk.
type logState struct {
	origin string
	hash   string          // lower-case hex SHA-256 of origin, the name of the head's file
	keys   []note.Verifier // the log's keys
	vkeys  []string        // the same as text
	dir    string          // directory of the head files
	disk   disk
	own    []note.Verifier // the witness's own keys

	mu sync.Mutex // held over reading and writing the head's file
	// head is what is on disk, guarded by mu.
	head *head
	// suspect is set when a write has failed with unknown outcome: head may be
	// older than the file, or newer than what a power cut leaves. Guarded by mu.
	suspect bool
}

// current returns the head to check a request against. A suspect head is read
// back and made durable first.
func (l *logState) current() (*head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.suspect {
		if err := l.recover(); err != nil {
			return nil, err
		}
	}
	return l.head, nil
}

// swap replaces old by next on disk and then in memory, or does nothing and
// returns errHeadMoved if old is not the head any more. After any other error
// next may be what a later start finds, so it must not have been shown to
// anybody, and nothing else is accepted before recover has succeeded.
func (l *logState) swap(old, next *head) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.suspect || l.head != old {
		return errHeadMoved
	}
	err := replaceFile(l.disk, l.dir, l.hash, next.signed)
	if err != nil {
		l.suspect = errors.Is(err, errUnknownOutcome)
		return fmt.Errorf("writing head: %w", err)
	}
	l.head = next
	return nil
}

// load reads the head from disk at start.
func (l *logState) load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.read()
	if err != nil {
		return err
	}
	l.head = h
	return nil
}

// recover reads the head back after a write of unknown outcome. Reading shows
// what the operating system believes, which a power cut may still undo; writing
// the same bytes again and syncing them settles it. l.mu is held.
func (l *logState) recover() error {
	h, err := l.read()
	if err != nil {
		return err
	}
	if on, was := h.tree(), l.head.tree(); on.N < was.N || on.N == was.N && on.Hash != was.Hash {
		return fmt.Errorf("head on disk has size %d and root hash %v, but size %d and %v was cosigned", on.N, on.Hash, was.N, was.Hash)
	}
	if h != nil {
		if err := replaceFile(l.disk, l.dir, l.hash, h.signed); err != nil {
			return fmt.Errorf("writing head again: %w", err)
		}
	}
	l.head, l.suspect = h, false
	return nil
}

// read returns the head that is on disk, nil if there is none. A file that does
// not carry this witness's valid cosignature was damaged or is not its own.
func (l *logState) read() (*head, error) {
	path := filepath.Join(l.dir, l.hash)
	signed, err := l.disk.ReadFile(path, checkpoint.MaxNoteSize)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading head: %w", err)
	}
	h, err := parseHead(signed, l.own)
	if err != nil {
		return nil, fmt.Errorf("head file %q is damaged or another witness's: %w", path, err)
	}
	if h.checkpoint.Origin != l.origin {
		return nil, fmt.Errorf("head file %q is of origin %q, not %q", path, h.checkpoint.Origin, l.origin)
	}
	return h, nil
}

// parseHead reads a head file, in which all of the witness's keys must have
// cosigned at the same time.
func parseHead(signed []byte, own []note.Verifier) (*head, error) {
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.ParseAny(n.Text)
	if err != nil {
		return nil, err
	}
	h := &head{checkpoint: c, body: n.Text, signed: bytes.Clone(signed)}
	for _, key := range own {
		sigs, err := n.Verified([]note.Verifier{key})
		if err != nil {
			return nil, err
		}
		if len(sigs) != 1 {
			return nil, fmt.Errorf("%d cosignatures by key %q, ID %08x, instead of one", len(sigs), key.Name(), key.KeyHash())
		}
		// A valid cosignature begins with its timestamp.
		timestamp := int64(binary.BigEndian.Uint64(sigs[0].Bytes))
		if len(h.sigs) > 0 && timestamp != h.timestamp {
			return nil, errors.New("cosignatures of different times")
		}
		h.timestamp = timestamp
		h.sigs = append(h.sigs, sigs[0])
	}
	return h, nil
}
