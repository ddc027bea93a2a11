package checkpoint

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const (
	// MaxSignatures bounds the signature lines of a note. The specification asks
	// for 16 at least; 100 is what golang.org/x/mod reads.
	MaxSignatures = 100
	// MaxNoteSize bounds a signed note, in bytes: a checkpoint and MaxSignatures
	// ML-DSA-44 cosignatures, whose lines take up to 3.5 kB each with the longest
	// key name, and more than 100 kB beside them. Anybody may have a policy of so
	// many witnesses; a lower bound would refuse what it asks for.
	MaxNoteSize = 512 << 10
)

// signaturePrefix begins every signature line: em dash (U+2014) and space.
const signaturePrefix = "\u2014 "

// Note is a signed note that was taken apart (c2sp.org/signed-note). Nothing in
// it is verified.
type Note struct {
	Text       []byte      // with the final newline, without the blank line
	Signatures []Signature // in the order of the note, 1 to MaxSignatures
}

// Signature is one signature line of a note.
type Signature struct {
	Name  string // key name
	KeyID uint32
	Bytes []byte // the signature without the key ID
}

// Line returns the signature line, terminated by a newline. ParseNote accepts
// only the canonical form, so it is the line that was read.
func (s Signature) Line() []byte {
	b := binary.BigEndian.AppendUint32(nil, s.KeyID)
	b = append(b, s.Bytes...)
	return fmt.Appendf(nil, "%s%s %s\n", signaturePrefix, s.Name, base64.StdEncoding.EncodeToString(b))
}

// ParseNote takes a signed note apart. The text ends at the last blank line.
func ParseNote(signed []byte) (*Note, error) {
	if len(signed) > MaxNoteSize {
		return nil, fmt.Errorf("%w: note of %d bytes, at most %d", ErrTooLarge, len(signed), MaxNoteSize)
	}
	if err := checkText(signed); err != nil {
		return nil, err
	}
	split := bytes.LastIndex(signed, []byte("\n\n"))
	if split < 0 {
		return nil, malformed("note: no blank line before the signatures")
	}
	sigs, err := ParseSignatures(signed[split+2:])
	if err != nil {
		return nil, err
	}
	if len(sigs) == 0 {
		return nil, malformed("note: no signature")
	}
	return &Note{Text: signed[:split+1], Signatures: sigs}, nil
}

// ParseSignatures reads a sequence of zero or more signature lines, the form of
// a witness's answer.
func ParseSignatures(lines []byte) ([]Signature, error) {
	if len(lines) > MaxNoteSize {
		return nil, fmt.Errorf("%w: signatures of %d bytes, at most %d", ErrTooLarge, len(lines), MaxNoteSize)
	}
	if err := checkText(lines); err != nil {
		return nil, err
	}
	var sigs []Signature
	for rest := string(lines); rest != ""; {
		line, tail, terminated := strings.Cut(rest, "\n")
		if !terminated {
			return nil, malformed("note: signature line is not terminated")
		}
		if len(sigs) == MaxSignatures {
			return nil, fmt.Errorf("%w: more than %d signatures", ErrTooLarge, MaxSignatures)
		}
		sig, err := parseSignature(line)
		if err != nil {
			return nil, err
		}
		sigs, rest = append(sigs, sig), tail
	}
	return sigs, nil
}

// parseSignature reads one signature line without its newline.
func parseSignature(line string) (Signature, error) {
	rest, ok := strings.CutPrefix(line, signaturePrefix)
	if !ok {
		return Signature{}, malformed("note: %.40q is not a signature line", line)
	}
	name, b64, _ := strings.Cut(rest, " ")
	if !validName(name) {
		return Signature{}, malformed("note: %.40q is not a key name", name)
	}
	b, err := strictBase64.DecodeString(b64)
	if err != nil || len(b) < 5 {
		return Signature{}, malformed("note: signature of %q is not the base64 of a key ID and a signature", name)
	}
	return Signature{Name: name, KeyID: binary.BigEndian.Uint32(b), Bytes: b[4:]}, nil
}

// errBadSignature reports a signature that names a known key and does not
// verify. Callers say whose key it is.
var errBadSignature = errors.New("bad signature")

// Verified returns the signatures by the given keys, in note order, and ignores
// those by other keys. If a signature has the name and ID of one of the keys
// and does not verify, the note is unacceptable as a whole (c2sp.org/signed-note,
// "Signatures"): the error is ErrLogSignature.
func (n *Note) Verified(keys []note.Verifier) ([]Signature, error) {
	good, err := n.verified(keys)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLogSignature, err)
	}
	return good, nil
}

func (n *Note) verified(keys []note.Verifier) ([]Signature, error) {
	var good []Signature
	for _, sig := range n.Signatures {
		for _, key := range keys {
			if key.Name() != sig.Name || key.KeyHash() != sig.KeyID {
				continue
			}
			if !key.Verify(n.Text, sig.Bytes) {
				return nil, fmt.Errorf("%w by key %q, ID %08x", errBadSignature, sig.Name, sig.KeyID)
			}
			good = append(good, sig)
		}
	}
	return good, nil
}

// Sign returns the signed note of c with one signature of each signer. It
// refuses a checkpoint that Parse would refuse.
func Sign(c Checkpoint, signers ...note.Signer) ([]byte, error) {
	if err := c.Valid(); err != nil {
		return nil, err
	}
	if len(signers) == 0 {
		return nil, fmt.Errorf("%w: no signer", ErrSigning)
	}
	signed, err := note.Sign(&note.Note{Text: string(c.Body())}, signers...)
	if err != nil {
		return nil, fmt.Errorf("%w: checkpoint of %q: %w", ErrSigning, c.Origin, err)
	}
	return signed, nil
}

// Open returns the checkpoint of a signed note after it has found its origin to
// be the given one and a signature of at least one of the given keys of the
// log. Signatures by other keys are ignored; a bad one of these keys is
// ErrLogSignature even beside a good one.
func Open(signed []byte, origin string, keys []note.Verifier) (Checkpoint, error) {
	n, err := ParseNote(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := Parse(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != origin {
		return Checkpoint{}, fmt.Errorf("%w: %q, not %q", ErrOrigin, c.Origin, origin)
	}
	good, err := n.Verified(keys)
	if err != nil {
		return Checkpoint{}, err
	}
	if len(good) == 0 {
		return Checkpoint{}, fmt.Errorf("%w: none by a known key of %q", ErrLogSignature, origin)
	}
	return c, nil
}
