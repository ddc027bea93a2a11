package checkpoint

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxExtraSize bounds the extra data of a proof, in bytes.
	MaxExtraSize = 64 << 10
	// MaxProofSize bounds a proof file, in bytes: the note, the extra data in
	// base64, the hashes.
	MaxProofSize = MaxNoteSize + 2*MaxExtraSize
)

const proofHeader = "c2sp.org/tlog-proof@v1\n"

// Proof is an offline proof that an entry is in a log: c2sp.org/tlog-proof.
// None of its fields is authenticated until [Policy.VerifyProof] has passed,
// and Extra never is.
type Proof struct {
	Index      int64       // zero-based index of the entry
	Hashes     []tlog.Hash // inclusion proof, from the leaf's sibling upwards
	Extra      []byte      // opaque data of the application, or nil
	Checkpoint []byte      // signed note, verbatim
}

// ParseProof reads a proof file. There is exactly one text for each proof.
func ParseProof(text []byte) (*Proof, error) {
	if len(text) > MaxProofSize {
		return nil, fmt.Errorf("%w: proof of %d bytes, at most %d", ErrTooLarge, len(text), MaxProofSize)
	}
	rest, ok := bytes.CutPrefix(text, []byte(proofHeader))
	if !ok {
		return nil, malformed("proof: the first line is not %q", strings.TrimSpace(proofHeader))
	}
	head, note, ok := bytes.Cut(rest, []byte("\n\n"))
	if !ok {
		return nil, malformed("proof: no empty line before the checkpoint")
	}
	p := &Proof{Checkpoint: note}
	if err := p.parseHead(strings.Split(string(head), "\n")); err != nil {
		return nil, err
	}
	n, err := ParseNote(note)
	if err != nil {
		return nil, err
	}
	c, err := ParseAny(n.Text)
	if err != nil {
		return nil, err
	}
	if p.Index >= c.Size {
		return nil, malformed("proof: index %d in a tree of size %d", p.Index, c.Size)
	}
	if !bytes.Equal(p.Format(), text) {
		return nil, malformed("proof: not in canonical form")
	}
	return p, nil
}

// parseHead reads the lines between the header and the empty line.
func (p *Proof) parseHead(lines []string) error {
	if extra, ok := strings.CutPrefix(lines[0], "extra "); ok {
		data, err := strictBase64.DecodeString(extra)
		if err != nil || len(data) == 0 {
			return malformed("proof: the extra line is not base64 of at least one byte")
		}
		if len(data) > MaxExtraSize {
			return fmt.Errorf("%w: extra data of %d bytes, at most %d", ErrTooLarge, len(data), MaxExtraSize)
		}
		p.Extra, lines = data, lines[1:]
	}
	if len(lines) == 0 {
		return malformed("proof: no index line")
	}
	decimal, ok := strings.CutPrefix(lines[0], "index ")
	if !ok {
		return malformed("proof: %.40q is not the index line", lines[0])
	}
	index, err := parseDecimal(decimal)
	if err != nil {
		return malformed("proof: index: %v", err)
	}
	p.Index, lines = index, lines[1:]
	if len(lines) > MaxInclusionHashes {
		return fmt.Errorf("%w: %d hashes, at most %d", ErrTooLarge, len(lines), MaxInclusionHashes)
	}
	for i, line := range lines {
		h, err := parseHash(line)
		if err != nil {
			return malformed("proof: hash %d: %v", i, err)
		}
		p.Hashes = append(p.Hashes, h)
	}
	return nil
}

// Format returns the proof file. Files are named with the extension
// .tlog-proof.
func (p Proof) Format() []byte {
	var b bytes.Buffer
	b.WriteString(proofHeader)
	if len(p.Extra) > 0 {
		fmt.Fprintf(&b, "extra %s\n", base64.StdEncoding.EncodeToString(p.Extra))
	}
	fmt.Fprintf(&b, "index %d\n", p.Index)
	for _, h := range p.Hashes {
		fmt.Fprintf(&b, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return b.Bytes()
}

// VerifyProof checks a proof as c2sp.org/tlog-proof says, "Verifying a tlog
// proof", for an entry whose leaf hash the caller has computed: the checkpoint
// satisfies the policy, and the leaf is in its tree at the proof's index.
func (p *Policy) VerifyProof(proof *Proof, leaf tlog.Hash) (*Verified, error) {
	v, err := p.Verify(proof.Checkpoint)
	if err != nil {
		return nil, err
	}
	if err := VerifyInclusion(v.Checkpoint.Tree(), proof.Index, leaf, proof.Hashes); err != nil {
		return nil, err
	}
	return v, nil
}
