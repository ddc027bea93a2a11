package checkpoint

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxEvidenceSize bounds an evidence file, in bytes: two notes, whose JSON form
// can be longer than they are.
const MaxEvidenceSize = 4 * MaxNoteSize

// evidenceFormat marks an evidence file and its version.
const evidenceFormat = "tallystick checkpoint evidence v1"

// Evidence is two checkpoints of one log that somebody could not bring
// together: a witness, a node, a monitor. It is self-contained: whoever knows
// the log's key can judge it, and none of its content is trusted.
type Evidence struct {
	Vkeys     []string // the log's verifier keys, as whoever wrote it knew them
	Known     []byte   // signed note that had been accepted
	Submitted []byte   // signed note that was shown then
	// RootAt is the root hash that the tree of the larger checkpoint is said to
	// have at the size of the smaller one, nil if nothing is said. Hashes proves
	// it.
	RootAt *tlog.Hash
	// Hashes is the consistency proof that came with it: from RootAt to the larger
	// checkpoint, or, without RootAt, from the smaller checkpoint.
	Hashes []tlog.Hash
}

// Finding is what evidence proves.
type Finding int

const (
	// Unproven: the log signed both checkpoints, and the proof that came with them
	// does not connect them. Whoever submitted them may be at fault and not the
	// log; a proof from the log settles it.
	Unproven Finding = iota + 1
	// Fork: the log signed two trees of which neither extends the other: two root
	// hashes for one tree size, or a root hash for one size and a larger tree that
	// provably had another one at that size. No proof can ever connect them.
	Fork
)

// String returns the finding in a word, for people.
func (f Finding) String() string {
	switch f {
	case Unproven:
		return "unproven"
	case Fork:
		return "fork"
	}
	return fmt.Sprintf("finding %d", int(f))
}

// Verdict is what evidence proves about two checkpoints, both signed by the log.
type Verdict struct {
	Finding Finding
	// Known and Submitted are the two checkpoints, of one origin.
	Known, Submitted Checkpoint
	// RootAt is set for a Fork: the root hash that the larger tree has at the size
	// of the smaller one. For equal sizes it is that of Submitted.
	RootAt tlog.Hash
}

// Judge verifies evidence with the keys that the caller trusts for the log,
// which need not be those in the file. It is ErrLogSignature if the log signed
// only one of the checkpoints, ErrOrigin if they are of two logs, and ErrProof
// if they are consistent after all.
func (e *Evidence) Judge(keys []note.Verifier) (Finding, error) {
	v, err := e.Examine(keys)
	if err != nil {
		return 0, err
	}
	return v.Finding, nil
}

// Examine is Judge with what the finding is about.
func (e *Evidence) Examine(keys []note.Verifier) (*Verdict, error) {
	known, err := openAny(e.Known, keys)
	if err != nil {
		return nil, fmt.Errorf("known checkpoint: %w", err)
	}
	submitted, err := openAny(e.Submitted, keys)
	if err != nil {
		return nil, fmt.Errorf("submitted checkpoint: %w", err)
	}
	if known.Origin != submitted.Origin {
		return nil, fmt.Errorf("%w: %q and %q", ErrOrigin, known.Origin, submitted.Origin)
	}
	v := &Verdict{Finding: Unproven, Known: known, Submitted: submitted}
	if known.Size == submitted.Size && known.Root != submitted.Root {
		v.Finding, v.RootAt = Fork, submitted.Root
		return v, nil
	}
	older, newer := known.Tree(), submitted.Tree()
	if older.N > newer.N {
		older, newer = newer, older
	}
	root, proven := e.past(older, newer)
	switch {
	case proven && root == older.Hash || older == newer || older == tlog.Tree{Hash: EmptyRoot}:
		return nil, fmt.Errorf("%w: sizes %d and %d are consistent, so this is evidence of nothing", ErrProof, older.N, newer.N)
	case proven:
		v.Finding, v.RootAt = Fork, root
	}
	return v, nil
}

// past returns the root hash that the newer tree has at the older one's size, if
// the evidence proves it.
func (e *Evidence) past(older, newer tlog.Tree) (tlog.Hash, bool) {
	if e.RootAt != nil {
		err := VerifyConsistency(tlog.Tree{N: older.N, Hash: *e.RootAt}, newer, e.Hashes)
		return *e.RootAt, err == nil
	}
	if VerifyConsistency(older, newer, e.Hashes) == nil {
		return older.Hash, true
	}
	if older.N == 0 {
		return tlog.Hash{}, false // its root hash is no matter of proof
	}
	// A proof that leads to the newer root says what the older one should be.
	olderRoot, newerRoot, err := growthRoots(older, newer.N, e.Hashes)
	return olderRoot, err == nil && newerRoot == newer.Hash
}

// openAny is Open for any origin and with extension lines.
func openAny(signed []byte, keys []note.Verifier) (Checkpoint, error) {
	n, err := ParseNote(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := ParseAny(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	good, err := n.Verified(keys)
	if err != nil {
		return Checkpoint{}, err
	}
	if len(good) == 0 {
		return Checkpoint{}, fmt.Errorf("%w: none by a known key of %q", ErrLogSignature, c.Origin)
	}
	return c, nil
}

// evidenceFile is the JSON form of Evidence.
type evidenceFile struct {
	Format    string   `json:"format"`
	Vkeys     []string `json:"log_vkeys"`
	Known     string   `json:"known"`
	Submitted string   `json:"submitted"`
	RootAt    string   `json:"root_at_smaller_size,omitempty"`
	Hashes    []string `json:"consistency_proof"`
}

// Format returns the evidence file, indented JSON.
func (e *Evidence) Format() ([]byte, error) {
	f := evidenceFile{Format: evidenceFormat, Vkeys: e.Vkeys, Known: string(e.Known), Submitted: string(e.Submitted), Hashes: []string{}}
	if e.RootAt != nil {
		f.RootAt = base64.StdEncoding.EncodeToString(e.RootAt[:])
	}
	for _, h := range e.Hashes {
		f.Hashes = append(f.Hashes, base64.StdEncoding.EncodeToString(h[:]))
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	return b.Bytes(), nil
}

// ParseEvidence reads an evidence file. The result is well formed, not judged.
func ParseEvidence(text []byte) (*Evidence, error) {
	if len(text) > MaxEvidenceSize {
		return nil, fmt.Errorf("%w: evidence of %d bytes, at most %d", ErrTooLarge, len(text), MaxEvidenceSize)
	}
	var f evidenceFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, malformed("evidence: %v", err)
	}
	if f.Format != evidenceFormat {
		return nil, malformed("evidence: format %.60q is not %q", f.Format, evidenceFormat)
	}
	if len(f.Hashes) > MaxConsistencyHashes {
		return nil, fmt.Errorf("%w: %d hashes, at most %d", ErrTooLarge, len(f.Hashes), MaxConsistencyHashes)
	}
	e := &Evidence{Vkeys: f.Vkeys, Known: []byte(f.Known), Submitted: []byte(f.Submitted)}
	if f.RootAt != "" {
		h, err := parseHash(f.RootAt)
		if err != nil {
			return nil, malformed("evidence: root_at_smaller_size: %v", err)
		}
		e.RootAt = &h
	}
	for i, s := range f.Hashes {
		h, err := parseHash(s)
		if err != nil {
			return nil, malformed("evidence: hash %d: %v", i, err)
		}
		e.Hashes = append(e.Hashes, h)
	}
	for _, vkey := range e.Vkeys {
		if _, err := ParseLogVkey(vkey); err != nil {
			return nil, err
		}
	}
	for _, signed := range [][]byte{e.Known, e.Submitted} {
		if _, err := ParseNote(signed); err != nil {
			return nil, err
		}
	}
	// Unknown, repeated and misspelt members, and other spellings, show up here.
	if again, err := e.Format(); err != nil || !bytes.Equal(again, text) {
		return nil, malformed("evidence: %v", errors.Join(errors.New("not in canonical form"), err))
	}
	return e, nil
}
