package checkpoint

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Bounds of a successor entry.
const (
	// MaxSuccessorSize is the largest entry of a tlog-tiles log, in bytes.
	MaxSuccessorSize = 1<<16 - 1
	// MaxSuccessorKeys bounds the keys of each kind: the current one, and those
	// of rotations that nobody ever saw more of at a time.
	MaxSuccessorKeys = 8
)

// Lines of a successor entry, docs/formats/successor.md.
const (
	successorHeader  = "tallystick log successor v1"
	successorOrigin  = "origin "
	successorKey     = "key "
	successorReceipt = "receipt-key "
	receiptSuffix    = "/receipt"
)

// Successor is the first entry of a log that continues another one which has
// ended. It names the last checkpoint of the old log that counts, and repeats
// the new log's own name and keys, so that a change which confirms the successor
// needs nothing else.
//
// What it says is a claim of whoever made the new log. It is worth what the
// checkpoint's signatures and cosignatures are worth under the old log's policy:
// see Predecessor.
type Successor struct {
	Origin      string   // of the new log
	Keys        []string // vkeys of the new log, 1 to MaxSuccessorKeys
	ReceiptKeys []string // vkeys of its receipt keys, named Origin + "/receipt"; may be empty
	Checkpoint  []byte   // signed note: the old log's last cosigned checkpoint
}

// Format returns the entry. It refuses what ParseSuccessor would refuse.
func (s *Successor) Format() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b := s.format()
	if len(b) > MaxSuccessorSize {
		return nil, fmt.Errorf("%w: successor entry of %d bytes, at most %d", ErrTooLarge, len(b), MaxSuccessorSize)
	}
	return b, nil
}

func (s *Successor) format() []byte {
	b := fmt.Appendf(nil, "%s\n%s%s\n", successorHeader, successorOrigin, s.Origin)
	for _, k := range s.Keys {
		b = fmt.Appendf(b, "%s%s\n", successorKey, k)
	}
	for _, k := range s.ReceiptKeys {
		b = fmt.Appendf(b, "%s%s\n", successorReceipt, k)
	}
	b = append(b, '\n')
	return append(b, s.Checkpoint...)
}

// ParseSuccessor reads an entry. There is one form for each content: whatever
// does not format to itself is ErrMalformed. No signature is verified.
func ParseSuccessor(entry []byte) (*Successor, error) {
	if len(entry) > MaxSuccessorSize {
		return nil, fmt.Errorf("%w: successor entry of %d bytes, at most %d", ErrTooLarge, len(entry), MaxSuccessorSize)
	}
	head, checkpoint, ok := bytes.Cut(entry, []byte("\n\n"))
	if !ok {
		return nil, malformed("successor: no blank line before the checkpoint")
	}
	s := &Successor{Checkpoint: bytes.Clone(checkpoint)}
	lines := strings.Split(string(head), "\n")
	if len(lines) > 2+2*MaxSuccessorKeys || lines[0] != successorHeader {
		return nil, malformed("successor: not a %q of at most %d lines", successorHeader, 2+2*MaxSuccessorKeys)
	}
	for _, line := range lines[1:] {
		if v, ok := strings.CutPrefix(line, successorOrigin); ok {
			s.Origin = v
		} else if v, ok := strings.CutPrefix(line, successorKey); ok {
			s.Keys = append(s.Keys, v)
		} else if v, ok := strings.CutPrefix(line, successorReceipt); ok {
			s.ReceiptKeys = append(s.ReceiptKeys, v)
		} else {
			return nil, malformed("successor: unknown line %.40q", line)
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(s.format(), entry) {
		return nil, malformed("successor: lines repeated or out of order")
	}
	return s, nil
}

func (s *Successor) check() error {
	if !validName(s.Origin) {
		return malformed("successor: %.300q is not an origin", s.Origin)
	}
	if len(s.Keys) < 1 || len(s.Keys) > MaxSuccessorKeys || len(s.ReceiptKeys) > MaxSuccessorKeys {
		return malformed("successor: %d keys and %d receipt keys, want 1 to %d and 0 to %d",
			len(s.Keys), len(s.ReceiptKeys), MaxSuccessorKeys, MaxSuccessorKeys)
	}
	if err := checkKeysOf(s.Origin, s.Keys); err != nil {
		return err
	}
	if err := checkKeysOf(s.Origin+receiptSuffix, s.ReceiptKeys); err != nil {
		return err
	}
	old, err := s.unverified()
	if err != nil {
		return err
	}
	if old.Origin == s.Origin {
		return malformed("successor: the new origin %q is the old one", s.Origin)
	}
	return nil
}

// checkKeysOf makes sure that the keys are vkeys of the given name, each once.
func checkKeysOf(name string, vkeys []string) error {
	for i, vkey := range vkeys {
		k, err := ParseLogVkey(vkey)
		if err != nil {
			return malformed("successor: %v", err)
		}
		if k.Name() != name {
			return malformed("successor: key of %q, want %q", k.Name(), name)
		}
		if slices.Contains(vkeys[:i], vkey) {
			return malformed("successor: key %q is named twice", vkey)
		}
	}
	return nil
}

// unverified reads the old log's checkpoint.
func (s *Successor) unverified() (Checkpoint, error) {
	n, err := ParseNote(s.Checkpoint)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("successor: %w", err)
	}
	old, err := Parse(n.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("successor: %w", err)
	}
	return old, nil
}

// Predecessor returns the old log's checkpoint after it has found it signed by
// one of the old log's keys. Whether its cosignatures suffice is for a Policy.
func (s *Successor) Predecessor(origin string, keys []note.Verifier) (Checkpoint, error) {
	return Open(s.Checkpoint, origin, keys)
}

// TrimCosignatures returns the signed checkpoint within limit bytes: with the
// signatures by the given keys and, in order of their length and then of the
// note, as many of the others as fit. A limit of 0 leaves all others out.
func TrimCosignatures(signed []byte, keep []note.Verifier, limit int) ([]byte, error) {
	n, err := ParseNote(signed)
	if err != nil {
		return nil, err
	}
	good, err := n.Verified(keep)
	if err != nil {
		return nil, err
	}
	size := len(n.Text) + 1
	for _, sig := range good {
		size += len(sig.Line())
	}
	isKept := func(sig Signature) bool {
		return slices.ContainsFunc(good, func(g Signature) bool { return g.Name == sig.Name && g.KeyID == sig.KeyID })
	}
	byLength := slices.DeleteFunc(slices.Clone(n.Signatures), isKept)
	slices.SortStableFunc(byLength, func(a, b Signature) int { return len(a.Line()) - len(b.Line()) })
	fits := map[string]bool{}
	for _, sig := range byLength {
		line := string(sig.Line())
		if size += len(line); size > limit {
			break
		}
		fits[line] = true
	}
	out := append(bytes.Clone(n.Text), '\n')
	for _, sig := range n.Signatures {
		if line := sig.Line(); isKept(sig) || fits[string(line)] {
			out = append(out, line...)
		}
	}
	if len(good) == 0 || limit > 0 && len(out) > limit {
		return nil, fmt.Errorf("%w: signed checkpoint without room for the log's signature in %d bytes", ErrTooLarge, limit)
	}
	return out, nil
}
