package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// streams are the assignment streams that nodes hold, at most one each.
type streams struct {
	mu     sync.Mutex
	byNode map[string]*stream
}

// stream is what one node is to be told. The queue holds ids of executions,
// open when they were put there, each once: it is as long as there are open
// executions of the node at most.
type stream struct {
	end    context.CancelFunc
	opened time.Time

	mu     sync.Mutex
	queue  []digest.Digest
	queued map[digest.Digest]bool
	wake   chan struct{} // holds a token when the queue is not empty
}

func newStreams() *streams { return &streams{byNode: make(map[string]*stream)} }

// open makes the node's stream and ends an earlier one.
func (s *streams) open(node string, now time.Time, end context.CancelFunc) *stream {
	st := &stream{end: end, opened: now, queued: make(map[digest.Digest]bool), wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.byNode[node]; ok {
		old.end()
	}
	s.byNode[node] = st
	return st
}

// close forgets a stream that has ended, unless a later one has its place.
func (s *streams) close(node string, st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byNode[node] == st {
		delete(s.byNode, node)
	}
}

// opened returns when a node opened the stream that it holds, false if it holds
// none.
func (s *streams) opened(node string) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.byNode[node]
	if !ok {
		return time.Time{}, false
	}
	return st.opened, true
}

// offer queues an execution for a node that holds a stream. It never blocks.
func (s *streams) offer(node string, id digest.Digest) {
	s.mu.Lock()
	st, ok := s.byNode[node]
	s.mu.Unlock()
	if ok {
		st.push(id)
	}
}

func (st *stream) push(id digest.Digest) {
	st.mu.Lock()
	if !st.queued[id] {
		st.queued[id] = true
		st.queue = append(st.queue, id)
	}
	st.mu.Unlock()
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

func (st *stream) pop() (digest.Digest, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.queue) == 0 {
		return digest.Digest{}, false
	}
	id := st.queue[0]
	st.queue = st.queue[1:]
	delete(st.queued, id)
	return id, true
}

// Assignments sends what the node has to do: every open assignment first, in the
// order of the requests, then new ones as they become provable. A node has one stream: a second call ends
// the first, whose channel is closed, as it is when ctx ends.
func (o *Orchestrator) Assignments(ctx context.Context, node string) (<-chan *pb.Assignment, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	if o.Kind(node) != string(membership.KindNode) {
		return nil, refuse(CodeNotMember, "%q is no member node at this epoch: have it admitted first", node)
	}
	ctx, end := context.WithCancel(ctx)
	stop := context.AfterFunc(o.ctx, end)
	out := make(chan *pb.Assignment)

	// The view stays locked from looking at what is open until the stream is
	// known, so that nothing that begins in between is missed.
	o.view.mu.Lock()
	o.view.returned(node)
	st := o.streams.open(node, o.cfg.Now(), end)
	var todo []*tracked
	for _, x := range o.view.open {
		if o.view.assignedTo(x, node) {
			todo = append(todo, x)
		}
	}
	slices.SortFunc(todo, func(a, b *tracked) int { return cmp.Compare(a.index, b.index) })
	for _, x := range todo {
		st.push(x.id)
	}
	o.view.mu.Unlock()

	started := o.start(func() {
		defer close(out)
		defer o.streams.close(node, st)
		defer stop()
		defer end()
		o.serve(ctx, node, st, out)
	})
	if !started {
		end()
		return nil, o.usable()
	}
	return out, nil
}

// serve sends one assignment after the other until ctx ends.
func (o *Orchestrator) serve(ctx context.Context, node string, st *stream, out chan<- *pb.Assignment) {
	for {
		id, ok := st.pop()
		if !ok {
			select {
			case <-st.wake:
			case <-ctx.Done():
				return
			}
			continue
		}
		a, err := o.prepare(ctx, id, node)
		switch {
		case ctx.Err() != nil || o.usable() != nil:
			return
		case err != nil:
			// One execution must not keep the node from the others. Its deadline
			// runs, and the node is told again when it next opens a stream.
			o.log.Error("preparing an assignment", "execution", id, "node", node, "err", err)
			continue
		case a == nil:
			continue
		}
		select {
		case out <- a:
		case <-ctx.Done():
			return
		}
	}
}

// prepare returns the assignment of an execution for a node, nil if there is
// nothing to do for it any more. It waits until all of it can be proven.
func (o *Orchestrator) prepare(ctx context.Context, id digest.Digest, node string) (*pb.Assignment, error) {
	for {
		news := o.news.wait()
		a, err := o.assignment(ctx, id, node)
		if !errors.Is(err, ErrNotYet) {
			return a, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// maxAssignment bounds an assignment in bytes. Nodes take messages of 96 MiB; eight
// parents' proofs of as many records as a bundle may have, and the records of as
// many epochs, fit in half of that.
const maxAssignment = 64 << 20

// assignmentPlan is what the view says about an assignment.
type assignmentPlan struct {
	execution   provenance.Execution
	attempt     uint64  // the first that assigns the node
	epochs      []int64 // indexes of the records of the pinned epoch and all later ones
	reschedules []int64 // indexes of reschedule records 1 to attempt
}

// plan returns the plan, false if the node has nothing to do.
func (v *view) plan(id digest.Digest, node string) (assignmentPlan, bool) {
	ex, ok := v.fold.Execution(id)
	if !ok || ex.State != provenance.StateOpen {
		return assignmentPlan{}, false
	}
	for _, a := range ex.Attestations {
		if a.Node == node {
			return assignmentPlan{}, false
		}
	}
	attempt, ok := ex.Schedule.FirstAttempt(node)
	if !ok || attempt > ex.Attempt {
		return assignmentPlan{}, false
	}
	p := assignmentPlan{execution: ex, attempt: attempt, epochs: append([]int64(nil), v.epochs[ex.Epoch-1:]...)}
	for _, link := range ex.Chain {
		if link.Kind == record.KindReschedule && uint64(len(p.reschedules)) < attempt {
			p.reschedules = append(p.reschedules, link.Index)
		}
	}
	return p, true
}

// assignment puts together what a node verifies before it runs anything. It is
// ErrNotYet when a checkpoint that is needed has not been published.
func (o *Orchestrator) assignment(ctx context.Context, id digest.Digest, node string) (*pb.Assignment, error) {
	o.view.mu.RLock()
	p, ok := o.view.plan(id, node)
	o.view.mu.RUnlock()
	if !ok {
		return nil, nil
	}
	ex := &p.execution
	a := &pb.Assignment{
		ExecutionId: id.String(), Attempt: p.attempt,
		ModuleDigest: ex.Contract.Module.String(), InputDigest: ex.Submission.Input.String(),
	}
	// Before the membership checkpoint is chosen: the node has folded the changes up
	// to that one when it verifies these, which leave them out.
	for _, parent := range ex.Submission.Parents {
		bundle, err := o.bundle(ctx, bundleKey{id: parent, external: true})
		if CodeOf(err) == CodeProofNotReady {
			return nil, ErrNotYet
		}
		if err != nil {
			return nil, err
		}
		a.ParentBundles = append(a.ParentBundles, bundle)
	}
	var request, audit, members checkpoint.Checkpoint
	var err error
	if a.RequestCheckpoint, request, err = firstCovering(o.cfg.Audit, ex.RequestIndex); err != nil {
		return nil, err
	}
	if a.MembershipCheckpoint, members, err = published(o.cfg.Membership); err != nil {
		return nil, err
	}
	if a.AuditCheckpoint, audit, err = o.auditFor(&p, a.RequestCheckpoint, request, members.Size); err != nil {
		return nil, err
	}
	if a.Contract, err = o.proven(ctx, ex.ContractIndex, request.Size); err != nil {
		return nil, err
	}
	if a.Request, err = o.proven(ctx, ex.RequestIndex, request.Size); err != nil {
		return nil, err
	}
	// Up to the epoch of the membership checkpoint; auditFor covers its record.
	if a.Epochs, err = o.provenAll(ctx, p.epochs[:members.Size-int64(ex.Epoch)+1], audit.Size); err != nil {
		return nil, err
	}
	if a.Reschedules, err = o.provenAll(ctx, p.reschedules, audit.Size); err != nil {
		return nil, err
	}
	// The node ends a stream that brings a larger message, and would meet it again
	// whenever it opens the next.
	if size := proto.Size(a); size > maxAssignment {
		return nil, fmt.Errorf("assignment of %d bytes, at most %d are sent", size, maxAssignment)
	}
	return a, nil
}

// auditFor chooses the audit checkpoint of an assignment: the request checkpoint
// if it serves, else the first that covers what it must. That is the reschedule
// records and the record of the membership checkpoint's epoch, whose number is
// the checkpoint's size; and no later epoch: a node runs nothing under an epoch
// whose record it has not seen proven, and cannot check a record of an epoch
// that it does not know.
func (o *Orchestrator) auditFor(p *assignmentPlan, note []byte, request checkpoint.Checkpoint, members int64) ([]byte, checkpoint.Checkpoint, error) {
	last := members - int64(p.execution.Epoch) // place among p.epochs
	if last < 0 || last >= int64(len(p.epochs)) {
		return nil, checkpoint.Checkpoint{}, ErrNotYet
	}
	need := p.epochs[last]
	if n := len(p.reschedules); n > 0 {
		need = max(need, p.reschedules[n-1])
	}
	c := request
	if c.Size <= need {
		var err error
		if note, c, err = firstCovering(o.cfg.Audit, need); err != nil {
			return nil, checkpoint.Checkpoint{}, err
		}
	}
	if next := last + 1; next < int64(len(p.epochs)) && p.epochs[next] < c.Size {
		return nil, checkpoint.Checkpoint{}, ErrNotYet
	}
	return note, c, nil
}

// published returns the newest published checkpoint of a log.
func published(log Log) ([]byte, checkpoint.Checkpoint, error) {
	note, err := log.Published()
	if err != nil {
		return nil, checkpoint.Checkpoint{}, err
	}
	c, err := readCheckpoint(note)
	return note, c, err
}

// firstCovering returns the first published checkpoint above an index.
func firstCovering(log Log, index int64) ([]byte, checkpoint.Checkpoint, error) {
	note, err := log.FirstPublishedCovering(index)
	if err != nil {
		return nil, checkpoint.Checkpoint{}, err
	}
	c, err := readCheckpoint(note)
	return note, c, err
}
