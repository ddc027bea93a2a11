package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// Bounds of a proof bundle (docs/formats/README.md, "Limits").
const (
	// MaxBundleSize is the largest bundle file, in bytes.
	MaxBundleSize = 64 << 20
	// MaxBundleRecords bounds the records of a bundle. One execution has a
	// contract, a request, a closing record, up to 64 attempts and 128
	// attestations; what remains is for epochs, and for ancestors.
	MaxBundleRecords = 4096
	// MaxBundleAncestors bounds the ancestors of a bundle: a pipeline of some ten
	// stages with joins. A longer lineage is proven bundle by bundle.
	MaxBundleAncestors = 256
	// MaxBundleChanges bounds the membership log that a bundle carries inline.
	MaxBundleChanges = 100_000

	maxChange     = 65_535    // bytes: a public log entry
	maxNote       = 512 << 10 // bytes: a signed note, checkpoint.MaxNoteSize
	maxProof      = 64        // hashes
	bundlePrefix  = "tallystick-bundle/"
	bundleMiddle  = record.Version + " sha256:"
	bundleHeader  = bundlePrefix + bundleMiddle
	headerSize    = len(bundleHeader) + 2*digest.Size + 1 // with its newline
	maxBundleBody = MaxBundleSize - headerSize
)

// bundleLimits bounds the body. Elements allow for a full proof with each
// record.
var bundleLimits = record.Limits{
	Bytes:    maxBundleBody,
	Elements: MaxBundleChanges + MaxBundleRecords*(maxProof+1) + MaxBundleAncestors*(maxProof+1) + maxProof,
}

// The outcomes of reading a bundle. Errors of ParseBundle match one of them, or
// record.ErrTooLarge or record.ErrNotCanonical.
var (
	// ErrBundleHeader: the file does not begin with a bundle's first line.
	ErrBundleHeader = errors.New("not a proof bundle")
	// ErrBundleVersion: a bundle of another protocol version.
	ErrBundleVersion = errors.New("proof bundle of an unknown version")
	// ErrBundleDigest: the body is not what the first line says: the file was
	// damaged or changed.
	ErrBundleDigest = errors.New("proof bundle is damaged")
	// ErrBundleField: a field of the body is out of range or missing.
	ErrBundleField = errors.New("malformed proof bundle")
)

// FormatBundle returns the bundle file with b as its body. What ParseBundle
// would refuse is refused here.
func FormatBundle(b *pb.ProofBundle) ([]byte, error) {
	if err := checkBundle(b); err != nil {
		return nil, err
	}
	body, err := record.Encode(b, bundleLimits)
	if err != nil {
		return nil, err
	}
	return SealBundle(body), nil
}

// SealBundle puts the first line before a body, whatever the body is. The line
// guards against accidents only: anyone can compute it.
func SealBundle(body []byte) []byte {
	return append([]byte(bundleHeader+digest.Of(body).String()+"\n"), body...)
}

// ParseBundle reads a bundle file and checks its form, not what it claims.
func ParseBundle(file []byte) (*pb.ProofBundle, error) {
	if len(file) > MaxBundleSize {
		return nil, fmt.Errorf("%w: bundle of %d bytes, at most %d", record.ErrTooLarge, len(file), MaxBundleSize)
	}
	if !bytes.HasPrefix(file, []byte(bundlePrefix)) {
		return nil, fmt.Errorf("%w: want a first line that begins with %q", ErrBundleHeader, bundleHeader)
	}
	if !bytes.HasPrefix(file, []byte(bundleHeader)) {
		line, _, _ := bytes.Cut(file[:min(len(file), 64)], []byte("\n"))
		return nil, fmt.Errorf("%w: %q, this program knows %q", ErrBundleVersion, line, bundleHeader)
	}
	if len(file) < headerSize || file[headerSize-1] != '\n' {
		return nil, fmt.Errorf("%w: first line is cut off or too long", ErrBundleHeader)
	}
	want, err := digest.Parse(string(file[len(bundleHeader) : headerSize-1]))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundleHeader, err)
	}
	body := file[headerSize:]
	if have := digest.Of(body); have != want {
		return nil, fmt.Errorf("%w: SHA-256 is %s, the first line says %s", ErrBundleDigest, have, want)
	}
	b := new(pb.ProofBundle)
	if err := record.Decode(body, b, bundleLimits); err != nil {
		return nil, err
	}
	if err := checkBundle(b); err != nil {
		return nil, err
	}
	return b, nil
}

// checkBundle holds the ranges that reading and writing share.
func checkBundle(b *pb.ProofBundle) error {
	if v := b.GetProtocolVersion(); v != record.Version {
		return fmt.Errorf("%w: protocol version %.20q, this program knows %q", ErrBundleVersion, v, record.Version)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBundleField, fmt.Sprintf(format, args...))
	}
	switch {
	case !contract.ValidIdentifier(b.GetCluster()):
		return bad("cluster %.80q is not an identifier", b.GetCluster())
	case b.GetExternalMembership() && len(b.GetMembershipChanges()) != 0:
		return bad("external membership, and %d changes", len(b.GetMembershipChanges()))
	case !b.GetExternalMembership() && len(b.GetMembershipChanges()) == 0:
		return bad("no membership changes")
	case len(b.GetMembershipChanges()) > MaxBundleChanges:
		return bad("%d membership changes, at most %d", len(b.GetMembershipChanges()), MaxBundleChanges)
	case len(b.GetAncestors()) > MaxBundleAncestors:
		return bad("%d ancestors, at most %d", len(b.GetAncestors()), MaxBundleAncestors)
	}
	for name, note := range map[string][]byte{"audit": b.GetAuditCheckpoint(), "membership": b.GetMembershipCheckpoint()} {
		if len(note) == 0 || len(note) > maxNote {
			return bad("%s checkpoint of %d bytes, want 1 to %d", name, len(note), maxNote)
		}
	}
	for i, change := range b.GetMembershipChanges() {
		if len(change) == 0 || len(change) > maxChange {
			return bad("membership change %d has %d bytes, want 1 to %d", i, len(change), maxChange)
		}
	}
	if detail := checkProvenExecution(b); detail != "" {
		return bad("%s", detail)
	}
	records, last := len(b.GetRecords()), uint64(0)
	for i, a := range b.GetAncestors() {
		if detail := checkProvenExecution(a); detail != "" {
			return bad("ancestor %d: %s", i, detail)
		}
		index := a.GetRecords()[len(a.GetRecords())-1].GetIndex()
		if i > 0 && index <= last {
			return bad("ancestors are not ascending by their last record at index %d", index)
		}
		records, last = records+len(a.GetRecords()), index
	}
	if records > MaxBundleRecords {
		return bad("%d records with those of the ancestors, at most %d", records, MaxBundleRecords)
	}
	return nil
}

// provenExecution is what a bundle and an ancestor in it have in common.
type provenExecution interface {
	GetExecutionId() []byte
	GetRequestCheckpoint() []byte
	GetConsistencyProof() [][]byte
	GetRecords() []*pb.ProvenRecord
}

// checkProvenExecution names the first field out of its range, "" if none is.
func checkProvenExecution(e provenExecution) string {
	records := e.GetRecords()
	switch {
	case len(e.GetExecutionId()) != digest.Size:
		return fmt.Sprintf("execution id of %d bytes", len(e.GetExecutionId()))
	case len(e.GetRequestCheckpoint()) == 0 || len(e.GetRequestCheckpoint()) > maxNote:
		return fmt.Sprintf("request checkpoint of %d bytes, want 1 to %d", len(e.GetRequestCheckpoint()), maxNote)
	case !validProof(e.GetConsistencyProof()):
		return fmt.Sprintf("consistency proof is not up to %d hashes", maxProof)
	case len(records) == 0 || len(records) > MaxBundleRecords:
		return fmt.Sprintf("%d records, want 1 to %d", len(records), MaxBundleRecords)
	}
	for i, r := range records {
		switch {
		case i > 0 && r.GetIndex() <= records[i-1].GetIndex():
			return fmt.Sprintf("records are not ascending at index %d", r.GetIndex())
		case len(r.GetOpening()) <= record.SaltSize || len(r.GetOpening()) > record.MaxOpeningSize:
			return fmt.Sprintf("record %d has an opening of %d bytes", r.GetIndex(), len(r.GetOpening()))
		case !validProof(r.GetInclusionProof()):
			return fmt.Sprintf("record %d has a proof that is not up to %d hashes", r.GetIndex(), maxProof)
		}
	}
	return ""
}

func validProof(hashes [][]byte) bool {
	return len(hashes) <= maxProof && !slices.ContainsFunc(hashes, func(h []byte) bool { return len(h) != digest.Size })
}

// BundleContent says what the bundle of an execution holds.
type BundleContent struct {
	// Records are the indexes of its records, ascending.
	Records []int64
	// Epoch is the last epoch that the membership checkpoint has to cover.
	Epoch uint64
}

// BundleContent returns what the bundle of an execution holds, false while its
// closing record is not in the log. It needs a whole fold.
func (f *Fold) BundleContent(id digest.Digest) (BundleContent, bool) {
	ex, ok := f.executions[id]
	if !ok || f.partial || !ex.closed() {
		return BundleContent{}, false
	}
	content := BundleContent{Records: []int64{ex.ContractIndex}, Epoch: ex.Epoch}
	for _, link := range ex.Chain {
		content.Records = append(content.Records, link.Index)
	}
	last := content.Records[len(content.Records)-1]
	for epoch := ex.Epoch; epoch <= f.epoch && f.epochIndexes[epoch-1] < last; epoch++ {
		content.Records = append(content.Records, f.epochIndexes[epoch-1])
		content.Epoch = epoch
	}
	slices.Sort(content.Records)
	return content, true
}

// closed reports whether the chain has its last record: the one that the fold
// derived, or the cancellation or expiry that decided.
func (e *execution) closed() bool {
	switch e.State {
	case StateComplete, StateDiverged:
		return e.Recorded
	case StateCancelled, StateExpired:
		return true
	}
	return false
}

// Ancestors returns the executions whose outputs went into the input of another,
// directly or not, without repetition and in no particular order; false if there
// are more than MaxBundleAncestors. Parents are complete before a request that
// names them is valid, so there are no cycles.
func (f *Fold) Ancestors(id digest.Digest) ([]digest.Digest, bool) {
	var found []digest.Digest
	seen := map[digest.Digest]bool{id: true}
	for queue := []digest.Digest{id}; len(queue) > 0; queue = queue[1:] {
		ex, ok := f.executions[queue[0]]
		if !ok {
			continue
		}
		for _, parent := range ex.Submission.Parents {
			if seen[parent] {
				continue
			}
			if len(found) == MaxBundleAncestors {
				return nil, false
			}
			seen[parent] = true
			found, queue = append(found, parent), append(queue, parent)
		}
	}
	return found, true
}
