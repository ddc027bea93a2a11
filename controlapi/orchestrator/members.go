package orchestrator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// loadChanges reads the membership log into the history and puts genesis into
// an empty one.
func (o *Orchestrator) loadChanges(ctx context.Context) error {
	if o.cfg.Membership.Size() == 0 {
		if err := o.appendGenesis(ctx); err != nil {
			return err
		}
	}
	err := o.cfg.Membership.Entries(ctx, 0, o.cfg.Membership.Size(), func(index int64, data, _ []byte) error {
		if index == 0 && !bytes.Equal(data, o.cfg.Genesis) {
			return errors.New("the membership log begins with another genesis than the one configured")
		}
		if _, err := o.history.Append(data); err != nil {
			return fmt.Errorf("membership entry %d: %w", index, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return o.checkIdentity(o.history.Current())
}

// appendGenesis begins the membership log of a new cluster.
func (o *Orchestrator) appendGenesis(ctx context.Context) error {
	state, info, err := membership.Genesis(o.cfg.Genesis)
	if err != nil {
		return fmt.Errorf("genesis: %w", err)
	}
	if err := o.checkIdentity(state); err != nil {
		return err
	}
	results, _, err := o.cfg.Membership.Append(ctx, changeEntry(o.cfg.Genesis, info))
	if err != nil {
		return fmt.Errorf("appending genesis: %w", err)
	}
	return results[0].Err
}

// checkIdentity compares what this control plane was configured with with what
// the membership says the cluster is.
func (o *Orchestrator) checkIdentity(s *membership.State) error {
	if s.Cluster() != o.cfg.Cluster {
		return fmt.Errorf("the genesis is of cluster %q, not %q", s.Cluster(), o.cfg.Cluster)
	}
	return o.checkLogs(s)
}

// changeEntry is the membership log's entry for a lawful change. The register
// holds the log to one entry for each epoch, in order.
func changeEntry(envelope []byte, info *membership.ChangeInfo) LogEntry {
	epoch := info.Change.Epoch
	return LogEntry{
		Data:   envelope,
		Dedup:  info.PayloadDigest[:],
		Guards: []Register{guardEpoch(epoch - 1)},
		Sets:   []Register{{registerEpoch, epoch}},
	}
}

// ApplyChange applies a signed membership change, other than genesis. The
// digest is that of the change's payload.
func (o *Orchestrator) ApplyChange(ctx context.Context, actor Actor, envelope []byte) (d digest.Digest, epoch uint64, duplicate bool, err error) {
	if err := o.usable(); err != nil {
		return digest.Digest{}, 0, false, err
	}
	if len(envelope) > membership.MaxChangeEnvelope {
		return digest.Digest{}, 0, false, refuse(CodeTooLarge, "the change has %d bytes, at most %d are taken", len(envelope), membership.MaxChangeEnvelope)
	}
	parsed, err := dsse.Parse(envelope)
	if err != nil {
		return digest.Digest{}, 0, false, refuseCause(CodeEnvelope, err, "%v: send the change as it was signed", err)
	}
	d = digest.Of(parsed.Payload)
	// Once it has begun, a change is carried through whatever becomes of the
	// caller: between the logs is no place to stop.
	ctx = context.WithoutCancel(ctx)

	o.changes.Lock()
	defer o.changes.Unlock()
	// An earlier change may have stopped half way because the audit log was busy.
	if err := o.enforce(ctx, nil); err != nil {
		return d, 0, false, err
	}
	if epoch, ok := o.epochOf(parsed.Payload, d); ok {
		return d, epoch, true, nil
	}
	after, info, err := o.history.Current().Apply(envelope)
	if err != nil {
		return d, 0, false, changeRefusal(err)
	}
	if err := o.keepsLogKeys(after); err != nil {
		return d, 0, false, err
	}

	// 1. The membership log. No witness may see the entry yet.
	// Crash before: the change never was. Crash after: the next start goes on
	// with 2.
	results, _, err := o.cfg.Membership.Append(ctx, changeEntry(envelope, info))
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		return d, 0, false, o.appendError(ctx, "membership", err)
	}
	if _, err := o.history.Append(envelope); err != nil {
		o.fail(fmt.Errorf("membership log and history disagree: %w", err))
		return d, 0, false, o.usable()
	}

	// 2. and 3. The audit log, then the witnesses. If the audit log is busy the
	// deriver carries on, and the caller who asks again gets a duplicate.
	if err := o.enforce(ctx, &actor); err != nil {
		o.deriver.enforceLater()
		return d, 0, false, err
	}
	return d, info.Change.Epoch, false, nil
}

// enforce puts every change of the membership log into force. The caller holds
// the lock on changes.
func (o *Orchestrator) enforce(ctx context.Context, actor *Actor) error {
	// 2. The audit log: from its epoch record on, the change is in force.
	// Crash after: the next start goes on with 3.
	if err := o.mirrorEpochs(ctx, actor); err != nil {
		return err
	}
	if err := o.waitApplied(ctx, o.cfg.Audit.Size()-1); err != nil {
		return err
	}
	// 3. The witnesses: a node that learns the epoch from them finds its record
	// in the audit log.
	o.cfg.Membership.AllowWitness(int64(o.history.Size()))
	return nil
}

// epochOf returns the epoch that a payload has made, if it has.
func (o *Orchestrator) epochOf(payload []byte, d digest.Digest) (uint64, bool) {
	c, err := membership.ParseChange(payload)
	if err != nil {
		return 0, false
	}
	info, _, err := o.history.Change(c.Epoch)
	if err != nil || info.PayloadDigest != d {
		return 0, false
	}
	return c.Epoch, true
}

// changeRefusal tells why a change is not lawful.
func changeRefusal(err error) error {
	var refusal *membership.RefusalError
	if !errors.As(err, &refusal) {
		return refuseCause(CodeChange, err, "%v", err)
	}
	switch refusal.Code {
	case membership.RefusedEnvelope:
		return refuseCause(CodeEnvelope, err, "%v", err)
	case membership.RefusedVersion:
		return refuseCause(CodeVersion, err, "%v", err)
	}
	return refuseCause(CodeChange, err, "%v", err)
}

// mirrorEpochs appends the epoch records that the audit log lacks. The caller
// holds the lock on changes, or is recover.
func (o *Orchestrator) mirrorEpochs(ctx context.Context, actor *Actor) error {
	have, err := o.cfg.Audit.Register(registerEpoch)
	if err != nil {
		return o.readError(ctx, err)
	}
	last := o.history.Size()
	for epoch := have + 1; epoch <= last; epoch++ {
		r, err := o.epochRecord(epoch)
		if err != nil {
			return err
		}
		if actor != nil {
			r.Actor = header(*actor).Actor
		}
		e, err := o.seal(proposal{record: r, guards: []Register{guardEpoch(epoch - 1)}, sets: []Register{{registerEpoch, epoch}}})
		if err != nil {
			return err
		}
		if _, _, err := o.appendOne(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// epochRecord restates one epoch of the membership log.
func (o *Orchestrator) epochRecord(epoch uint64) (*pb.Record, error) {
	state, err := o.history.StateAt(epoch)
	if err != nil {
		return nil, err
	}
	root, err := o.history.Root(epoch)
	if err != nil {
		return nil, err
	}
	hash, identity := state.MembershipHash(), state.IdentityHash()
	return &pb.Record{Body: &pb.Record_Epoch{Epoch: &pb.EpochRecord{
		Epoch: epoch, MembershipSize: epoch, MembershipRoot: root[:],
		MembershipHash: hash[:], ClusterIdentityHash: identity[:],
	}}}, nil
}

// now returns the membership state in force.
func (o *Orchestrator) now() *membership.State {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	return o.view.current
}

// TokenKey returns the key with this id if it is valid at the current epoch and
// has use "token". The key id may come from a stranger.
func (o *Orchestrator) TokenKey(keyID string) (principal string, public ed25519.PublicKey, ok bool) {
	p, ok := o.now().KeyHolder(keyID)
	if !ok {
		return "", nil, false
	}
	public, ok = p.KeyFor(membership.UseToken, keyID)
	return p.ID, public, ok
}

// Kind returns the kind of a member at the current epoch ("admin", "auditor",
// "node" or "tenant"), "" for anybody else.
func (o *Orchestrator) Kind(principal string) string {
	p, ok := o.now().Principal(principal)
	if !ok {
		return ""
	}
	return string(p.Kind)
}
