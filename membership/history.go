package membership

import (
	"bytes"
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// warmEpochs is how many of the latest states keep their hashes for proofs and
// their node list. Those of older states, derived again when asked for, would
// be most of a history's memory.
const warmEpochs = 8

// A History is the fold over a membership log: every change so far, the state
// after each, and the validity of every key. It is safe for concurrent use.
type History struct {
	// appending is held by the one Append that runs. Checking a change takes
	// milliseconds in a large cluster, so readers only wait for its last step.
	appending sync.Mutex
	fixed     bool // a prefix, which takes no changes; never written after it is made

	mu     sync.RWMutex // guards all below; written under appending only
	epochs []epoch      // epochs[i] is epoch i+1
	// hashes are the stored hashes of the membership log, as tlog orders them.
	hashes []tlog.Hash
	spans  map[string][]keySpan // by key id, ascending by epoch
	// held are the key ids that a principal of this id has ever held.
	held map[string][]string
}

type epoch struct {
	state    *State
	info     *ChangeInfo
	envelope []byte
}

// A keySpan is one run of epochs in which a principal held a key.
type keySpan struct {
	principal string
	from      uint64 // first epoch
	end       uint64 // first epoch without it; 0 while it is held
	revoked   uint64 // epoch at which it was revoked; 0 if it was not
}

// NewHistory returns a history without any epoch; its first change must be a
// genesis.
func NewHistory() *History {
	return &History{spans: make(map[string][]keySpan), held: make(map[string][]string)}
}

// Append takes the next entry of the membership log. When it is refused, with
// a [*RefusalError], the history is as before. The envelope is copied.
func (h *History) Append(envelope []byte) (*ChangeInfo, error) {
	h.appending.Lock()
	defer h.appending.Unlock()
	if h.fixed {
		return nil, errFixed
	}

	before := h.Current()
	var next *State
	var info *ChangeInfo
	var err error
	if before == nil {
		next, info, err = Genesis(envelope)
	} else {
		next, info, err = before.Apply(envelope)
	}
	if err != nil {
		return nil, err
	}
	index := int64(next.epoch) - 1
	stored, err := tlog.StoredHashes(index, envelope, tlog.HashReaderFunc(h.readHashes))
	if err != nil {
		return nil, fmt.Errorf("hashing entry %d of the membership log: %w", index, err)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	h.hashes = append(h.hashes, stored...)
	h.recordKeys(next, info.Change.Effect)
	h.epochs = append(h.epochs, epoch{state: next, info: info, envelope: bytes.Clone(envelope)})
	if cold := len(h.epochs) - warmEpochs - 1; cold >= 0 {
		h.epochs[cold].state = h.epochs[cold].state.light()
	}
	return info, nil
}

// recordKeys notes which keys begin and end with the epoch that next is.
func (h *History) recordKeys(next *State, effect Effect) {
	begin := func(p Principal) {
		for _, k := range p.Keys {
			id := k.ID()
			if spans := h.spans[id]; len(spans) > 0 && spans[len(spans)-1].end == 0 {
				continue // held before
			}
			h.spans[id] = append(h.spans[id], keySpan{principal: p.ID, from: next.epoch})
			h.held[p.ID] = append(h.held[p.ID], id)
		}
	}
	switch e := effect.(type) {
	case Founding:
		for p := range next.Principals() {
			begin(p)
		}
	case AddPrincipal:
		begin(e.Principal)
	case RotateKey:
		if e.Remove != "" {
			span := &h.spans[e.Remove][len(h.spans[e.Remove])-1]
			span.end = next.epoch
			if e.Add == nil {
				span.revoked = next.epoch
			}
		}
		if p, ok := next.Principal(e.ID); ok {
			begin(p)
		}
	case RemovePrincipal:
		// Keys that were rotated away are revoked now too: what they signed was
		// good as long as their holder was a member, and the id may return.
		for _, id := range h.held[e.ID] {
			for i := range h.spans[id] {
				span := &h.spans[id][i]
				if span.principal != e.ID {
					continue
				}
				if span.end == 0 {
					span.end = next.epoch
				}
				if span.revoked == 0 {
					span.revoked = next.epoch
				}
			}
		}
		delete(h.held, e.ID)
	}
}

// Current returns the state of the latest epoch, nil while there is none.
func (h *History) Current() *State {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.epochs) == 0 {
		return nil
	}
	return h.epochs[len(h.epochs)-1].state
}

// Size returns the number of changes, which is the current epoch and the size
// of the membership log.
func (h *History) Size() uint64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return uint64(len(h.epochs))
}

// StateAt returns the state of an epoch. The error wraps [ErrUnknownEpoch].
func (h *History) StateAt(number uint64) (*State, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	e, err := h.epoch(number)
	if err != nil {
		return nil, err
	}
	if number+warmEpochs <= uint64(len(h.epochs)) {
		// What the caller makes it derive goes away with the caller's copy.
		return e.state.light(), nil
	}
	return e.state, nil
}

// Change returns what became of the change that made an epoch, and its envelope
// as it is in the log, which must not be changed. The error wraps
// [ErrUnknownEpoch].
func (h *History) Change(number uint64) (*ChangeInfo, []byte, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	e, err := h.epoch(number)
	if err != nil {
		return nil, nil, err
	}
	return e.info, e.envelope, nil
}

// Root returns the RFC 6962 root hash of the membership log at a size: of the
// envelopes of epochs 1 to size. The error wraps [ErrUnknownEpoch].
func (h *History) Root(size uint64) (tlog.Hash, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if size > uint64(len(h.epochs)) {
		return tlog.Hash{}, fmt.Errorf("size %d of %d: %w", size, len(h.epochs), ErrUnknownEpoch)
	}
	return tlog.TreeHash(int64(size), tlog.HashReaderFunc(h.readHashes))
}

// KeyValidAt reports whether at an epoch the principal held the key with this
// id and could use it so. An epoch that is not in the history has no keys.
func (h *History) KeyValidAt(principal, keyID string, use Use, number uint64) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	e, err := h.epoch(number)
	if err != nil {
		return false
	}
	p, ok := e.state.Principal(principal)
	if !ok {
		return false
	}
	_, ok = p.KeyFor(use, keyID)
	return ok
}

// Revoked reports whether the key with this id was revoked after epoch from and
// up to epoch by, both of which count from 1. A key that was only rotated was
// not; a key that was never held was not either, so ask KeyValidAt(…, from) too.
func (h *History) Revoked(keyID string, from, by uint64) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, span := range h.spans[keyID] {
		if from < span.revoked && span.revoked <= by {
			return true
		}
	}
	return false
}

func (h *History) epoch(number uint64) (*epoch, error) {
	if number < 1 || number > uint64(len(h.epochs)) {
		return nil, fmt.Errorf("epoch %d of %d: %w", number, len(h.epochs), ErrUnknownEpoch)
	}
	return &h.epochs[number-1], nil
}

func (h *History) readHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = h.hashes[index]
	}
	return out, nil
}
