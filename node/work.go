package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// maxTries bounds how often one assignment is tried when something is not
// available. After that others will be asked, or the control plane assigns it
// again when the stream is opened anew.
const maxTries = 5

// work takes one assignment to its end: refused, given up, or attested. It is
// the node's critical path.
func (n *Node) work(ctx context.Context, a *pb.Assignment) {
	logger := n.config.Logger.With("execution", a.GetExecutionId(), "attempt", a.GetAttempt())
	n.count(func(s *Stats) { s.Assignments++ })
	pause := n.newBackoff()
	for try := 1; ; try++ {
		err := n.attempt(ctx, a)
		var refusal *RefusalError
		switch {
		case err == nil:
			return
		case errors.As(err, &refusal):
			n.count(func(s *Stats) { s.Refused[refusal.Code]++ })
			logger.Warn("assignment refused", "code", string(refusal.Code), "error", refusal.Detail)
			return
		case try == maxTries || errors.Is(err, ErrStore) || ctx.Err() != nil:
			n.count(func(s *Stats) { s.Abandoned++ })
			logger.Error("assignment given up", "error", err, "tries", try)
			return
		}
		logger.Warn("assignment will be tried again", "error", err)
		if !pause.wait(ctx) {
			n.count(func(s *Stats) { s.Abandoned++ })
			return
		}
	}
}

// attempt is one try. What is stored for the execution is sent as it is: a node
// never attests twice differently, whatever it is shown later.
func (n *Node) attempt(ctx context.Context, a *pb.Assignment) error {
	id, err := digest.Parse(a.GetExecutionId())
	if err != nil {
		return refuse(RefusedMalformed, "execution id %.80q", a.GetExecutionId())
	}
	if err := n.store.failed(); err != nil {
		return err
	}
	envelope, err := n.store.attestation(id)
	if err != nil {
		return err
	}
	if envelope != nil {
		if err := n.checkStored(id, envelope); err != nil {
			return err
		}
		n.count(func(s *Stats) { s.Resent++ })
		return n.send(ctx, id, envelope)
	}
	t, err := n.verify(ctx, a)
	if err != nil {
		return err
	}
	result, err := n.run(ctx, t)
	if err != nil {
		return err
	}
	// The payloads go first: an attestation whose output nobody has is worth
	// little to the tenant and nothing to a child.
	for _, payload := range [][]byte{result.Output, result.Diagnostics} {
		if err := n.putBlob(ctx, payload); err != nil {
			return err
		}
	}
	// While it ran the node may have learned that it was removed.
	if err := n.mayAttest(t.execution.Epoch); err != nil {
		return err
	}
	if envelope, err = n.sign(t, result); err != nil {
		return err
	}
	// Durable before it leaves. A crash from here on sends the same bytes again.
	if envelope, err = n.store.keepAttestation(id, envelope); err != nil {
		return err
	}
	n.count(func(s *Stats) { s.Attested++ })
	n.config.Logger.Info("attested", "execution", id.String(), "outcome", string(result.Outcome.Kind), "result", result.Outcome.ResultDigest().String())
	return n.send(ctx, id, envelope)
}

// run fetches the payloads of a task, checks them and runs the module.
func (n *Node) run(ctx context.Context, t *task) (*Result, error) {
	c := t.execution.Contract
	state, err := n.view.history.StateAt(t.execution.Epoch)
	if err != nil {
		return nil, storeError(err)
	}
	module, err := n.modules.get(ctx, c.Module, n.getBlob)
	if err != nil {
		return nil, err
	}
	for _, limits := range []contract.ClusterLimits{state.Limits(), n.config.Limits} {
		if err := c.CheckModule(module, limits); err != nil {
			return nil, refuseCause(RefusedModule, err)
		}
	}
	input, err := n.input(ctx, t)
	if err != nil {
		return nil, err
	}
	result, err := n.config.Runner.Run(ctx, Run{Contract: c, Module: module, Input: input})
	if errors.Is(err, ErrNotAdmitted) {
		return nil, refuseCause(RefusedAdmission, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: running: %w", ErrUnavailable, err)
	}
	o := result.Outcome
	if digest.Of(result.Output) != o.OutputDigest || digest.Of(result.Diagnostics) != o.DiagnosticsDigest {
		return nil, fmt.Errorf("%w: the runner's digests are not those of its output and diagnostics", ErrUnavailable)
	}
	if err := c.CheckOutcome(o); err != nil {
		return nil, fmt.Errorf("%w: the runner's outcome: %w", ErrUnavailable, err)
	}
	return result, nil
}

// input joins the parents' outputs, in the order listed, and the submission's
// own input.
func (n *Node) input(ctx context.Context, t *task) ([]byte, error) {
	want := make([]digest.Digest, 0, len(t.parents)+1)
	for _, p := range t.parents {
		want = append(want, p.Outcome.OutputDigest)
	}
	want = append(want, t.execution.Submission.Input)
	limit := min(t.execution.Contract.Limits.InputBytes, n.config.Limits.InputBytes)
	var input []byte
	for _, d := range want {
		part, err := n.getBlob(ctx, d)
		if err != nil {
			return nil, err
		}
		if digest.Of(part) != d {
			return nil, refuse(RefusedInput, "payload with digest %s, want %s", digest.Of(part), d)
		}
		if uint64(len(input)+len(part)) > limit {
			return nil, refuse(RefusedInput, "input of more than %d bytes", limit)
		}
		input = append(input, part...)
	}
	return input, nil
}

// getBlob fetches a payload; its digest is the caller's to check.
func (n *Node) getBlob(ctx context.Context, d digest.Digest) ([]byte, error) {
	if d == digest.Of(nil) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.Call)
	defer cancel()
	resp, err := n.config.ControlPlane.GetBlob(ctx, connect.NewRequest(&pb.GetBlobRequest{Digest: d.String()}))
	switch {
	case connect.CodeOf(err) == connect.CodeNotFound:
		return nil, refuseCause(RefusedMissing, fmt.Errorf("payload %s: %w", d, err))
	case err != nil:
		return nil, fmt.Errorf("%w: fetching payload %s: %w", ErrUnavailable, d, err)
	}
	return resp.Msg.GetData(), nil
}

func (n *Node) putBlob(ctx context.Context, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.Call)
	defer cancel()
	if _, err := n.config.ControlPlane.PutBlob(ctx, connect.NewRequest(&pb.PutBlobRequest{Data: data})); err != nil {
		return fmt.Errorf("%w: storing output: %w", ErrUnavailable, err)
	}
	return nil
}

// sign makes the envelope of the attestation.
func (n *Node) sign(t *task, result *Result) ([]byte, error) {
	ex := t.execution
	s := &provenance.Statement{
		Cluster:              ex.Contract.Cluster,
		Tenant:               ex.Tenant,
		Contract:             ex.ContractHash,
		Submission:           ex.SubmissionDigest,
		Input:                ex.Submission.Input,
		Parents:              ex.Submission.Parents,
		Execution:            ex.ID,
		Node:                 n.config.ID,
		Attempt:              t.attempt,
		Epoch:                ex.Epoch,
		MembershipHash:       ex.MembershipHash,
		ScheduleHash:         ex.Schedule.Hash(),
		RequestCheckpoint:    reference(t.request),
		MembershipCheckpoint: reference(t.membership),
		Module:               ex.Contract.Module,
		RewrittenModule:      result.RewrittenModule,
		Outcome:              result.Outcome,
		SoftwareVersion:      n.config.Info.GetSoftwareVersion(),
	}
	for _, p := range t.parents {
		s.ParentOutputs = append(s.ParentOutputs, p.Outcome.OutputDigest)
	}
	payload, err := s.Marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: making the statement: %w", ErrUnavailable, err)
	}
	e, err := dsse.Sign(provenance.AttestationType, payload, n.signer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return e.Marshal()
}

func reference(c checkpoint.Checkpoint) provenance.CheckpointRef {
	return provenance.CheckpointRef{Origin: c.Origin, Size: c.Size, RootHash: digest.Digest(c.Root)}
}

// checkStored guards against a directory that is not this node's.
func (n *Node) checkStored(id digest.Digest, envelope []byte) error {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return storeError(fmt.Errorf("file %q: %w", attestationName(id), err))
	}
	s, err := provenance.ParseStatement(e.Payload)
	if err != nil {
		return storeError(fmt.Errorf("file %q: %w", attestationName(id), err))
	}
	if s.Execution != id || s.Node != n.config.ID {
		return storeError(fmt.Errorf("file %q is about execution %s by node %q", attestationName(id), s.Execution, s.Node))
	}
	return nil
}

// permanent are the codes that the same attestation would meet again.
var permanent = []connect.Code{
	connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
	connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeUnimplemented,
}

// send hands in an attestation until the control plane has taken or refused it,
// or ctx ends.
func (n *Node) send(ctx context.Context, id digest.Digest, envelope []byte) error {
	pause := n.newBackoff()
	for {
		err := n.sendOnce(ctx, envelope)
		if err == nil {
			return nil
		}
		if slices.Contains(permanent, connect.CodeOf(err)) {
			n.count(func(s *Stats) { s.Rejected++ })
			n.config.Logger.Error("the control plane refuses the attestation", "execution", id.String(), "error", err)
			return nil
		}
		n.config.Logger.Warn("attestation not delivered yet", "execution", id.String(), "error", err)
		if !pause.wait(ctx) {
			return fmt.Errorf("%w: attestation kept, not delivered: %w", ErrUnavailable, err)
		}
	}
}

func (n *Node) sendOnce(ctx context.Context, envelope []byte) error {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.Call)
	defer cancel()
	_, err := n.config.ControlPlane.RecordExecutionProvenance(ctx,
		connect.NewRequest(&pb.RecordExecutionProvenanceRequest{Envelope: envelope}))
	return err
}
