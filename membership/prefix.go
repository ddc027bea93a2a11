package membership

import (
	"errors"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// errFixed is a mistake of the program: a prefix was given a change.
var errFixed = errors.New("this history is the prefix of another and takes no changes")

// Prefix returns the history of the first size changes. It answers as one that was
// folded from them, so what was checked once need not be checked again: the cost is
// that of copying what is known of keys. It takes no changes. The error wraps
// [ErrUnknownEpoch].
func (h *History) Prefix(size uint64) (*History, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if size > 0 {
		if _, err := h.epoch(size); err != nil {
			return nil, err
		}
	}
	p := &History{
		fixed:  true,
		epochs: slices.Clone(h.epochs[:size]),
		hashes: slices.Clone(h.hashes[:tlog.StoredHashCount(int64(size))]),
		spans:  make(map[string][]keySpan, len(h.spans)),
	}
	// The states that are kept warm here are other ones than there, and what they
	// derive goes away with this prefix.
	for i := max(0, len(p.epochs)-warmEpochs); i < len(h.epochs)-warmEpochs && i < len(p.epochs); i++ {
		p.epochs[i].state = p.epochs[i].state.light()
	}
	for id, spans := range h.spans {
		for _, s := range spans {
			if s.from > size {
				break
			}
			if s.end > size {
				s.end = 0
			}
			if s.revoked > size {
				s.revoked = 0
			}
			p.spans[id] = append(p.spans[id], s)
		}
	}
	return p, nil
}
