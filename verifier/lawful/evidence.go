package lawful

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Format marks an evidence file of this kind and its version.
const Format = "tallystick unlawful change evidence v1"

const (
	// MaxEvidenceSize bounds an evidence file, in bytes, as a proof bundle is
	// bounded, which may hold as many changes.
	MaxEvidenceSize = 64 << 20
	// MaxEntries bounds the entries of evidence: as many changes as a proof bundle
	// holds, and the one that is not lawful.
	MaxEntries = 100_001
)

// The outcomes of this package. Every error that it returns matches exactly one
// of them with [errors.Is].
var (
	// ErrMalformed: the bytes are not an evidence file, or exceed its bounds.
	ErrMalformed = errors.New("malformed evidence")
	// ErrGenesis: the genesis to judge by cannot be used, or is another one than
	// the file's.
	ErrGenesis = errors.New("genesis")
	// ErrNotSigned: the checkpoint is not one of the cluster's membership log, by a
	// key that genesis or a lawful change names.
	ErrNotSigned = errors.New("checkpoint not signed by the membership log")
	// ErrNotInLog: the entries are not shown to be those that the log begins with.
	ErrNotInLog = errors.New("entries not proven to be the log's")
	// ErrLawful: every change is lawful, so this is evidence of nothing.
	ErrLawful = errors.New("no unlawful change")
	// ErrVersion: the last change is made under a protocol version that this
	// program does not know, so it cannot say whether it is lawful.
	ErrVersion = errors.New("change of an unknown protocol version")
)

// Evidence is the beginning of a membership log up to a change that is not
// lawful, and the signed checkpoint that makes the log answerable for it.
type Evidence struct {
	// Genesis is the change that the cluster begins with, as whoever wrote the
	// evidence had it pinned.
	Genesis []byte
	// Entries are the log's entries from index 0 on; the last one is not lawful.
	Entries [][]byte
	// Checkpoint is a signed note of the log.
	Checkpoint []byte
	// Hashes is the consistency proof (RFC 6962, section 2.1.2) from the tree of
	// Entries to that of the checkpoint.
	Hashes []tlog.Hash
}

// Verdict says what evidence proves: the holder of a key of the log signed a
// tree in which the entry at Index is no lawful change.
type Verdict struct {
	Cluster string
	Origin  string // of the membership log
	Index   int64  // of the entry
	Epoch   uint64 // that it would have made; Index + 1
	// Code names the rule that is broken, as [membership.RefusalError] does.
	Code   membership.RefusalCode
	Detail string // for people; untrusted text in it is quoted
	// Entry is the digest of the entry.
	Entry [sha256.Size]byte
	// Checkpoint is what the log signed.
	Checkpoint checkpoint.Checkpoint
	// Signers are the verifier keys that signed it, in the order of the note.
	Signers []string
}

// Judge verifies evidence from the genesis that the caller trusts. Without an
// error the log signed a tree with an unlawful change in it, and the verdict
// says which.
func (e *Evidence) Judge(genesis []byte) (*Verdict, error) {
	if !bytes.Equal(genesis, e.Genesis) {
		return nil, fmt.Errorf("%w: the evidence is of a cluster with another one", ErrGenesis)
	}
	if _, _, err := membership.Genesis(genesis); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	if len(e.Entries) == 0 || len(e.Entries) > MaxEntries {
		return nil, fmt.Errorf("%w: %d entries, want 1 to %d", ErrMalformed, len(e.Entries), MaxEntries)
	}
	keys := logKeys{}
	v, err := e.fold(genesis, keys)
	if err != nil {
		return nil, err
	}
	if err := e.open(v, keys); err != nil {
		return nil, err
	}
	return v, e.inTree(v.Checkpoint)
}

// fold applies the entries up to the last one, which has to be refused, and
// notes what keys they name for the log.
func (e *Evidence) fold(genesis []byte, keys logKeys) (*Verdict, error) {
	last := len(e.Entries) - 1
	v := &Verdict{Index: int64(last), Epoch: uint64(last) + 1, Entry: sha256.Sum256(e.Entries[last])}
	if last == 0 {
		// The log does not begin with the genesis, whatever else it begins with.
		state, _, err := membership.Genesis(genesis)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrGenesis, err)
		}
		if bytes.Equal(e.Entries[0], genesis) {
			return nil, fmt.Errorf("%w: the one entry is the genesis", ErrLawful)
		}
		v.Cluster, v.Code, v.Detail = state.Cluster(), membership.RefusedGenesis, "the log does not begin with the cluster's genesis"
		return v, keys.add(state)
	}
	if !bytes.Equal(e.Entries[0], genesis) {
		return nil, fmt.Errorf("%w: entry 0 is not the genesis, and it is not the last entry", ErrMalformed)
	}
	var state *membership.State
	for i, entry := range e.Entries {
		next, err := apply(state, entry)
		var refusal *membership.RefusalError
		switch {
		case err == nil:
			state = next
			if err := keys.add(state); err != nil {
				return nil, err
			}
		case i < last:
			return nil, fmt.Errorf("%w: entry %d, which is not the last, is not lawful: %w", ErrMalformed, i, err)
		case errors.Is(err, membership.RefusedVersion):
			return nil, fmt.Errorf("%w: entry %d: %w", ErrVersion, i, err)
		case errors.As(err, &refusal):
			v.Cluster, v.Code, v.Detail = state.Cluster(), refusal.Code, refusal.Detail
			return v, nil
		default:
			return nil, fmt.Errorf("%w: entry %d: %w", ErrMalformed, i, err)
		}
	}
	return nil, fmt.Errorf("%w: %d entries", ErrLawful, len(e.Entries))
}

// apply makes the next state; the first change is made of nothing.
func apply(state *membership.State, entry []byte) (next *membership.State, err error) {
	if state == nil {
		next, _, err = membership.Genesis(entry)
	} else {
		next, _, err = state.Apply(entry)
	}
	return next, err
}

// logKeys are the keys that a history names for its membership log, by origin.
// A log that was succeeded has another origin than its successor.
type logKeys map[string][]note.Verifier

// add notes the log keys of a state.
func (k logKeys) add(state *membership.State) error {
	log := state.Logs().Membership
next:
	for _, vkey := range log.Keys {
		key, err := checkpoint.ParseVkey(vkey)
		if err != nil {
			return fmt.Errorf("%w: log key of epoch %d: %w", ErrGenesis, state.Epoch(), err)
		}
		for _, known := range k[log.Origin] {
			if known.KeyHash() == key.KeyHash() {
				continue next
			}
		}
		k[log.Origin] = append(k[log.Origin], key)
	}
	return nil
}

// open verifies the log's signature of the checkpoint.
func (e *Evidence) open(v *Verdict, keys logKeys) error {
	n, err := checkpoint.ParseNote(e.Checkpoint)
	if err != nil {
		return fmt.Errorf("%w: checkpoint: %w", ErrMalformed, err)
	}
	if v.Checkpoint, err = checkpoint.ParseAny(n.Text); err != nil {
		return fmt.Errorf("%w: checkpoint: %w", ErrMalformed, err)
	}
	v.Origin = v.Checkpoint.Origin
	good, err := n.Verified(keys[v.Origin])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSigned, err)
	}
	if len(good) == 0 {
		return fmt.Errorf("%w: none by a key that the cluster's changes name for %q", ErrNotSigned, v.Origin)
	}
	for _, sig := range good {
		for _, key := range keys[v.Origin] {
			if key.KeyHash() == sig.KeyID {
				v.Signers = append(v.Signers, key.(*checkpoint.Key).Vkey())
			}
		}
	}
	return nil
}

// inTree checks that the log's tree begins with the entries.
func (e *Evidence) inTree(c checkpoint.Checkpoint) error {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = stored[index]
		}
		return out, nil
	})
	for i, entry := range e.Entries {
		hashes, err := tlog.StoredHashes(int64(i), entry, reader)
		if err != nil {
			return fmt.Errorf("%w: hashing entry %d: %w", ErrNotInLog, i, err)
		}
		stored = append(stored, hashes...)
	}
	size := int64(len(e.Entries))
	root, err := tlog.TreeHash(size, reader)
	if err != nil {
		return fmt.Errorf("%w: hashing %d entries: %w", ErrNotInLog, size, err)
	}
	if err := checkpoint.VerifyConsistency(tlog.Tree{N: size, Hash: root}, c.Tree(), e.Hashes); err != nil {
		return fmt.Errorf("%w: %w", ErrNotInLog, err)
	}
	return nil
}

// evidenceFile is the JSON form of Evidence.
type evidenceFile struct {
	Format     string   `json:"format"`
	Genesis    []byte   `json:"genesis"`
	Entries    [][]byte `json:"entries"`
	Checkpoint string   `json:"checkpoint"`
	Hashes     [][]byte `json:"consistency_proof"`
}

// Format returns the evidence file, indented JSON. Evidence that would be too
// large to be read is ErrMalformed.
func (e *Evidence) Format() ([]byte, error) {
	f := evidenceFile{Format: Format, Genesis: e.Genesis, Entries: [][]byte{}, Checkpoint: string(e.Checkpoint), Hashes: [][]byte{}}
	size := len(e.Genesis) + len(e.Checkpoint)
	for _, entry := range e.Entries {
		if size += len(entry); size > MaxEvidenceSize { // before it takes memory twice
			break
		}
		f.Entries = append(f.Entries, append([]byte{}, entry...)) // an empty one is "", never null
	}
	if size > MaxEvidenceSize {
		return nil, fmt.Errorf("%w: entries of %d bytes, at most %d with everything else", ErrMalformed, size, MaxEvidenceSize)
	}
	for _, h := range e.Hashes {
		f.Hashes = append(f.Hashes, h[:])
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("%w: encoding: %w", ErrMalformed, err)
	}
	if b.Len() > MaxEvidenceSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, b.Len(), MaxEvidenceSize)
	}
	return b.Bytes(), nil
}

// Parse reads an evidence file. The result is well formed, not judged.
func Parse(text []byte) (*Evidence, error) {
	if len(text) > MaxEvidenceSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(text), MaxEvidenceSize)
	}
	var f evidenceFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if f.Format != Format {
		return nil, fmt.Errorf("%w: format %.60q is not %q", ErrMalformed, f.Format, Format)
	}
	if len(f.Entries) == 0 || len(f.Entries) > MaxEntries {
		return nil, fmt.Errorf("%w: %d entries, want 1 to %d", ErrMalformed, len(f.Entries), MaxEntries)
	}
	if len(f.Hashes) > checkpoint.MaxConsistencyHashes {
		return nil, fmt.Errorf("%w: %d hashes, at most %d", ErrMalformed, len(f.Hashes), checkpoint.MaxConsistencyHashes)
	}
	e := &Evidence{Genesis: f.Genesis, Entries: f.Entries, Checkpoint: []byte(f.Checkpoint)}
	for i, h := range f.Hashes {
		if len(h) != tlog.HashSize {
			return nil, fmt.Errorf("%w: hash %d of %d bytes", ErrMalformed, i, len(h))
		}
		e.Hashes = append(e.Hashes, tlog.Hash(h))
	}
	// Unknown, repeated and misspelt members, null, and other spellings of base64
	// and JSON show up here.
	if again, err := e.Format(); err != nil || !bytes.Equal(again, text) {
		return nil, errors.Join(fmt.Errorf("%w: not in canonical form", ErrMalformed), err)
	}
	return e, nil
}
