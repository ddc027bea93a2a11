package orchestrator

import (
	"context"
	"errors"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// Submit admits a submission and returns its execution id. The input may be nil
// when the tenant has put it as a blob before, or when it is empty.
func (o *Orchestrator) Submit(ctx context.Context, actor Actor, tenant string, submission, input []byte) (digest.Digest, Appended, error) {
	if err := o.usable(); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	s, err := readStatement(submission, contract.SubmissionType, contract.ParseSubmission)
	if err != nil {
		return digest.Digest{}, Appended{}, signedRefusal(err, CodeSubmission)
	}
	if err := o.checkScope(s.value.Cluster, s.value.Tenant, tenant); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	id := s.value.ExecutionID()
	appended, err := o.submit(ctx, actor, id, s.value, submission, input)
	return id, appended, err
}

func (o *Orchestrator) submit(ctx context.Context, actor Actor, id digest.Digest, s *contract.Submission, envelope, input []byte) (Appended, error) {
	if index, ok := o.requestedAt(id); ok {
		if len(input) > 0 && digest.Of(input) != s.Input {
			return Appended{}, wrongInput(input, s)
		}
		return o.again(ctx, index, envelope, func(keys contract.Authority) error {
			_, err := contract.OpenSubmission(envelope, keys)
			return err
		}, membership.UseSubmission)
	}
	judge := func(v *view) (proposal, error) {
		epoch := v.fold.Epoch()
		r := header(actor)
		r.Body = &pb.Record_Request{Request: &pb.RequestRecord{
			Tenant: s.Tenant, ExecutionId: id[:], ContractHash: s.Contract[:], Epoch: epoch, Envelope: envelope,
		}}
		// Parents are complete for good, the quorum and the eligible nodes
		// depend on the epoch alone: these two registers are all that can move.
		p := proposal{record: r,
			guards: []Register{guardEpoch(epoch), guardNotRetired(s.Contract[:])},
			sets:   []Register{{registerExecution(id[:]), 1}}}
		if _, ok := v.executions[id]; ok {
			return p, nil // another call was faster: the log answers with its index
		}
		return o.judged(v, p)
	}
	// The cheap rules first: no input is stored for a submission that would be
	// void anyhow.
	o.view.mu.RLock()
	_, err := judge(o.view)
	room := inputRoom(o.view.fold, s)
	registered, known := o.view.fold.Contract(s.Contract)
	o.view.mu.RUnlock()
	if err != nil {
		return Appended{}, err
	}
	if known { // it may have been registered when more could be put
		if err := o.checkDeliverable(registered.Contract); err != nil {
			return Appended{}, err
		}
	}
	if err := o.storeInput(ctx, s, input, room); err != nil {
		return Appended{}, err
	}
	return o.commit(ctx, judge)
}

func (o *Orchestrator) requestedAt(id digest.Digest) (int64, bool) {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	if x, ok := o.view.executions[id]; ok {
		return x.index, true
	}
	return 0, false
}

// inputRoom is how many bytes the submission's own input may have: the
// contract's limit is on the standard input, which the parents' outputs begin.
func inputRoom(f *provenance.Fold, s *contract.Submission) uint64 {
	c, ok := f.Contract(s.Contract)
	if !ok {
		return 0
	}
	room := c.Contract.Limits.InputBytes
	for _, id := range s.Parents {
		parent, ok := f.Execution(id)
		if !ok || parent.Outcome == nil || parent.Outcome.OutputLength > room {
			return 0
		}
		room -= parent.Outcome.OutputLength
	}
	return room
}

// storeInput makes sure that the nodes will find the input that the submission
// names, and that it is not over the limit.
func (o *Orchestrator) storeInput(ctx context.Context, s *contract.Submission, input []byte, room uint64) error {
	size := int64(len(input))
	switch {
	case digest.Of(input) == s.Input:
		if uint64(size) > room {
			break
		}
		_, err := o.PutBlob(ctx, s.Tenant, input)
		return err
	case size > 0:
		return wrongInput(input, s)
	default:
		var err error
		size, err = o.blobs.Size(ctx, s.Tenant, s.Input)
		if errors.Is(err, ErrNoBlob) {
			return refuse(CodeInputMissing, "no input %v: send it with the submission, or put it as a blob first", s.Input)
		}
		if err != nil {
			return o.blobError(ctx, err)
		}
	}
	if uint64(size) > room {
		return refuse(CodeTooLarge, "the input has %d bytes, %d are left of the contract's limit: send less, or raise the limit in a new contract", size, room)
	}
	return nil
}

func wrongInput(input []byte, s *contract.Submission) error {
	return refuse(CodeInputDigest, "the input has digest %v, the submission names %v: send what was signed", digest.Of(input), s.Input)
}

// Cancel ends an open execution. The digest is the execution id.
func (o *Orchestrator) Cancel(ctx context.Context, actor Actor, tenant string, envelope []byte) (digest.Digest, Appended, error) {
	if err := o.usable(); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	s, err := readStatement(envelope, contract.CancellationType, contract.ParseCancellation)
	if err != nil {
		return digest.Digest{}, Appended{}, signedRefusal(err, CodeEnvelope)
	}
	if err := o.checkScope(s.value.Cluster, s.value.Tenant, tenant); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	id := s.value.Execution
	o.view.mu.RLock()
	index, cancelled := o.view.cancelledAt(id, tenant)
	o.view.mu.RUnlock()
	if cancelled {
		appended, err := o.again(ctx, index, envelope, func(keys contract.Authority) error {
			_, err := contract.OpenCancellation(envelope, keys)
			return err
		}, membership.UseSubmission)
		return id, appended, err
	}
	appended, err := o.commit(ctx, func(v *view) (proposal, error) {
		epoch := v.fold.Epoch()
		r := header(actor)
		r.Body = &pb.Record_Cancellation{Cancellation: &pb.CancellationRecord{
			Tenant: tenant, ExecutionId: id[:], Epoch: epoch, Envelope: envelope,
		}}
		version := v.version(id)
		p := proposal{record: r,
			guards: []Register{guardEpoch(epoch), {registerExecution(id[:]), version}},
			sets:   []Register{{registerExecution(id[:]), version + 1}}}
		if _, ok := v.cancelledAt(id, tenant); ok {
			return p, nil // another call was faster: the log answers with its index
		}
		return o.judged(v, p)
	})
	return id, appended, err
}

// version is how many records of an execution took effect: what its register
// holds.
func (v *view) version(id digest.Digest) uint64 {
	ex, _ := v.fold.Execution(id)
	return uint64(len(ex.Chain))
}

// cancelledAt returns the index of the cancellation of an execution of the
// tenant.
func (v *view) cancelledAt(id digest.Digest, tenant string) (int64, bool) {
	ex, ok := v.fold.Execution(id)
	if !ok || ex.Tenant != tenant || ex.State != provenance.StateCancelled {
		return 0, false
	}
	return linkOf(&ex, record.KindCancellation)
}

// linkOf returns the index of the last record of a kind in an execution's chain.
func linkOf(ex *provenance.Execution, kind record.Kind) (int64, bool) {
	for i := len(ex.Chain) - 1; i >= 0; i-- {
		if ex.Chain[i].Kind == kind {
			return ex.Chain[i].Index, true
		}
	}
	return 0, false
}
