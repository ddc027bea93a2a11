package orchestrator

import (
	"context"
	"fmt"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// applyBatch is how many entries are read before they are applied together:
// enough to spread the cost of a lock and a scan, few enough that readers and
// the callers of the first entry do not wait long.
const applyBatch = 256

// apply is the applier: the one goroutine that writes to the view.
func (o *Orchestrator) apply() {
	published := o.published.moved.wait()
	for {
		if err := o.catchUp(o.ctx); err != nil {
			o.fail(fmt.Errorf("reading the audit log: %w", err))
			return
		}
		o.cover(o.published.get())
		select {
		case <-o.grown:
		case <-published:
			published = o.published.moved.wait()
		case <-o.ctx.Done():
			return
		}
	}
}

// wakeApplier tells the applier that the audit log has grown.
func (o *Orchestrator) wakeApplier() {
	select {
	case o.grown <- struct{}{}:
	default: // a token is there already
	}
}

// catchUp applies everything that the audit log holds. Only recover and the
// applier call it.
func (o *Orchestrator) catchUp(ctx context.Context) error {
	for start := o.applied.get(); ; {
		end := min(o.cfg.Audit.Size(), start+applyBatch)
		if start == end {
			return nil
		}
		batch := make([]entry, 0, end-start)
		err := o.cfg.Audit.Entries(ctx, start, end, func(index int64, data, opening []byte) error {
			e, err := readEntry(index, data, opening)
			batch = append(batch, e)
			return err
		})
		if err != nil {
			return err
		}
		o.applyEntries(batch)
		start = end
	}
}

// entry is one entry of the audit log with its record.
type entry struct {
	index      int64
	commitment [record.EntrySize]byte
	record     *pb.Record // nil if it cannot be read
}

// readEntry opens an entry. That an opening does not open its entry is a fault
// of the store, and an error; that a record cannot be read is not: the fold
// finds it void.
func readEntry(index int64, data, opening []byte) (entry, error) {
	commitment, r, err := provenance.OpenEntry(index, data, opening)
	if err != nil {
		return entry{}, fmt.Errorf("%w: restore the store from a backup", err)
	}
	return entry{index, commitment, r}, nil
}

// applyEntries folds consecutive entries and sets in motion what follows from
// them. Nobody who waits for their index is woken before the view has it.
func (o *Orchestrator) applyEntries(batch []entry) {
	o.view.mu.Lock()
	for _, e := range batch {
		effect, x := o.view.applyRecord(e.index, e.commitment, e.record)
		if x != nil {
			if a := e.record.GetAttestation(); a != nil {
				delete(x.abandoned, a.GetNode()) // it attests all the same
				o.view.paced(a.GetNode(), x, o.cfg.Now())
			}
			o.react(effect, x)
		}
		if effect.Void {
			o.log.Warn("void record in the audit log", "index", e.index, "code", string(effect.Code), "detail", effect.Detail)
		}
	}
	epoch := o.view.fold.Epoch()
	o.view.mu.Unlock()
	if epoch > 0 {
		o.news.ring()
	}
	o.applied.raise(batch[len(batch)-1].index + 1)
}

// react hands an execution that a record was about to whom it concerns. The
// view is locked: nothing here blocks.
func (o *Orchestrator) react(effect provenance.Effect, x *tracked) {
	o.watchers.wake(x.id)
	if effect.Evidence {
		return
	}
	if effect.After != provenance.StateOpen && x.deadline != nil {
		x.deadline.Stop()
		x.deadline = nil
	}
	switch {
	case effect.Derived != nil:
		o.deriver.add(job{id: x.id})
	case effect.Before == effect.After && effect.After != provenance.StateOpen:
		o.deriver.drop(x.id) // what was derived is recorded
	case o.view.exhausted(x):
		// Everybody asked so far has answered: waiting would be in vain.
		o.deriver.add(job{id: x.id, overdue: x.begun})
	}
}

// cover acts on a witnessed checkpoint of the given size: attempts that it
// covers begin.
func (o *Orchestrator) cover(size int64) {
	o.view.mu.Lock()
	defer o.view.mu.Unlock()
	for _, m := range o.view.cover(size) {
		o.watchers.wake(m.x.id)
		if m.x.closed < 0 {
			o.begin(m.x)
		}
	}
}

// begin starts an attempt of an execution: its nodes are told and its deadline
// runs. The view is locked.
func (o *Orchestrator) begin(x *tracked) {
	ex, _ := o.view.fold.Execution(x.id)
	if ex.State != provenance.StateOpen {
		return
	}
	attempt := x.begun
	x.begun++
	for _, node := range ex.Assigned() {
		if first, _ := ex.Schedule.FirstAttempt(node); first == attempt {
			o.streams.offer(node, x.id)
		}
	}
	if x.deadline != nil {
		x.deadline.Stop()
	}
	due := job{id: x.id, overdue: x.begun}
	x.graced, x.stretched, x.postponed, x.progress, x.reoffered = false, 0, 0, 0, false
	o.await(x, due)
	if o.view.exhausted(x) {
		o.deriver.add(due)
	}
}
