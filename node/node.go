package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// A Node works for one cluster as one principal. Make one with [Open].
//
// The goroutine in Run owns the stream, from which it fills the queue. Another
// takes the queue in order and gives each assignment a goroutine of its own, of
// which slots bounds those that do something and runs those that run a module;
// the others wait for another try. They share the view, whose methods only the
// holder of its turn may call, and the store, whose attestations are created once
// each.
type Node struct {
	config  Config
	public  ed25519.PublicKey // that attests
	signer  dsse.Signer
	store   *store
	view    *view
	modules moduleCache

	queue    *queue
	slots    semaphore       // held while something is done about an assignment
	runs     semaphore       // held while a module runs
	stopping context.Context // ends when nothing new is to begin
	stop     context.CancelFunc
	retrying func() // called when an assignment begins to wait for another try; tests set it

	mu      sync.Mutex
	busy    map[string]bool // guarded by mu: executions in the queue or beyond it
	waiting int             // guarded by mu: those that wait for another try
	running int             // guarded by mu: those whose module runs
	stats   Stats           // guarded by mu
}

// ahead is how many assignments are in progress beyond those that run: their
// payloads are fetched and handed in, which waits for the network and the control
// plane's log, while modules run.
func ahead(capacity int) int { return 8 + 3*capacity }

// Stats counts what became of assignments since the node was opened.
type Stats struct {
	Connections uint64 // streams that were opened
	Assignments uint64 // taken from a stream
	Attested    uint64 // new attestations
	Resent      uint64 // stored attestations handed in again
	Rejected    uint64 // attestations that the control plane refused
	Retries     uint64 // further tries after something was not available
	Abandoned   uint64 // given up because something was not available
	Refused     map[RefusalCode]uint64

	// What there is now.
	Queued  int // assignments that nothing was done about yet
	Waiting int // for another try
	Running int // modules
}

// Open takes the directory for this process and restores what the node has seen
// and attested. Nothing runs before Run is called.
func Open(config Config) (*Node, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	signer, err := dsse.NewSigner(config.AttestationKey)
	if err != nil {
		return nil, fmt.Errorf("node: attestation key: %w", err)
	}
	s, err := openStore(config.Dir)
	if err != nil {
		return nil, err
	}
	v, err := openView(s, &config)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	n := &Node{
		config: config, public: signer.Public(), signer: signer, store: s, view: v,
		queue: newQueue(),
		slots: make(semaphore, config.Capacity+ahead(config.Capacity)),
		runs:  make(semaphore, config.Capacity),
		busy:  make(map[string]bool),
		stats: Stats{Refused: make(map[RefusalCode]uint64)},
	}
	n.stopping, n.stop = context.WithCancel(context.Background())
	return n, nil
}

// Close gives up the directory. Run must have returned.
func (n *Node) Close() error {
	n.stop()
	return n.store.close()
}

// Stats returns the counts so far.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stats
	s.Queued, s.Waiting, s.Running = n.queue.len(), n.waiting, n.running
	s.Refused = maps.Clone(s.Refused)
	return s
}

func (n *Node) count(f func(*Stats)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.stats)
}

// Run holds the assignment stream, opening it again whenever it ends, and works
// until ctx ends. Then it starts no further run, gives what is running
// Timing.Drain to end, and returns when all of it has. It returns nil after a
// drain and an error that wraps ErrStore when the directory has failed. It is
// called once.
func (n *Node) Run(ctx context.Context) error {
	// Work outlives ctx, so that a stop does not throw away runs.
	workCtx, cancelWork := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWork()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, n.stop)()
	defer context.AfterFunc(n.stopping, cancel)() // also when the directory fails
	var workers sync.WaitGroup
	dispatched := make(chan struct{})
	go func() {
		defer close(dispatched)
		n.dispatch(workCtx, &workers)
	}()
	pause := n.newBackoff()
	for ctx.Err() == nil && n.store.failed() == nil {
		received, err := n.stream(ctx)
		if ctx.Err() != nil {
			break
		}
		n.config.Logger.Warn("assignment stream ended", "error", err)
		if received {
			pause = n.newBackoff()
		}
		pause.wait(ctx)
	}
	n.stop()
	<-dispatched
	n.drain(&workers, cancelWork)
	return n.store.failed()
}

// dispatch starts the assignments of the queue in order, each when there is a
// slot, until the node is stopped.
func (n *Node) dispatch(workCtx context.Context, workers *sync.WaitGroup) {
	for {
		a := n.queue.take(n.stopping)
		if a == nil {
			return
		}
		if !n.slots.acquire(n.stopping) {
			return
		}
		workers.Go(func() {
			defer n.end(a.GetExecutionId())
			defer n.slots.release()
			n.work(workCtx, a)
		})
	}
}

// offer queues an assignment, holding the stream back while there is no space,
// unless its execution is being worked on or waits already.
func (n *Node) offer(ctx context.Context, a *pb.Assignment) {
	if n.begin(a.GetExecutionId()) && !n.queue.put(ctx, a) {
		n.end(a.GetExecutionId())
	}
}

func (n *Node) begin(execution string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[execution] {
		return false
	}
	n.busy[execution] = true
	return true
}

func (n *Node) end(execution string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.busy, execution)
}

// A semaphore bounds how much happens at a time. Those who wait for it are served
// in order.
type semaphore chan struct{}

// acquire waits for a turn; false, without one, when ctx has ended.
func (s semaphore) acquire(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if ctx.Err() != nil { // of two cases that are ready any may be taken
		s.release()
		return false
	}
	return true
}

func (s semaphore) release() { <-s }

// drain waits for the workers, and cancels them when their time is over.
func (n *Node) drain(workers *sync.WaitGroup, cancel context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		workers.Wait()
		close(done)
	}()
	timer := time.NewTimer(n.config.Timing.Drain)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		n.config.Logger.Warn("work in progress is cancelled", "after", n.config.Timing.Drain)
		cancel()
		<-done
	}
}

// stream opens the assignment stream and hands on what it brings until it ends
// or has been silent for too long. received says whether it brought anything.
func (n *Node) stream(ctx context.Context) (received bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("%w: stream silent for %v", ErrUnavailable, n.config.Timing.Idle)
	watchdog := time.AfterFunc(n.config.Timing.Idle, func() { cancel(silent) })
	defer watchdog.Stop()
	info := &pb.NodeInfo{}
	if n.config.Info != nil {
		info = proto.CloneOf(n.config.Info)
	}
	info.Capacity = uint32(n.config.Capacity)
	s, err := n.config.ControlPlane.WatchAssignments(ctx, connect.NewRequest(&pb.WatchAssignmentsRequest{Info: info}))
	if err != nil {
		return false, err
	}
	defer s.Close()
	n.count(func(s *Stats) { s.Connections++ })
	n.config.Logger.Info("assignment stream open")
	for s.Receive() {
		received = true
		watchdog.Stop() // however long it takes to find space in the queue
		if a := s.Msg().GetAssignment(); a != nil {
			n.offer(ctx, a)
		}
		watchdog.Reset(n.config.Timing.Idle)
	}
	if cause := context.Cause(ctx); errors.Is(cause, silent) {
		return received, cause
	}
	if err := s.Err(); err != nil {
		return received, err
	}
	return received, errors.New("closed by the control plane")
}
