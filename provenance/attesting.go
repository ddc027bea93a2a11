package provenance

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// The rules for records about a running execution: the last rows of the table
// in docs/formats/execution.md, "The fold".

func (f *Fold) judgeReschedule(index int64, r *pb.RescheduleRecord) (Effect, commit) {
	ex, bad := f.openExecution(r.GetExecutionId())
	if ex == nil {
		return bad, nil
	}
	next := ex.Attempt + 1
	switch {
	case r.GetAttempt() != next:
		return about(void(CodeAttempt, "attempt %d, want %d", r.GetAttempt(), next), ex), nil
	case next >= ex.Schedule.Attempts():
		return about(void(CodeNobodyNew, "attempt %d assigned the last of %d nodes", ex.Attempt, len(ex.Schedule.Ranking)), ex), nil
	}
	return about(Effect{}, ex), func(entry [record.EntrySize]byte) *execution {
		ex.Attempt = next
		ex.link(index, entry, record.KindReschedule)
		return ex
	}
}

func (f *Fold) judgeExpired(index int64, r *pb.ExpiredRecord) (Effect, commit) {
	ex, bad := f.openExecution(r.GetExecutionId())
	if ex == nil {
		return bad, nil
	}
	if ex.Attempt+1 < ex.Schedule.Attempts() {
		return about(void(CodeRanksRemain, "attempt %d of %d has begun", ex.Attempt, ex.Schedule.Attempts()-1), ex), nil
	}
	return about(Effect{}, ex), func(entry [record.EntrySize]byte) *execution {
		ex.State, ex.DecidedAt = StateExpired, index
		ex.link(index, entry, record.KindExpired)
		return ex
	}
}

func (f *Fold) judgeAttestation(index int64, r *pb.AttestationRecord) (Effect, commit) {
	ex, bad := f.execution(r.GetExecutionId())
	if ex == nil {
		return bad, nil
	}
	if r.GetEpoch() != f.epoch {
		return about(void(CodeStaleEpoch, "states epoch %d, in force is %d", r.GetEpoch(), f.epoch), ex), nil
	}
	node := r.GetNode()
	first, ok := ex.Schedule.FirstAttempt(node)
	if !ok || first > ex.Attempt {
		return about(void(CodeNotAssigned, "node %q is not among the %d assigned", clip(node), len(ex.Assigned())), ex), nil
	}
	statement, sum, err := f.openAttestation(r, ex)
	if err != nil {
		return about(void(CodeAttestationInvalid, "node %q: %v", node, err), ex), nil
	}
	if detail := f.compare(index, ex, statement, node, first); detail != "" {
		return about(void(CodeAttestationDiffers, "node %q: %s", node, detail), ex), nil
	}
	said := opinion{result: statement.Outcome.ResultDigest(), checkpoint: statement.RequestCheckpoint}
	if !ex.ballot.isNew(node, said) {
		return about(void(CodeRepeated, "node %q has attested before", node), ex), nil
	}
	effect := about(Effect{Evidence: ex.State != StateOpen}, ex)
	return effect, func(entry [record.EntrySize]byte) *execution {
		ex.ballot.add(node, said)
		ex.Attestations = append(ex.Attestations, Attestation{Index: index, Node: node, Digest: sum,
			Statement: statement, Evidence: effect.Evidence})
		if effect.Evidence {
			return ex
		}
		ex.ParentOutputs = statement.ParentOutputs // in a whole fold they are equal
		ex.link(index, entry, record.KindAttestation)
		won, verdict := ex.ballot.judge(int(ex.Contract.Agreement), len(ex.Schedule.Ranking))
		switch verdict {
		case agreed:
			ex.complete(index, won, ex.ballot.voices)
		case impossible:
			ex.diverge(index)
		}
		return ex
	}
}

// openAttestation verifies the envelope with the node's keys that are valid at
// the pinned epoch and now, and reads the statement.
func (f *Fold) openAttestation(r *pb.AttestationRecord, ex *execution) (*Statement, digest.Digest, error) {
	envelope, err := dsse.Parse(r.GetEnvelope())
	if err != nil {
		return nil, digest.Digest{}, err
	}
	if n := len(envelope.Signatures); n != 1 {
		return nil, digest.Digest{}, fmt.Errorf("%d signatures, want one", n)
	}
	keys, err := f.attestationKeys(r.GetNode(), ex.Epoch)
	if err != nil {
		return nil, digest.Digest{}, err
	}
	if _, err := envelope.VerifyWith(AttestationType, keys); err != nil {
		return nil, digest.Digest{}, err
	}
	statement, err := ParseStatement(envelope.Payload)
	return statement, digest.Of(envelope.Payload), err
}

// attestationKeys returns the keys of a node that are valid at the pinned epoch
// and at the one in force.
func (f *Fold) attestationKeys(node string, pinned uint64) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for i, epoch := range []uint64{pinned, f.epoch} {
		state, err := f.members.StateAt(epoch)
		if err != nil {
			return nil, err
		}
		p, _ := state.Principal(node)
		valid := p.KeysFor(membership.UseAttestation)
		if i == 0 {
			keys = valid
			continue
		}
		keys = slices.DeleteFunc(keys, func(k ed25519.PublicKey) bool {
			return !slices.ContainsFunc(valid, func(v ed25519.PublicKey) bool { return v.Equal(k) })
		})
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no attestation key that is valid at epoch %d and at epoch %d", pinned, f.epoch)
	}
	return keys, nil
}

// compare returns what about a statement does not fit the execution, "" if all
// of it does.
func (f *Fold) compare(index int64, ex *execution, s *Statement, node string, attempt uint64) string {
	c, sub := ex.Contract, ex.Submission
	state, err := f.members.StateAt(ex.Epoch)
	if err != nil {
		return err.Error()
	}
	differs := func(member string, have, want any) string {
		return fmt.Sprintf("%s is %v, want %v", member, have, want)
	}
	switch {
	case s.Cluster != f.cluster:
		return differs("cluster", clip(s.Cluster), f.cluster)
	case s.Tenant != ex.Tenant:
		return differs("tenant", clip(s.Tenant), ex.Tenant)
	case s.Node != node:
		return differs("node", clip(s.Node), node)
	case s.Execution != ex.ID:
		return differs("invocationId", s.Execution, ex.ID)
	case s.Contract != ex.ContractHash:
		return differs("contract", s.Contract, ex.ContractHash)
	case s.Submission != ex.SubmissionDigest:
		return differs("submission", s.Submission, ex.SubmissionDigest)
	case s.Input != sub.Input:
		return differs("input", s.Input, sub.Input)
	case !slices.Equal(s.Parents, sub.Parents):
		return differs("parents", s.Parents, sub.Parents)
	case (ex.ParentOutputs != nil || !f.partial) && !slices.Equal(s.ParentOutputs, ex.ParentOutputs):
		return differs("outputs of the parents", s.ParentOutputs, ex.ParentOutputs)
	case s.Attempt != attempt:
		return differs("attempt", s.Attempt, attempt)
	case s.Epoch != ex.Epoch:
		return differs("epoch", s.Epoch, ex.Epoch)
	case s.MembershipHash != ex.MembershipHash:
		return differs("membership_hash", s.MembershipHash, ex.MembershipHash)
	case s.ScheduleHash != ex.Schedule.Hash():
		return differs("cluster_schedule_hash", s.ScheduleHash, ex.Schedule.Hash())
	case s.Module != c.Module:
		return differs("module", s.Module, c.Module)
	case (s.RewrittenModule != nil) != (c.Versions.Rewriter != 0):
		return differs("rewritten_module present", s.RewrittenModule != nil, c.Versions.Rewriter != 0)
	}
	if err := c.CheckOutcome(s.Outcome); err != nil {
		return err.Error()
	}
	if detail := compareRequestCheckpoint(index, ex, s.RequestCheckpoint, state.Logs().Audit.Origin); detail != "" {
		return detail
	}
	return f.compareMembershipCheckpoint(ex, s.MembershipCheckpoint, state)
}

// compareRequestCheckpoint: the request checkpoint covers the request, and the
// node had seen it before it attested. That its root hash is the log's is for
// the agreement and for whoever verifies its signatures.
func compareRequestCheckpoint(index int64, ex *execution, c CheckpointRef, origin string) string {
	if c.Origin != origin {
		return fmt.Sprintf("request_checkpoint is of %q, want %q", clip(c.Origin), origin)
	}
	if c.Size <= ex.RequestIndex || c.Size > index {
		return fmt.Sprintf("request_checkpoint has size %d, want %d to %d", c.Size, ex.RequestIndex+1, index)
	}
	return ""
}

// compareMembershipCheckpoint: the node's view of the membership log is a true
// one, not older than the pin and not newer than the audit log.
func (f *Fold) compareMembershipCheckpoint(ex *execution, c CheckpointRef, pinned *membership.State) string {
	current, err := f.members.StateAt(f.epoch)
	if err != nil {
		return err.Error()
	}
	// A successor log holds the same entries, so either name will do.
	if c.Origin != pinned.Logs().Membership.Origin && c.Origin != current.Logs().Membership.Origin {
		return fmt.Sprintf("membership_checkpoint is of %q, want %q", clip(c.Origin), current.Logs().Membership.Origin)
	}
	if size := uint64(c.Size); size < ex.Epoch || size > f.epoch {
		return fmt.Sprintf("membership_checkpoint has size %d, want %d to %d", size, ex.Epoch, f.epoch)
	}
	root, err := f.members.Root(uint64(c.Size))
	if err != nil {
		return err.Error()
	}
	if digest.Digest(root) != c.RootHash {
		return fmt.Sprintf("membership_checkpoint has root hash %s, want %s", c.RootHash, digest.Digest(root))
	}
	return ""
}

// judgeDerived: divergence and provenance records restate what the fold derived.
func (f *Fold) judgeDerived(index int64, id []byte, r *pb.Record) (Effect, commit) {
	ex, bad := f.execution(id)
	if ex == nil {
		return bad, nil
	}
	kind := record.KindOf(r)
	if ex.Recorded || record.KindOf(ex.Derived) != kind {
		return about(void(CodeNotDerived, "no %s record is due, the execution is %s", kind, ex.State), ex), nil
	}
	want := proto.CloneOf(ex.Derived)
	want.TimeUnixMs = r.GetTimeUnixMs()
	if !proto.Equal(r, want) {
		return about(void(CodeDiffers, "%s", difference(want, r)), ex), nil
	}
	return about(Effect{}, ex), func(entry [record.EntrySize]byte) *execution {
		ex.Recorded = true
		ex.link(index, entry, kind)
		return ex
	}
}

// difference names the first member in which a record differs from the derived
// one.
func difference(want, have *pb.Record) string {
	w, h := want.ProtoReflect(), have.ProtoReflect()
	if body := w.WhichOneof(w.Descriptor().Oneofs().ByName("body")); body != nil && h.Has(body) {
		w, h = w.Get(body).Message(), h.Get(body).Message()
	}
	fields := w.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); !w.Get(fd).Equal(h.Get(fd)) {
			return fmt.Sprintf("%q differs from what the records before imply", fd.Name())
		}
	}
	return "the header differs from that of a derived record"
}

// execution finds the execution that a record is about.
func (f *Fold) execution(id []byte) (*execution, Effect) {
	d, err := digest.FromBytes(id)
	if err != nil {
		return nil, void(CodeExecutionUnknown, "%v", err)
	}
	ex := f.executions[d]
	if ex == nil {
		return nil, void(CodeExecutionUnknown, "no execution %s", d)
	}
	return ex, Effect{}
}

// openExecution finds an execution that is still open.
func (f *Fold) openExecution(id []byte) (*execution, Effect) {
	ex, bad := f.execution(id)
	if ex != nil && ex.State != StateOpen {
		return nil, decided(ex)
	}
	return ex, bad
}

func decided(ex *execution) Effect {
	return about(void(CodeDecided, "execution is %s since index %d", ex.State, ex.DecidedAt), ex)
}

// about notes which execution an effect is about and where that stands.
func about(e Effect, ex *execution) Effect {
	id := ex.ID
	e.Execution, e.Before = &id, ex.State
	if e.Void {
		e.After = ex.State
	}
	return e
}
