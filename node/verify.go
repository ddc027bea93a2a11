package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// maxAssignmentRecords bounds the epoch records of an assignment, and its
// reschedule records: an execution has at most 64 attempts, and one that was
// pinned thousands of epochs ago has long expired.
const maxAssignmentRecords = 4096

// A task is an assignment that was verified.
type task struct {
	execution  provenance.Execution
	attempt    uint64 // the first that assigned this node
	request    checkpoint.Checkpoint
	membership checkpoint.Checkpoint
	parents    []parent // in the order of the submission
}

// A parent is a completed execution as its proof bundle shows it.
type parent struct {
	Tenant  string
	Outcome contract.Outcome
}

// proven is a record with its place in the audit log.
type proven struct {
	index int64
	entry [record.EntrySize]byte
	body  *pb.Record
}

// verify checks everything about an assignment that does not need its payloads,
// in the order of the package comment. Errors are or wrap a *RefusalError, or wrap
// ErrUnavailable or ErrStore.
func (n *Node) verify(ctx context.Context, a *pb.Assignment) (*task, error) {
	id, err := digest.Parse(a.GetExecutionId())
	if err != nil {
		return nil, refuse(RefusedMalformed, "execution id %.80q", a.GetExecutionId())
	}
	if err := n.view.take(ctx); err != nil {
		return nil, err
	}
	defer n.view.give()

	// 1. Who is a member, and how fresh that is.
	members, fetched, err := n.acceptMembership(ctx, a.GetMembershipCheckpoint())
	if err != nil {
		return nil, err
	}
	// 2. The audit log: signed, witnessed, and one history with what was seen.
	audit, err := n.view.acceptAudit(ctx, a.GetAuditCheckpoint(), RefusedAudit)
	if err != nil {
		return nil, err
	}
	request, err := n.view.acceptAudit(ctx, a.GetRequestCheckpoint(), RefusedRequest)
	if err != nil {
		return nil, err
	}
	// 3. The records are in it, and mean what the control plane says.
	records, err := provenRecords(a, request.Tree(), audit.Tree())
	if err != nil {
		return nil, err
	}
	ex, err := n.fold(id, records)
	if err != nil {
		return nil, err
	}
	if want := uint64(len(a.GetReschedules())); ex.Attempt != want || a.GetAttempt() != want {
		return nil, refuse(RefusedAttempt, "attempt %d with %d reschedule records", a.GetAttempt(), want)
	}
	if err := n.prune(n.view.logs[membership.LogAudit].head.Size); err != nil {
		return nil, err
	}
	if members.Size < int64(ex.Epoch) { // what is attested on it would be void
		return nil, refuse(RefusedMembership, "the membership checkpoint has size %d, the request pins epoch %d", members.Size, ex.Epoch)
	}
	if floor := n.store.floor; ex.RequestIndex < floor {
		return nil, refuse(RefusedSettled, "request at index %d; what was requested before index %d is attested from what is kept, or not at all", ex.RequestIndex, floor)
	}
	// 4. The epochs: nothing newer than the pin stood before the request.
	if err := n.checkEpochs(ex, records); err != nil {
		if fetched && errors.Is(err, RefusedEpoch) {
			// It was put together before the epochs that its stale checkpoint lacks.
			err = fmt.Errorf("%w: %w", errOutdated, err)
		}
		return nil, err
	}
	// 5. This node is meant, and may attest.
	attempt, ok := ex.Schedule.FirstAttempt(n.config.ID)
	if !ok || attempt > ex.Attempt {
		return nil, refuse(RefusedNotAssigned, "attempt %d of execution %s assigns %q", ex.Attempt, id, ex.Assigned())
	}
	if err := n.mayAttest(ex.Epoch); err != nil {
		return nil, err
	}
	n.health.clear(ProblemNotMember)
	// 6. It can do what is asked.
	if err := n.config.Runner.Supports(ex.Contract.Versions); err != nil {
		return nil, refuseCause(RefusedUnsupported, err)
	}
	if err := ex.Contract.Within(n.config.Limits); err != nil {
		return nil, refuseCause(RefusedCapacity, err)
	}
	if a.GetModuleDigest() != ex.Contract.Module.String() || a.GetInputDigest() != ex.Submission.Input.String() {
		return nil, refuse(RefusedMalformed, "module or input digest differs from those of contract and submission")
	}
	parents, err := n.verifyParents(ctx, ex, a.GetParentBundles())
	if err != nil {
		return nil, err
	}
	return &task{execution: ex, attempt: attempt, request: request, membership: members, parents: parents}, nil
}

// acceptMembership takes the assignment's checkpoint or, if that has gone stale
// while the assignment waited, the one that the log publishes now, which fetched
// says.
func (n *Node) acceptMembership(ctx context.Context, signed []byte) (c checkpoint.Checkpoint, fetched bool, err error) {
	c, err = n.view.acceptMembership(ctx, signed, n.config.Now())
	if !errors.Is(err, RefusedStale) {
		return c, false, err
	}
	published, fetchErr := n.view.source.Get(ctx, membership.LogMembership, "checkpoint", checkpoint.MaxNoteSize)
	if fetchErr != nil {
		return checkpoint.Checkpoint{}, false, err
	}
	c, publishedErr := n.view.acceptMembership(ctx, published, n.config.Now())
	if errors.Is(publishedErr, RefusedStale) || errors.Is(publishedErr, RefusedMembership) {
		return checkpoint.Checkpoint{}, false, err
	}
	return c, true, publishedErr
}

// provenRecords reads the records of an assignment and checks that each is in
// the tree that it must be in. They are returned in log order.
func provenRecords(a *pb.Assignment, request, audit tlog.Tree) ([]proven, error) {
	if len(a.GetEpochs()) > maxAssignmentRecords || len(a.GetReschedules()) > maxAssignmentRecords {
		return nil, refuse(RefusedMalformed, "%d epoch and %d reschedule records, want at most %d of each",
			len(a.GetEpochs()), len(a.GetReschedules()), maxAssignmentRecords)
	}
	var records []proven
	for _, group := range []struct {
		kind record.Kind
		tree tlog.Tree
		list []*pb.ProvenRecord
	}{
		{record.KindContract, request, []*pb.ProvenRecord{a.GetContract()}},
		{record.KindRequest, request, []*pb.ProvenRecord{a.GetRequest()}},
		{record.KindEpoch, audit, a.GetEpochs()},
		{record.KindReschedule, audit, a.GetReschedules()},
	} {
		for _, r := range group.list {
			p, err := openProven(r, group.tree)
			if err != nil {
				return nil, err
			}
			if kind := record.KindOf(p.body); kind != group.kind {
				return nil, refuse(RefusedMalformed, "a record of kind %q among those of kind %q", kind, group.kind)
			}
			records = append(records, p)
		}
	}
	slices.SortFunc(records, func(a, b proven) int { return cmp.Compare(a.index, b.index) })
	return records, nil
}

func openProven(r *pb.ProvenRecord, tree tlog.Tree) (proven, error) {
	if r == nil {
		return proven{}, refuse(RefusedMalformed, "a record is missing")
	}
	opening, err := record.ParseOpening(r.GetOpening())
	if err != nil {
		return proven{}, refuseCause(RefusedRecord, err)
	}
	if r.GetIndex() >= uint64(tree.N) || len(r.GetInclusionProof()) > checkpoint.MaxInclusionHashes {
		return proven{}, refuse(RefusedInclusion, "index %d with %d hashes, in a tree of size %d", r.GetIndex(), len(r.GetInclusionProof()), tree.N)
	}
	var hashes []tlog.Hash
	for _, h := range r.GetInclusionProof() {
		if len(h) != tlog.HashSize {
			return proven{}, refuse(RefusedMalformed, "a proof with a hash of %d bytes", len(h))
		}
		hashes = append(hashes, tlog.Hash(h))
	}
	p := proven{index: int64(r.GetIndex()), entry: opening.Entry()}
	if err := checkpoint.VerifyInclusion(tree, p.index, tlog.RecordHash(p.entry[:]), hashes); err != nil {
		return proven{}, refuseCause(RefusedInclusion, err)
	}
	if p.body, err = record.Parse(opening.Record()); err != nil {
		return proven{}, refuseCause(RefusedRecord, err)
	}
	return p, nil
}

// fold folds the records by the rules that every verifier uses. None may be
// void, and they must make the one execution that was asked for.
func (n *Node) fold(id digest.Digest, records []proven) (provenance.Execution, error) {
	fold := provenance.NewPartialFold(n.view.history.Current().Cluster(), n.view.history)
	for _, r := range records {
		effect := fold.Apply(r.index, r.entry, r.body)
		switch {
		case effect.Void && effect.Code == provenance.CodeEpochUnknown:
			return provenance.Execution{}, refuse(RefusedEpoch, "record %d: %s", r.index, effect.Detail)
		case effect.Void:
			return provenance.Execution{}, refuse(RefusedRecord, "record %d is void (%s): %s", r.index, effect.Code, effect.Detail)
		case effect.Execution != nil && *effect.Execution != id:
			return provenance.Execution{}, refuse(RefusedExecution, "record %d is about execution %s, assigned is %s", r.index, effect.Execution, id)
		}
	}
	ex, ok := fold.Execution(id)
	if !ok {
		return provenance.Execution{}, refuse(RefusedExecution, "no request of execution %s", id)
	}
	return ex, nil
}

// checkEpochs holds the pin against every epoch that this node knows of: the
// record of each later one must be proven, now or before, at an index above the
// request's. Where the records show an epoch is kept, so that a second record of
// it, which has no effect, can never stand in for the first.
func (n *Node) checkEpochs(ex provenance.Execution, records []proven) error {
	shown := make(map[uint64]int64)
	for _, r := range records {
		if e := r.body.GetEpoch(); e != nil {
			shown[e.GetEpoch()] = r.index
		}
	}
	if err := n.view.learnEpochs(shown); err != nil {
		return err
	}
	current := n.view.history.Current().Epoch()
	for epoch := ex.Epoch + 1; epoch <= current; epoch++ {
		index, ok := n.view.epochs[epoch]
		if !ok {
			return refuse(RefusedEpoch, "no record of epoch %d, the current one is %d", epoch, current)
		}
		if ex.RequestIndex > index {
			return refuse(RefusedStalePin, "request at index %d pins epoch %d, epoch %d began at index %d", ex.RequestIndex, ex.Epoch, epoch, index)
		}
	}
	if index := n.view.epochs[ex.Epoch]; ex.RequestIndex < index {
		return refuse(RefusedStalePin, "request at index %d pins epoch %d, which began at index %d", ex.RequestIndex, ex.Epoch, index)
	}
	return nil
}

// mayAttest: the key that would sign is this node's at the pinned epoch and in
// the newest state that is known.
func (n *Node) mayAttest(pinned uint64) error {
	current := n.view.history.Current()
	state, err := n.view.history.StateAt(pinned)
	if err != nil {
		return refuseCause(RefusedEpoch, err)
	}
	if err := n.listed(current); err != nil {
		n.health.set(ProblemNotMember, err.(*RefusalError).Detail)
		return err
	}
	return n.listed(state)
}

// listed: this node's key may attest in a state.
func (n *Node) listed(s *membership.State) error {
	p, ok := s.Principal(n.config.ID)
	if !ok || p.Kind != membership.KindNode {
		return refuse(RefusedNotMember, "%q is no node at epoch %d", n.config.ID, s.Epoch())
	}
	holds := func(k ed25519.PublicKey) bool { return bytes.Equal(k, n.public) }
	if !slices.ContainsFunc(p.KeysFor(membership.UseAttestation), holds) {
		return refuse(RefusedNotMember, "the attestation key of %q is not this node's at epoch %d", n.config.ID, s.Epoch())
	}
	return nil
}

// verifyParents checks that every parent is an execution of the same tenant,
// completed before the request, whose outcome was ok, as its proof bundle shows to
// this node's policies and genesis, in the one history of each log that it has seen.
func (n *Node) verifyParents(ctx context.Context, ex provenance.Execution, bundles [][]byte) ([]parent, error) {
	ids := ex.Submission.Parents
	if len(bundles) != len(ids) {
		return nil, refuse(RefusedParent, "%d proof bundles for %d parents", len(bundles), len(ids))
	}
	var parents []parent
	for i, id := range ids {
		report, err := verifier.VerifyBundle(bundles[i], n.config.Trust, verifier.Options{Execution: id.String(), History: n.view.history})
		if err != nil {
			return nil, refuseCause(RefusedParent, fmt.Errorf("parent %s: %w", id, err))
		}
		b, err := provenance.ParseBundle(bundles[i])
		if err != nil {
			return nil, refuseCause(RefusedParent, err)
		}
		if err := n.view.knownMembership(ctx, b.GetMembershipCheckpoint()); err != nil {
			return nil, err
		}
		if _, err := n.view.acceptAudit(ctx, b.GetAuditCheckpoint(), RefusedParent); err != nil {
			return nil, err
		}
		p := parent{Tenant: report.Execution.Tenant, Outcome: report.Execution.Outcome}
		switch {
		case p.Tenant != ex.Tenant:
			return nil, refuse(RefusedParent, "parent %s is of tenant %q, the submission of %q", id, p.Tenant, ex.Tenant)
		case p.Outcome.Kind != contract.OutcomeOK:
			return nil, refuse(RefusedParent, "parent %s ended with %q", id, p.Outcome.Kind)
		case report.Execution.CompletedAt >= ex.RequestIndex:
			return nil, refuse(RefusedParent, "parent %s was complete at index %d only, its child requested at %d", id, report.Execution.CompletedAt, ex.RequestIndex)
		}
		parents = append(parents, p)
	}
	return parents, nil
}
