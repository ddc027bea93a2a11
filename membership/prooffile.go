package membership

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
)

// MaxProofFile bounds a membership proof in bytes: the largest change and signed
// note, in base64, and what remains is small.
const MaxProofFile = 1 << 20

// maxNote bounds the checkpoint of a membership proof (docs/formats/README.md,
// "Limits").
const maxNote = 524_288

// proofFileType tells a membership proof from any other JSON.
const proofFileType = "tallystick.membership-proof"

// ErrProofFile says that bytes are not a membership proof in its one form.
var ErrProofFile = errors.New("not a membership proof")

// ErrProofVersion says that a membership proof is of another protocol version.
var ErrProofVersion = errors.New("membership proof of an unknown protocol version")

// A ProofFile claims that a principal is a member of a cluster at an epoch, or
// is not, and has what it takes to check that offline against a checkpoint of
// the membership log (docs/formats/membership-proof.md). Package verifier/member
// checks it; all of it is untrusted until then.
type ProofFile struct {
	Principal string
	Epoch     uint64
	Member    bool
	// Leaves has the principal's own leaf, or the neighbours of where it would be.
	Leaves []Leaf
	// Change is entry Epoch − 1 of the membership log, an envelope, and
	// ChangeProof its inclusion proof in the tree of the checkpoint.
	Change      []byte
	ChangeProof [][]byte
	// GenesisProof is the inclusion proof of entry 0 in the same tree. The entry
	// itself is what the reader has pinned.
	GenesisProof [][]byte
	Checkpoint   []byte // signed note
}

// wireProof is the file as JSON.
type wireProof struct {
	Change          []byte     `json:"change"`
	ChangeProof     [][]byte   `json:"change_proof"`
	Checkpoint      []byte     `json:"checkpoint"`
	Epoch           uint64     `json:"epoch"`
	GenesisProof    [][]byte   `json:"genesis_proof"`
	Leaves          []wireLeaf `json:"leaves"`
	Member          bool       `json:"member"`
	Principal       string     `json:"principal"`
	ProtocolVersion string     `json:"protocol_version"`
	Type            string     `json:"type"`
}

type wireLeaf struct {
	Data           []byte   `json:"data"`
	InclusionProof [][]byte `json:"inclusion_proof"`
	Index          uint64   `json:"index"`
}

// Marshal returns the file. It refuses what [ParseProofFile] would.
func (p ProofFile) Marshal() ([]byte, error) {
	w := wireProof{
		Change:          p.Change,
		ChangeProof:     notNil(p.ChangeProof),
		Checkpoint:      p.Checkpoint,
		Epoch:           p.Epoch,
		GenesisProof:    notNil(p.GenesisProof),
		Leaves:          []wireLeaf{},
		Member:          p.Member,
		Principal:       p.Principal,
		ProtocolVersion: ProtocolVersion,
		Type:            proofFileType,
	}
	for _, l := range p.Leaves {
		w.Leaves = append(w.Leaves, wireLeaf{Data: l.Data, InclusionProof: notNil(l.Proof), Index: l.Index})
	}
	if err := w.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProofFile, err)
	}
	data, err := strictjson.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProofFile, err)
	}
	return append(data, '\n'), nil
}

// ParseProofFile reads a membership proof: canonical JSON and one newline, and
// nothing else. Whether it proves anything is for package verifier/member to
// say. Errors wrap [ErrProofFile] or [ErrProofVersion].
func ParseProofFile(file []byte) (*ProofFile, error) {
	if len(file) > MaxProofFile {
		return nil, fmt.Errorf("%w: %d bytes, want at most %d", ErrProofFile, len(file), MaxProofFile)
	}
	text, ok := bytes.CutSuffix(file, []byte("\n"))
	if !ok {
		return nil, fmt.Errorf("%w: no newline at the end", ErrProofFile)
	}
	kind, ok := strictjson.Text(text, "type", MaxProofFile)
	if !ok || kind != proofFileType {
		return nil, fmt.Errorf("%w: no JSON object with %q as its type", ErrProofFile, proofFileType)
	}
	if version, ok := strictjson.Text(text, "protocol_version", MaxProofFile); ok && version != ProtocolVersion {
		return nil, fmt.Errorf("%w: %.64q, known is %q", ErrProofVersion, version, ProtocolVersion)
	}
	var w wireProof
	if err := strictjson.Unmarshal(text, &w, MaxProofFile); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProofFile, err)
	}
	if err := w.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProofFile, err)
	}
	if canonical, err := strictjson.Marshal(w); err != nil || !bytes.Equal(canonical, text) {
		return nil, fmt.Errorf("%w: not in canonical form", ErrProofFile)
	}
	p := &ProofFile{
		Principal: w.Principal, Epoch: w.Epoch, Member: w.Member,
		Change: w.Change, ChangeProof: w.ChangeProof, GenesisProof: w.GenesisProof, Checkpoint: w.Checkpoint,
	}
	for _, l := range w.Leaves {
		p.Leaves = append(p.Leaves, Leaf{Index: l.Index, Data: l.Data, Proof: l.InclusionProof})
	}
	return p, nil
}

// validate bounds every member, so that checking costs little whatever is sent.
func (w *wireProof) validate() error {
	if err := validateID("principal", w.Principal); err != nil {
		return err
	}
	switch n := len(w.Leaves); {
	case w.Epoch == 0:
		return errors.New("epoch is 0; epochs count from 1")
	case len(w.Change) < 1 || len(w.Change) > MaxChangeEnvelope:
		return fmt.Errorf("change of %d bytes, want 1 to %d", len(w.Change), MaxChangeEnvelope)
	case len(w.Checkpoint) < 1 || len(w.Checkpoint) > maxNote:
		return fmt.Errorf("checkpoint of %d bytes, want 1 to %d", len(w.Checkpoint), maxNote)
	case w.Member && n != 1:
		return fmt.Errorf("%d leaves of a member, want 1", n)
	case n > 2:
		return fmt.Errorf("%d leaves, want at most the 2 neighbours", n)
	}
	lists := [][][]byte{w.ChangeProof, w.GenesisProof}
	for _, l := range w.Leaves {
		if len(l.Data) < 1 || len(l.Data) > maxLeafData {
			return fmt.Errorf("leaf data of %d bytes, want 1 to %d", len(l.Data), maxLeafData)
		}
		lists = append(lists, l.InclusionProof)
	}
	for _, list := range lists {
		if len(list) > maxProofHashes {
			return fmt.Errorf("a proof of %d hashes, want at most %d", len(list), maxProofHashes)
		}
		for _, h := range list {
			if len(h) != digest.Size {
				return fmt.Errorf("a proof has a hash of %d bytes, want %d", len(h), digest.Size)
			}
		}
	}
	return nil
}

// notNil returns list as strict JSON wants it: an empty list is written.
func notNil(list [][]byte) [][]byte {
	if list == nil {
		return [][]byte{}
	}
	return list
}
