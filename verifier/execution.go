package verifier

import (
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// part is one execution of a bundle: the one that it is about, or an ancestor.
type part struct {
	id      digest.Digest
	proven  provenExecution
	request checkpoint.Checkpoint // accepted under the audit policy
	records []opened              // in log order
	fold    *provenance.Fold
}

// provenExecution is what a bundle and an ancestor in it say in the same form.
type provenExecution interface {
	GetConsistencyProof() [][]byte
	GetRecords() []*pb.ProvenRecord
}

// opened is a record that was proven to stand at its index.
type opened struct {
	index  int64
	entry  [record.EntrySize]byte
	record *pb.Record
}

// closing has the kinds of a bundle's last record and the state that the records
// before it must leave.
var closing = map[record.Kind]provenance.State{
	record.KindProvenance:   provenance.StateComplete,
	record.KindDivergence:   provenance.StateDiverged,
	record.KindCancellation: provenance.StateOpen,
	record.KindExpired:      provenance.StateOpen,
}

// checkConsistency proves the request checkpoint to be one of the audit log.
func (p *part) checkConsistency(audit checkpoint.Checkpoint) (string, *Error) {
	if err := checkpoint.VerifyConsistency(p.request.Tree(), audit.Tree(), hashes(p.proven.GetConsistencyProof())); err != nil {
		return "", refuse(CodeConsistency, "from size %d to %d: %w", p.request.Size, audit.Size, err)
	}
	return fmt.Sprintf("size %d is a prefix of size %d", p.request.Size, audit.Size), nil
}

// checkInclusion opens the records and proves each at its index.
func (p *part) checkInclusion(audit checkpoint.Checkpoint) (string, *Error) {
	for _, proven := range p.proven.GetRecords() {
		index := int64(proven.GetIndex())
		opening, err := record.ParseOpening(proven.GetOpening())
		if err != nil {
			return "", refuse(CodeRecord, "record %d: %w", index, err)
		}
		entry := opening.Entry()
		leaf := tlog.RecordHash(entry[:])
		if err := checkpoint.VerifyInclusion(audit.Tree(), index, leaf, hashes(proven.GetInclusionProof())); err != nil {
			return "", refuse(CodeInclusion, "record %d: %w", index, err)
		}
		r, err := record.Parse(opening.Record())
		if err != nil {
			return "", refuse(CodeRecord, "record %d: %w", index, err)
		}
		p.records = append(p.records, opened{index, entry, r})
	}
	return fmt.Sprintf("%d records, indexes %d to %d", len(p.records), p.records[0].index, p.last().index), nil
}

// last is the closing record.
func (p *part) last() opened { return p.records[len(p.records)-1] }

// hashes were checked for their length when the bundle was read.
func hashes(list [][]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(list))
	for i, b := range list {
		out[i] = tlog.Hash(b)
	}
	return out
}

// foldRecords folds all records but the closing one.
func (p *part) foldRecords(cluster string, history *membership.History) (string, *Error) {
	if err := p.checkSelection(); err != nil {
		return "", err
	}
	p.fold = provenance.NewPartialFold(cluster, history)
	for _, r := range p.records[:len(p.records)-1] {
		if err := p.apply(r); err != nil {
			return "", err
		}
	}
	ex, ok := p.fold.Execution(p.id)
	kind := record.KindOf(p.last().record)
	switch want := closing[kind]; {
	case !ok:
		return "", refuse(CodeRules, "no request for execution %s", p.id)
	case ex.State != want && want == provenance.StateComplete:
		return "", refuse(CodeIncomplete, "%d attestations leave the execution %s: %d nodes have to agree", len(ex.Attestations),
			ex.State, ex.Contract.Agreement)
	case ex.State != want:
		return "", refuse(CodeIncomplete, "%d attestations leave the execution %s, and it is closed by a record of kind %q",
			len(ex.Attestations), ex.State, kind)
	case want != provenance.StateComplete:
		return fmt.Sprintf("%d attestations, and no %d nodes agree", len(ex.Attestations), ex.Contract.Agreement), nil
	}
	r := ex.Provenance()
	return fmt.Sprintf("%d of %d attestations agree, by %v; outcome %q", len(r.GetNodes()), len(ex.Attestations), r.GetNodes(),
		ex.Outcome.Kind), nil
}

// checkSelection checks which records there are. Whether each is valid where it
// stands is for the fold. Neither can see what the bundle leaves out, such as an
// earlier request record of the same execution; see notProven.
func (p *part) checkSelection() *Error {
	count := map[record.Kind]int{}
	for i, r := range p.records {
		kind := record.KindOf(r.record)
		count[kind]++
		_, closes := closing[kind]
		switch {
		case closes && i != len(p.records)-1:
			return refuse(CodeRules, "records after the closing %s record", kind)
		case closes, kind == record.KindContract, kind == record.KindEpoch, kind == record.KindReschedule, kind == record.KindAttestation:
		case kind == record.KindRequest:
			if count[record.KindEpoch] != 1 {
				return refuse(CodeRules, "%d epoch records before the request, want the one in force", count[record.KindEpoch])
			}
		default:
			return refuse(CodeRules, "record %d of kind %q has no place in a bundle", r.index, kind)
		}
	}
	for _, kind := range []record.Kind{record.KindContract, record.KindRequest} {
		if count[kind] != 1 {
			return refuse(CodeRules, "%d records of kind %q, want one", count[kind], kind)
		}
	}
	if _, closes := closing[record.KindOf(p.last().record)]; !closes {
		return refuse(CodeRules, "no closing record: the last one is of kind %q", record.KindOf(p.last().record))
	}
	return nil
}

// apply folds one record, which must count and be about this execution.
func (p *part) apply(r opened) *Error {
	kind := record.KindOf(r.record)
	effect := p.fold.Apply(r.index, r.entry, r.record)
	code := CodeRules
	if kind == record.KindProvenance || kind == record.KindDivergence {
		code = CodeProvenance
	}
	switch {
	case effect.Void:
		err := refuse(code, "record %d (%s) is void: %s: %s", r.index, kind, effect.Code, effect.Detail)
		err.Rule = effect.Code
		return err
	case effect.Evidence:
		return refuse(code, "record %d (%s) came after the execution was decided", r.index, kind)
	case effect.Execution != nil && *effect.Execution != p.id:
		return refuse(code, "record %d (%s) is about execution %s", r.index, kind, *effect.Execution)
	}
	return nil
}

// checkClosing folds the closing record. The audit root of a complete execution
// must be the request checkpoint that was proven.
func (p *part) checkClosing(history *membership.History) (*Execution, *Error) {
	if err := p.apply(p.last()); err != nil {
		return nil, err
	}
	ex, _ := p.fold.Execution(p.id)
	state, err := history.StateAt(ex.Epoch)
	if err != nil {
		return nil, refuse(CodeMembership, "%w", err)
	}
	if root := ex.Provenance().GetAuditRoot(); ex.State == provenance.StateComplete && (root.GetOrigin() != p.request.Origin ||
		int64(root.GetSize()) != p.request.Size || digest.Digest(root.GetRootHash()) != digest.Digest(p.request.Root)) {
		return nil, refuse(CodeProvenance, "the nodes attested to audit root %q, size %d, %x; the bundle's is %q, size %d, %x",
			root.GetOrigin(), root.GetSize(), root.GetRootHash(), p.request.Origin, p.request.Size, p.request.Root[:])
	}
	e := executionOf(ex, p.last().index)
	for i := range e.Nodes {
		p.attach(&e.Nodes[i], state)
	}
	for i := range e.Dissent {
		p.attach(&e.Dissent[i].Node, state)
	}
	return e, nil
}

// attach gives a node its envelope and the key that signed it, one of those that
// it holds at the pinned epoch. The fold has verified the signature.
func (p *part) attach(n *Node, pinned *membership.State) {
	at := slices.IndexFunc(p.records, func(r opened) bool { return r.index == n.Index })
	n.Envelope = p.records[at].record.GetAttestation().GetEnvelope()
	envelope, err := dsse.Parse(n.Envelope)
	principal, ok := pinned.Principal(n.ID)
	if err != nil || !ok {
		return
	}
	for _, key := range principal.KeysFor(membership.UseAttestation) {
		if dsse.KeyID(key) == envelope.Signatures[0].KeyID {
			n.Key = key
		}
	}
}
