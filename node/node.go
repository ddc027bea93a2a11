package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// A Node works for one cluster as one principal. Make one with [Open].
//
// The goroutine in Run owns the stream. Each assignment has a goroutine of its
// own, at most Capacity at a time; they share the view, whose methods only the
// holder of its turn may call, and the store, whose attestations are created
// once each.
type Node struct {
	config  Config
	public  ed25519.PublicKey // that attests
	signer  dsse.Signer
	store   *store
	view    *view
	modules moduleCache

	mu    sync.Mutex
	busy  map[string]bool // guarded by mu: executions that are being worked on
	stats Stats           // guarded by mu
}

// Stats counts what became of assignments since the node was opened.
type Stats struct {
	Connections uint64 // streams that were opened
	Assignments uint64 // taken from a stream
	Attested    uint64 // new attestations
	Resent      uint64 // stored attestations handed in again
	Rejected    uint64 // attestations that the control plane refused
	Abandoned   uint64 // given up because something was not available
	Refused     map[RefusalCode]uint64
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
	return &Node{
		config: config, public: signer.Public(), signer: signer, store: s, view: v,
		busy:  make(map[string]bool),
		stats: Stats{Refused: make(map[RefusalCode]uint64)},
	}, nil
}

// Close gives up the directory. Run must have returned.
func (n *Node) Close() error { return n.store.close() }

// Stats returns the counts so far.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stats
	s.Refused = maps.Clone(s.Refused)
	return s
}

func (n *Node) count(f func(*Stats)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.stats)
}

// Run holds the assignment stream, opening it again whenever it ends, and works
// until ctx ends. Then it takes nothing new, gives work in progress Timing.Drain
// to end, and returns when all of it has. It returns nil after a drain and an
// error that wraps ErrStore when the directory has failed.
func (n *Node) Run(ctx context.Context) error {
	// Work outlives ctx, so that a stop does not throw away runs.
	workCtx, cancelWork := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWork()
	slots := make(chan struct{}, n.config.Capacity)
	var workers sync.WaitGroup
	pause := n.newBackoff()
	for ctx.Err() == nil && n.store.failed() == nil {
		received, err := n.stream(ctx, func(a *pb.Assignment) { n.start(ctx, workCtx, a, slots, &workers) })
		if ctx.Err() != nil {
			break
		}
		n.config.Logger.Warn("assignment stream ended", "error", err)
		if received {
			pause = n.newBackoff()
		}
		pause.wait(ctx)
	}
	n.drain(&workers, cancelWork)
	return n.store.failed()
}

// start waits for a free slot, which holds the stream back, and works on the
// assignment unless its execution is being worked on.
func (n *Node) start(ctx, workCtx context.Context, a *pb.Assignment, slots chan struct{}, workers *sync.WaitGroup) {
	if !n.begin(a.GetExecutionId()) {
		return
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		n.end(a.GetExecutionId())
		return
	}
	workers.Go(func() {
		defer func() { <-slots }()
		defer n.end(a.GetExecutionId())
		n.work(workCtx, a)
	})
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
func (n *Node) stream(ctx context.Context, assign func(*pb.Assignment)) (received bool, err error) {
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
		watchdog.Stop() // however long it takes to find a free slot
		if a := s.Msg().GetAssignment(); a != nil {
			assign(a)
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

// backoff doubles its pauses up to a bound, each shortened at random by up to a
// half so that nodes do not return together.
type backoff struct {
	next, max time.Duration
}

func (n *Node) newBackoff() *backoff {
	return &backoff{next: n.config.Timing.BackoffMin, max: n.config.Timing.BackoffMax}
}

// wait pauses; false when ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	pause := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, b.max)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
