package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// Attest takes a node's attestation envelope. The digest is the execution id;
// the state is that after the attestation. What comes after the execution was
// decided is kept as evidence.
func (o *Orchestrator) Attest(ctx context.Context, actor Actor, node string, envelope []byte) (digest.Digest, Appended, pb.ExecutionState, error) {
	if err := o.usable(); err != nil {
		return digest.Digest{}, Appended{}, 0, err
	}
	e, err := dsse.Parse(envelope)
	if err != nil {
		return digest.Digest{}, Appended{}, 0, refuseCause(CodeEnvelope, err, "%v: send the envelope as it was signed", err)
	}
	s, err := provenance.ParseStatement(e.Payload)
	if err != nil {
		return digest.Digest{}, Appended{}, 0, refuseCause(CodeEnvelope, err, "%v", err)
	}
	if s.Node != node {
		return s.Execution, Appended{}, 0, refuse(CodeWrongNode, "attestation of node %q, the caller is %q: attest as the caller", s.Node, node)
	}
	appended, err := o.attest(ctx, actor, attestation{s, digest.Of(e.Payload), e, envelope})
	if err != nil {
		return s.Execution, Appended{}, 0, err
	}
	o.view.mu.RLock()
	ex, _ := o.view.fold.Execution(s.Execution)
	o.view.mu.RUnlock()
	return s.Execution, appended, stateOf(ex.State), nil
}

// attestation is a node's statement, before its signature is verified.
type attestation struct {
	statement *provenance.Statement
	digest    digest.Digest // of the payload
	signed    *dsse.Envelope
	envelope  []byte // signed, as it came
}

func (o *Orchestrator) attest(ctx context.Context, actor Actor, a attestation) (Appended, error) {
	id := a.statement.Execution
	judge := func(v *view) (proposal, error) {
		epoch := v.fold.Epoch()
		r := header(actor)
		r.Body = &pb.Record_Attestation{Attestation: &pb.AttestationRecord{
			ExecutionId: id[:], Node: a.statement.Node, Epoch: epoch, Envelope: a.envelope,
		}}
		version := v.version(id)
		p := proposal{record: r, guards: []Register{guardEpoch(epoch), {registerExecution(id[:]), version}}}
		p, err := o.judged(v, p)
		if err != nil {
			return proposal{}, err
		}
		if ex, _ := v.fold.Execution(id); ex.State == provenance.StateOpen {
			p.sets = []Register{{registerExecution(id[:]), version + 1}}
		} else {
			// Evidence takes no effect, and must not use up the key of a record
			// that does. Nor does it move a register that it is guarded by, so it
			// has one that is set once.
			p.repeatable = true
			next := registerEvidence(&ex, a.statement.Node)
			p.guards = append(p.guards, Register{next, 0})
			p.sets = []Register{{next, 1}}
		}
		return p, nil
	}
	if index, ok := o.attestedAt(a); ok {
		return o.earlier(ctx, index)
	}
	// Outputs first, while the attestation is still the node's to repeat: when
	// the execution is complete its output is there.
	o.view.mu.RLock()
	_, err := judge(o.view)
	tenant := ""
	if x, ok := o.view.executions[id]; ok {
		tenant = x.tenant
	}
	o.view.mu.RUnlock()
	if err != nil {
		return Appended{}, err
	}
	if err := o.adoptOutputs(ctx, a.statement, tenant); err != nil {
		return Appended{}, err
	}
	appended, err := o.commit(ctx, judge)
	if CodeOf(err) == CodeAttestation {
		// The same attestation, on another connection, may have been faster.
		if index, ok := o.attestedAt(a); ok {
			return o.earlier(ctx, index)
		}
	}
	return appended, err
}

// registerEvidence names the register of the next attestation of an assigned node:
// of two that are judged at the same time, the log takes one, and the other is
// judged again. The fold takes two of a node at most. The name follows from the log
// alone, so nothing misses a register that an older store did not set.
func registerEvidence(ex *provenance.Execution, node string) string {
	n := 0
	for _, a := range ex.Attestations {
		if a.Node == node {
			n++
		}
	}
	return fmt.Sprintf("evidence/%x/%d/%d", ex.ID[:], slices.Index(ex.Schedule.Ranking, node), n)
}

// attestedAt returns the index of the record of the same statement, if the node
// signs it with an attestation key that is valid now. What the node says in
// other words is for the fold to refuse.
func (o *Orchestrator) attestedAt(a attestation) (int64, bool) {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	ex, ok := o.view.fold.Execution(a.statement.Execution)
	if !ok {
		return 0, false
	}
	for _, earlier := range ex.Attestations {
		if earlier.Node == a.statement.Node && earlier.Digest == a.digest {
			return earlier.Index, o.view.verifies(a)
		}
	}
	return 0, false
}

// verifies reports whether an attestation has one signature, by a key of its
// node that is valid now and may attest.
func (v *view) verifies(a attestation) bool {
	p, _ := v.current.Principal(a.statement.Node)
	_, err := a.signed.VerifyWith(provenance.AttestationType, p.KeysFor(membership.UseAttestation))
	return err == nil && len(a.signed.Signatures) == 1
}

// adoptOutputs copies what a node has put, output and diagnostics of its run,
// into the namespace of the tenant, who may read them and whose later
// executions may need them. A node that put nothing is no error: others will.
// Nothing needs no putting.
func (o *Orchestrator) adoptOutputs(ctx context.Context, s *provenance.Statement, tenant string) error {
	for _, d := range []digest.Digest{s.Outcome.OutputDigest, s.Outcome.DiagnosticsDigest} {
		if _, err := o.blobs.Size(ctx, tenant, d); err == nil {
			continue
		} else if !errors.Is(err, ErrNoBlob) {
			return o.blobError(ctx, err)
		}
		var data []byte
		if d != digest.Of(nil) {
			var err error
			data, err = o.blobs.Get(ctx, s.Node, d)
			if errors.Is(err, ErrNoBlob) {
				continue
			}
			if err != nil {
				return o.blobError(ctx, err)
			}
		}
		if _, err := o.PutBlob(ctx, tenant, data); err != nil {
			return err
		}
	}
	return nil
}
