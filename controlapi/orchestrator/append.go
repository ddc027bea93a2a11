package orchestrator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// Names of registers (docs/architecture.md, "State and who owns it").
const registerEpoch = "epoch"

func registerRetired(hash []byte) string   { return fmt.Sprintf("retired/%x", hash) }
func registerExecution(id []byte) string   { return fmt.Sprintf("x/%x", id) }
func guardEpoch(epoch uint64) Register     { return Register{registerEpoch, epoch} }
func guardNotRetired(hash []byte) Register { return Register{registerRetired(hash), 0} }

// proposal is a record that is to be appended if the state that it was judged
// in still holds.
type proposal struct {
	record *pb.Record
	// repeatable leaves the deduplication key out: for evidence, and for kinds
	// that have none.
	repeatable bool
	guards     []Register
	sets       []Register
}

// maxPins bounds how often an operation is judged again because the log moved
// on. Each time something else made progress, so reaching it takes a storm of
// changes.
const maxPins = 32

// commit appends the record that judge proposes, and answers once the view
// covers it. judge is called with the view locked for reading; it refuses, or
// proposes for the state that it sees. If the state has moved on when the
// sequencer gets there, nothing has happened and judge is asked again: so a
// submission that races a membership change is pinned to the new epoch.
func (o *Orchestrator) commit(ctx context.Context, judge func(v *view) (proposal, error)) (Appended, error) {
	for range maxPins {
		o.view.mu.RLock()
		p, err := judge(o.view)
		o.view.mu.RUnlock()
		if err != nil {
			return Appended{}, err
		}
		e, err := o.seal(p)
		if err != nil {
			return Appended{}, err
		}
		result, head, err := o.appendOne(ctx, e)
		switch {
		case errors.Is(err, ErrGuard):
			// What changed the register is in the log: see it first.
			if err := o.waitApplied(ctx, o.cfg.Audit.Size()-1); err != nil {
				return Appended{}, err
			}
			continue
		case err != nil:
			return Appended{}, err
		}
		if err := o.waitApplied(ctx, result.Index); err != nil {
			return Appended{}, err
		}
		return o.receipt(ctx, result, head, e.Opening)
	}
	return Appended{}, refuse(CodeBusy, "the state kept changing while this was admitted: try again")
}

// seal makes the log entry of a proposal: the time, a fresh salt, the
// commitment, the deduplication key.
func (o *Orchestrator) seal(p proposal) (LogEntry, error) {
	r := p.record
	r.ProtocolVersion, r.Cluster = record.Version, o.cfg.Cluster
	r.TimeUnixMs = uint64(max(0, o.cfg.Now().UnixMilli()))
	body, err := record.Marshal(r)
	if errors.Is(err, record.ErrTooLarge) {
		return LogEntry{}, refuseCause(CodeTooLarge, err, "the record would be over its limit: make the envelope shorter")
	}
	if err != nil {
		return LogEntry{}, refuseCause(CodeArgument, err, "a field is out of its range: %v", err)
	}
	var salt [record.SaltSize]byte
	rand.Read(salt[:])
	opening, err := record.NewOpening(salt, body)
	if err != nil {
		return LogEntry{}, refuseCause(CodeTooLarge, err, "the record would be over its limit")
	}
	commitment := opening.Entry()
	e := LogEntry{Data: commitment[:], Opening: opening.Bytes(), Guards: p.guards, Sets: p.sets}
	if key, ok := record.DedupKey(r); ok && !p.repeatable {
		e.Dedup = key[:]
	}
	return e, nil
}

// appendOne is appendAll for one entry; a guard that does not hold is the error.
func (o *Orchestrator) appendOne(ctx context.Context, e LogEntry) (LogResult, Head, error) {
	results, head, err := o.appendAll(ctx, e)
	if err != nil {
		return LogResult{}, Head{}, err
	}
	return results[0], head, results[0].Err
}

// appendAll appends to the audit log. After an error whose outcome is unknown
// the orchestrator refuses everything: the log may hold a record that the view
// will never hear of.
func (o *Orchestrator) appendAll(ctx context.Context, entries ...LogEntry) ([]LogResult, Head, error) {
	if err := o.usable(); err != nil {
		return nil, Head{}, err
	}
	results, head, err := o.cfg.Audit.Append(ctx, entries...)
	o.wakeApplier()
	if err != nil {
		if errors.Is(err, ErrPushback) {
			o.refusing.failed(o.cfg.Now())
		}
		return nil, Head{}, o.appendError(ctx, "audit", err)
	}
	o.refusing.worked(o.cfg.Now(), o.cfg.AttemptDeadline)
	return results, head, nil
}

// appendError turns what an append failed with into what the caller is told.
func (o *Orchestrator) appendError(ctx context.Context, log string, err error) error {
	switch {
	case errors.Is(err, ErrPushback):
		return refuseCause(CodeBusy, err, "the %s log is busy: try again shortly", log)
	case ctx.Err() != nil:
		// The entry may still be sequenced; its deduplication key will tell.
		return ctx.Err()
	}
	o.fail(fmt.Errorf("appending to the %s log: %w", log, err))
	return o.usable()
}

// waitApplied blocks until the view covers the index.
func (o *Orchestrator) waitApplied(ctx context.Context, index int64) error {
	if o.applied.waitFor(ctx, index+1, o.ctx.Done()) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return o.usable()
}

// receipt assembles what binds the log to a record. A nil opening is read from
// the log: the record is an earlier one.
func (o *Orchestrator) receipt(ctx context.Context, result LogResult, head Head, opening []byte) (Appended, error) {
	a := Appended{Index: result.Index, Duplicate: result.Duplicate, Opening: opening, Head: head.Note}
	if result.Duplicate || opening == nil {
		var err error
		if a.Opening, err = o.opening(ctx, result.Index); err != nil {
			return Appended{}, err
		}
	}
	proof, err := o.cfg.Audit.InclusionProof(result.Index, head.Size)
	if err != nil {
		return Appended{}, o.readError(ctx, err)
	}
	a.Proof = rawHashes(proof)
	return a, nil
}

// earlier is the receipt for a record that the log has held all along. The head
// may be newer than the one that the first caller got.
func (o *Orchestrator) earlier(ctx context.Context, index int64) (Appended, error) {
	head, err := o.head(ctx)
	if err != nil {
		return Appended{}, err
	}
	return o.receipt(ctx, LogResult{Index: index, Duplicate: true}, head, nil)
}

// head asks the log for its newest receipt head, by appending once more the
// record that every audit log begins with: a duplicate, which a guard that never
// holds keeps from being anything else.
func (o *Orchestrator) head(ctx context.Context) (Head, error) {
	first := &pb.Record{Body: &pb.Record_Epoch{Epoch: &pb.EpochRecord{Epoch: 1}}}
	key, _ := record.DedupKey(first)
	_, head, err := o.appendOne(ctx, LogEntry{Dedup: key[:], Guards: []Register{guardEpoch(math.MaxInt64)}})
	if errors.Is(err, ErrGuard) {
		err = errors.New("audit entry 0 does not hold its deduplication key")
		o.fail(err)
		return Head{}, o.usable()
	}
	return head, err
}

// opening reads one opening from the audit log.
func (o *Orchestrator) opening(ctx context.Context, index int64) ([]byte, error) {
	var out []byte
	err := o.cfg.Audit.Entries(ctx, index, index+1, func(_ int64, _, opening []byte) error {
		out = append(out, opening...)
		return nil
	})
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	return out, nil
}

// recordAt reads and parses one record of the audit log.
func (o *Orchestrator) recordAt(ctx context.Context, index int64) (*pb.Record, error) {
	b, err := o.opening(ctx, index)
	if err != nil {
		return nil, err
	}
	opening, err := record.ParseOpening(b)
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	r, err := record.Parse(opening.Record())
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	return r, nil
}

// readError answers a read that the log could not serve. What is asked for is
// always below the log's size, so it is the log's fault.
func (o *Orchestrator) readError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if usable := o.usable(); usable != nil {
		return usable
	}
	o.log.Error("reading a log", "err", err)
	return refuseCause(CodeUnavailable, err, "a log could not be read: try again, or tell the operator")
}

// header is the record of an operation, before its body.
func header(actor Actor) *pb.Record {
	return &pb.Record{Actor: &pb.Actor{
		Principal: actor.Principal, KeyId: actor.KeyID, Method: actor.Method, TokenId: actor.TokenID,
	}}
}
