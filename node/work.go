package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// A trial is what the tries of one assignment share. It belongs to the goroutine
// that works on it.
type trial struct {
	assignment *pb.Assignment
	tenant     string // whose slot is held between waits
	began      time.Time
	pause      *backoff
	tries      int // that have begun
	// result is that of a run whose attestation is kept, until its payloads are handed
	// in: without it, they take another run.
	result *Result
}

// work takes one assignment to its end: refused, given up, or attested. The
// caller holds a slot of the tenant, which work gives up while it waits for
// another try, so that an assignment that cannot be worked on keeps no other from
// its turn. outdated says that nobody was told of the end, since the assignment
// went stale here: it is to be asked for anew.
func (n *Node) work(ctx context.Context, tenant string, a *pb.Assignment) (outdated bool) {
	n.count(func(s *Stats) { s.Assignments++ })
	logger := n.config.Logger.With("execution", a.GetExecutionId(), "attempt", a.GetAttempt())
	t := &trial{assignment: a, tenant: tenant, began: time.Now(), pause: n.newBackoff()}
	for {
		t.tries++
		err := n.attempt(ctx, t)
		if err == nil {
			return false
		}
		h := handlingOf(err)
		more := h.again(t.tries, time.Since(t.began), n.config.Timing.Retry) && n.stopping.Err() == nil && ctx.Err() == nil
		if more && t.tries == 1 { // once: a control plane that is away concerns many assignments
			logger.Log(ctx, min(h.level, slog.LevelWarn), "assignment will be tried again", "error", err)
		}
		if !more || !n.waitForAnother(ctx, t, err) {
			n.giveUp(ctx, logger.With("tries", t.tries), err, h)
			n.abandon(a.GetExecutionId(), err)
			return errors.Is(err, errOutdated)
		}
		n.count(func(s *Stats) { s.Retries++ })
	}
}

// giveUp counts and logs the end of an assignment that was not attested.
func (n *Node) giveUp(ctx context.Context, logger *slog.Logger, err error, h handling) {
	var refusal *RefusalError
	if errors.As(err, &refusal) {
		n.count(func(s *Stats) { s.Refused[refusal.Code]++ })
		logger.Log(ctx, h.level, "assignment refused", "code", string(refusal.Code), "error", refusal.Detail)
		return
	}
	n.count(func(s *Stats) { s.Abandoned++ })
	if n.store.failed() != nil {
		n.stop()
	}
	if n.stopping.Err() != nil && !errors.Is(err, ErrStore) {
		h.level = slog.LevelInfo // it will be assigned again
	}
	logger.Log(ctx, h.level, "assignment given up", "error", err)
}

// waitForAnother pauses before another try, which err made necessary, without the
// slot; false when the node stops. When too many wait already, it keeps the slot
// for the pause, so that nothing new is begun: in an outage that would only be one
// more that waits. That goes on for Timing.Retry at most, and not for what may not
// pass; then the answer is false too. The slot is held again in any case.
func (n *Node) waitForAnother(ctx context.Context, t *trial, err error) bool {
	n.mu.Lock()
	full := n.waiting >= maxWaiting
	if !full {
		n.waiting++
		n.retain(t)
	}
	n.mu.Unlock()
	if full && (!mayPass(err) || time.Since(t.began) >= n.config.Timing.Retry) {
		return false
	}
	if !full {
		n.slots.release(t.tenant)
	}
	if n.retrying != nil {
		n.retrying()
	}
	// Both end the pause: work is cancelled, or no more is begun.
	both, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(n.stopping, cancel)
	ended := !t.pause.wait(both, retryAfter(err))
	unhook()
	cancel()
	if full {
		return !ended
	}
	n.slots.wait(context.Background(), n.slots.ask(t.tenant, true)) // others hold it for bounded time
	n.mu.Lock()
	n.waiting-- // not before: those that stand in line here are bounded too
	n.retained -= t.result.size()
	n.mu.Unlock()
	return !ended
}

// maxRetained bounds the bytes of results that are kept in memory for assignments
// that wait without a slot: four of the largest ones at the cluster's default
// limits, or thousands of small ones.
const maxRetained = 64 << 20

// retain counts the result that t keeps while it waits, or drops it. The caller
// holds mu.
func (n *Node) retain(t *trial) {
	if n.retained+t.result.size() > maxRetained {
		t.result = nil
	}
	n.retained += t.result.size()
}

// size is how many bytes of payloads a result holds; nil holds none.
func (r *Result) size() int {
	if r == nil {
		return 0
	}
	return len(r.Output) + len(r.Diagnostics)
}

// attempt is one try. What is stored for the execution is sent as it is: a node
// never attests twice differently, whatever it is shown later.
func (n *Node) attempt(ctx context.Context, t *trial) error {
	a := t.assignment
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
		return n.resume(ctx, t, id, envelope)
	}
	// In this order: what is being removed is buried before.
	if n.store.removedBefore(id) {
		return refuse(RefusedSettled, "execution %s was attested, and the attestation is removed since; no other is made", id)
	}
	if err := n.uncontradicted(id); err != nil {
		return err
	}
	work, err := n.verify(ctx, a)
	if err != nil {
		return err
	}
	result, err := n.run(ctx, work)
	if err != nil {
		return err
	}
	// While it ran the node may have learned that it was removed.
	if err := n.mayAttest(work.execution.Epoch); err != nil {
		return err
	}
	if envelope, err = n.sign(work, result); err != nil {
		return err
	}
	// Durable before anything leaves. A crash from here on leads to a second run,
	// which must find what is stated here, and to these bytes and no others.
	if envelope, err = n.store.keepAttestation(id, envelope, work.execution.Submission.LastEpoch); err != nil {
		return err
	}
	n.count(func(s *Stats) { s.Attested++ })
	n.config.Logger.Info("attested", "execution", id.String(), "outcome", string(result.Outcome.Kind), "result", result.Outcome.ResultDigest().String())
	// The payloads go first: an attestation whose output nobody has is worth
	// little to the tenant and nothing to a child.
	t.result = result
	if err := n.putPayloads(ctx, result); err != nil {
		return fmt.Errorf("%w: %w", errUndelivered, err)
	}
	t.result = nil
	if err := n.store.markPut(id); err != nil {
		return err
	}
	return n.send(ctx, id, envelope)
}

// resume goes on with an execution whose attestation is kept.
func (n *Node) resume(ctx context.Context, t *trial, id digest.Digest, envelope []byte) error {
	statement, err := parseAttestation(id, envelope)
	if err != nil {
		return err
	}
	// Guards against a directory that is not this node's.
	if statement.Execution != id || statement.Node != n.config.ID {
		return storeError(fmt.Errorf("file %q is about execution %s by node %q", attestationName(id), statement.Execution, statement.Node))
	}
	if err := n.uncontradicted(id); err != nil {
		return err
	}
	if !n.store.isPut(id) {
		if err := n.again(ctx, t, statement); err != nil {
			return err
		}
	}
	if t.tries == 1 { // else an earlier try of this assignment may have stored it
		n.count(func(s *Stats) { s.Resent++ })
	}
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
	// The module is the only thing held to these limits here, by its size.
	limits := contract.ClusterLimits{ModuleBytes: min(state.Limits().ModuleBytes, n.config.Limits.ModuleBytes)}
	if err := c.CheckModule(module, limits); err != nil {
		return nil, refuseCause(RefusedModule, err)
	}
	input, err := n.input(ctx, t)
	if err != nil {
		return nil, err
	}
	result, err := n.runModule(ctx, t.execution.ID, t.execution.Tenant, Run{Contract: c, Module: module, Input: input, Timeout: n.config.guard(c.Versions)})
	if err != nil {
		return nil, err
	}
	o := result.Outcome
	if digest.Of(result.Output) != o.OutputDigest || digest.Of(result.Diagnostics) != o.DiagnosticsDigest {
		return nil, fmt.Errorf("%w: its digests are not those of its output and diagnostics", errFault)
	}
	if err := c.CheckOutcome(o); err != nil {
		return nil, fmt.Errorf("%w: its outcome: %w", errFault, err)
	}
	return result, nil
}

// runModule runs a module when it is its turn.
func (n *Node) runModule(ctx context.Context, id digest.Digest, tenant string, run Run) (*Result, error) {
	done, ok := n.cold.acquire(n.stopping, tenant, run.Contract.Module)
	if !ok {
		return nil, errDraining
	}
	defer done()
	n.health.begin(id.String())
	defer n.health.end(id.String())
	n.mu.Lock()
	n.running++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.running--
		n.mu.Unlock()
	}()
	began := time.Now()
	result, err := n.config.Runner.Run(ctx, run)
	switch {
	case errors.Is(err, ErrNotAdmitted):
		return nil, refuseCause(RefusedAdmission, err)
	case ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("%w: %w", errDraining, err)
	case errors.Is(err, ErrStopped):
		return nil, err
	case err != nil:
		n.health.ran(id, err)
		if time.Since(began) <= run.Timeout/soon {
			return nil, fmt.Errorf("%w: %w", errFaultSoon, err)
		}
		return nil, fmt.Errorf("%w: %w", errFault, err)
	}
	n.health.ran(id, nil)
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
		// In words of its own: the control plane's are for whoever would put it.
		return nil, &RefusalError{Code: RefusedMissing, Cause: err, Detail: fmt.Sprintf(
			"payload %s is not served to this node: mostly the execution was decided meanwhile, and nothing is to be done", d)}
	case err != nil:
		return nil, fmt.Errorf("%w: fetching payload %s: %w", ErrUnavailable, d, err)
	}
	return resp.Msg.GetData(), nil
}

// putPayloads hands in what an outcome covers.
func (n *Node) putPayloads(ctx context.Context, result *Result) error {
	for _, payload := range [][]byte{result.Output, result.Diagnostics} {
		if err := n.putBlob(ctx, payload); err != nil {
			return err
		}
	}
	return nil
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

// permanent are the codes that the same attestation would meet again.
var permanent = []connect.Code{
	connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
	connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeUnimplemented,
}

// send hands in an attestation. An error wraps errUndelivered: the control plane
// has neither taken nor refused it.
func (n *Node) send(ctx context.Context, id digest.Digest, envelope []byte) error {
	index, err := n.sendOnce(ctx, envelope)
	if err != nil && slices.Contains(permanent, connect.CodeOf(err)) {
		n.count(func(s *Stats) { s.Rejected++ })
		n.config.Logger.Error("the control plane refuses the attestation", "execution", id.String(), "error", err)
		n.recorded(id, -1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUndelivered, err)
	}
	n.recorded(id, index)
	return nil
}

// sendOnce returns the index at which the log has the attestation, as the control
// plane says.
func (n *Node) sendOnce(ctx context.Context, envelope []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.Call)
	defer cancel()
	resp, err := n.config.ControlPlane.RecordExecutionProvenance(ctx,
		connect.NewRequest(&pb.RecordExecutionProvenanceRequest{Envelope: envelope}))
	if err != nil {
		return 0, err
	}
	return int64(min(resp.Msg.GetReceipt().GetIndex(), math.MaxInt64)), nil
}
