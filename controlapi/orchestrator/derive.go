package orchestrator

import (
	"errors"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

const (
	// deriveBatch is how many records the deriver appends at once: they share a
	// commit, and a batch stays far below the log's bounds.
	deriveBatch = 256
	// deriveRetry is how long the deriver waits before it tries again when the
	// log is busy.
	deriveRetry = 100 * time.Millisecond
)

// job asks the deriver to look at an execution: to append the record that the
// fold derived, or, if overdue is not 0 and attempts 0 to overdue−1 are still
// all that have begun, to go on to the next attempt or to the end.
type job struct {
	id      digest.Digest
	overdue uint64
}

// deriver is the queue of the derive goroutine. What it does follows from the
// log, so jobs may be lost in a crash: starting up finds them again.
type deriver struct {
	mu     sync.Mutex
	jobs   map[digest.Digest]job // at most one for each execution
	behind bool                  // a change is not in force yet

	wake chan struct{} // holds a token when there is something to do
}

func newDeriver() *deriver {
	return &deriver{jobs: make(map[digest.Digest]job), wake: make(chan struct{}, 1)}
}

// add queues a job and never blocks. A later job for the same execution
// replaces an earlier one: only the last attempt can be overdue.
func (d *deriver) add(j job) {
	d.mu.Lock()
	d.jobs[j.id] = j
	d.mu.Unlock()
	d.signal()
}

func (d *deriver) drop(id digest.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.jobs, id)
}

// enforceLater asks for changes to be put into force that are in the membership
// log only.
func (d *deriver) enforceLater() {
	d.mu.Lock()
	d.behind = true
	d.mu.Unlock()
	d.signal()
}

func (d *deriver) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take removes up to deriveBatch jobs.
func (d *deriver) take() (jobs []job, behind bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, j := range d.jobs {
		if len(jobs) == deriveBatch {
			d.signal()
			break
		}
		jobs = append(jobs, j)
		delete(d.jobs, id)
	}
	behind, d.behind = d.behind, false
	return jobs, behind
}

// derive appends what the state of the fold asks for: provenance and divergence
// records, and reschedule and expired records when deadlines have passed.
func (o *Orchestrator) derive() {
	for {
		select {
		case <-o.deriver.wake:
		case <-o.ctx.Done():
			return
		}
		jobs, behind := o.deriver.take()
		err := o.appendDerived(jobs)
		if behind && err == nil {
			o.changes.Lock()
			if err = o.enforce(o.ctx, nil); err != nil {
				o.deriver.enforceLater()
			}
			o.changes.Unlock()
		}
		if err == nil {
			continue
		}
		if CodeOf(err) != CodeBusy {
			return // stopping, or failed for good
		}
		select {
		case <-time.After(deriveRetry):
		case <-o.ctx.Done():
			return
		}
	}
}

// appendDerived does the jobs, and puts back those that are to be tried again.
func (o *Orchestrator) appendDerived(jobs []job) error {
	var entries []LogEntry
	var todo []job
	var ends []bool // which of todo are expiries
	for _, j := range jobs {
		p, ok := o.propose(j)
		if !ok {
			continue
		}
		e, err := o.seal(p)
		if err != nil {
			// The fold derived what the record format does not hold.
			o.log.Error("derived record cannot be written", "execution", j.id, "err", err)
			continue
		}
		entries, todo, ends = append(entries, e), append(todo, j), append(ends, p.record.GetExpired() != nil)
	}
	if len(entries) == 0 {
		return nil
	}
	results, _, err := o.appendAll(o.ctx, entries...)
	if err != nil {
		for i, j := range todo {
			if ends[i] {
				o.putOff(j)
			} else {
				o.deriver.add(j)
			}
		}
		return err
	}
	// The view comes first: judged by an older one, a job would be tried again
	// for what it has done.
	if err := o.waitApplied(o.ctx, o.cfg.Audit.Size()-1); err != nil {
		return err
	}
	for i, r := range results {
		if errors.Is(r.Err, ErrGuard) {
			o.deriver.add(todo[i])
		}
	}
	return nil
}

// propose returns the record that an execution is due, if it still is.
func (o *Orchestrator) propose(j job) (proposal, bool) {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	ex, ok := o.view.fold.Execution(j.id)
	if !ok {
		return proposal{}, false
	}
	r := dueRecord(&ex, j)
	if r == nil {
		return proposal{}, false
	}
	p, err := o.judged(o.view, proposal{record: r})
	if err != nil {
		o.log.Error("derived record is void", "execution", j.id, "err", err)
		return proposal{}, false
	}
	version := uint64(len(ex.Chain))
	p.guards = []Register{{registerExecution(j.id[:]), version}}
	p.sets = []Register{{registerExecution(j.id[:]), version + 1}}
	return p, true
}

// dueRecord is what the log should say next about an execution, nil if nothing.
func dueRecord(ex *provenance.Execution, j job) *pb.Record {
	switch {
	case ex.Derived != nil && !ex.Recorded:
		return cloneRecord(ex.Derived)
	case ex.State != provenance.StateOpen || j.overdue != ex.Attempt+1:
		return nil
	case j.overdue < ex.Schedule.Attempts():
		return &pb.Record{Body: &pb.Record_Reschedule{Reschedule: &pb.RescheduleRecord{ExecutionId: j.id[:], Attempt: j.overdue}}}
	}
	return &pb.Record{Body: &pb.Record_Expired{Expired: &pb.ExpiredRecord{ExecutionId: j.id[:]}}}
}
