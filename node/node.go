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

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// A Node works for one cluster as one principal. Make one with [Open].
//
// The goroutine in Run owns the stream and gives each assignment a goroutine of
// its own. The queue bounds those that nothing was done about yet, slots those
// that do something and runs those that run a module; the others wait for another
// try. Tenants take turns at slots and runs. The goroutines share the view, whose
// methods only the holder of its turn may call, and the store, whose attestations
// are created once each.
type Node struct {
	config  Config
	public  ed25519.PublicKey // that attests
	signer  dsse.Signer
	store   *store
	view    *view
	modules moduleCache
	health  *health
	cold    *coldModules

	queue      *queue
	slots      *turns          // held while something is done about an assignment
	runs       *turns          // held while a module runs
	notices    chan notice     // what the control plane is to be told
	drained    chan struct{}   // closed when nothing more is added to notices
	stopping   context.Context // ends when nothing new is to begin
	stop       context.CancelFunc
	working    context.Context // ends when what was begun is to end too
	cancelWork context.CancelFunc
	workers    sync.WaitGroup // only Run's goroutine adds
	retrying   func()         // called when an assignment begins to wait for another try; tests set it

	mu       sync.Mutex
	busy     map[string]bool // guarded by mu: executions in the queue or beyond it
	waiting  int             // guarded by mu: those that wait for another try
	retained int             // guarded by mu: bytes of results that those keep
	running  int             // guarded by mu: those whose module runs
	stats    Stats           // guarded by mu

	endStream func(error) // guarded by mu: ends the stream that is open, nil if none is
	renewal   *time.Timer // guarded by mu: runs until the stream is opened anew, nil if it need not be
	renewed   time.Time   // guarded by mu: when that was last done

	delivered map[digest.Digest]int64 // guarded by mu: where the log has kept attestations, see recorded
	inherited map[digest.Digest]bool  // guarded by mu: attestations that earlier processes kept
}

// ahead is how many assignments are in progress beyond those that run: their
// payloads are fetched and handed in, which waits for the network and the control
// plane's log, while modules run.
func ahead(capacity int) int { return 8 + 3*capacity }

// newSlots keeps a quarter of the slots from any one tenant, so that another's
// assignment is prepared while the first one's runs hold the rest.
func newSlots(capacity int) *turns {
	most := capacity + ahead(capacity)
	return newTurns(most, most-most/4)
}

// Stats counts what became of assignments since the node was opened.
type Stats struct {
	Connections uint64 // streams that were opened
	Assignments uint64 // taken from a stream
	Attested    uint64 // new attestations
	Resent      uint64 // stored attestations handed in again
	Rejected    uint64 // attestations that the control plane refused
	Retries     uint64 // further tries after something was not available
	Abandoned   uint64 // given up because something was not available, or the run was stopped
	Kept        int    // attestations in the directory
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
	h := newHealth()
	v, err := openView(s, &config, h)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	n := &Node{
		config: config, public: signer.Public(), signer: signer, store: s, view: v,
		health:  h,
		queue:   newQueue(),
		slots:   newSlots(config.Capacity),
		runs:    newTurns(config.Capacity, config.Capacity),
		notices: make(chan notice, maxNotices),
		drained: make(chan struct{}),
		busy:    make(map[string]bool),
		stats:   Stats{Refused: make(map[RefusalCode]uint64)},

		delivered: make(map[digest.Digest]int64),
		inherited: make(map[digest.Digest]bool),
	}
	n.cold = newColdModules(n.runs, config.Capacity)
	for _, id := range s.attested() {
		n.inherited[id] = true
	}
	n.look()
	n.stopping, n.stop = context.WithCancel(context.Background())
	n.working, n.cancelWork = context.WithCancel(context.Background()) // outlives a stop, which throws away no runs
	return n, nil
}

// Close gives up the directory. Run must have returned.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.renewal != nil {
		n.renewal.Stop()
	}
	n.mu.Unlock()
	n.stop()
	n.cancelWork()
	return n.store.close()
}

// Stats returns the counts so far.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stats
	s.Queued, s.Waiting, s.Running, s.Kept = n.queue.len(), n.waiting, n.running, n.store.count()
	s.Refused = maps.Clone(s.Refused)
	return s
}

func (n *Node) count(f func(*Stats)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.stats)
}

// Run holds the assignment stream, opening it again whenever it ends, and works
// until ctx ends. Then it gives back what it has not begun, so that others are
// asked at once, starts no further run, gives what is running Timing.Drain to end,
// gives back the rest, and returns. It returns nil after a drain and an error that
// wraps ErrStore when the directory has failed. It is called once.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, n.stop)()
	defer context.AfterFunc(n.stopping, cancel)() // also when the directory fails
	telling, silence := context.WithCancel(context.Background())
	defer silence()
	var tellers sync.WaitGroup
	for range tellersAtATime {
		tellers.Go(func() { n.tell(telling) })
	}
	tellers.Go(func() { n.report(telling) })
	pause := n.newBackoff()
	for ctx.Err() == nil && n.store.failed() == nil {
		received, err := n.stream(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errRenewed) {
			n.config.Logger.Info("assignment stream is opened anew", "reason", err)
		} else {
			n.health.set(ProblemDisconnected, err.Error())
			n.config.Logger.Warn("assignment stream ended", "error", err)
		}
		if received {
			pause = n.newBackoff()
		}
		pause.wait(ctx, retryAfter(err))
	}
	n.stop()
	n.drain()
	close(n.drained)
	defer time.AfterFunc(n.noticeTime(), silence).Stop()
	tellers.Wait()
	return n.store.failed()
}

// offer lets an assignment wait for its turn, holding the stream back while too
// many do, unless its execution is being worked on or waits already.
func (n *Node) offer(ctx context.Context, a *pb.Assignment) {
	id := a.GetExecutionId()
	if !n.begin(id) {
		return
	}
	// The encoded form is the smallest, and its size is what it takes.
	encoded, err := proto.Marshal(a)
	if err != nil || !n.queue.enter(ctx, len(encoded)) { // it was decoded, so it encodes
		n.end(id)
		return
	}
	tenant := claimedTenant(a)
	turn := n.slots.ask(tenant, false) // here, so that the order is the stream's
	n.workers.Go(func() {
		outdated := false
		defer func() {
			n.end(id)
			if outdated { // now that it would be taken again
				n.renew()
			}
		}()
		began := n.slots.wait(n.stopping, turn)
		n.queue.leave(len(encoded))
		if !began {
			n.abandon(id, errDraining)
			return
		}
		defer n.slots.release(tenant)
		a := &pb.Assignment{}
		if proto.Unmarshal(encoded, a) == nil { // as it was encoded above
			outdated = n.work(n.working, tenant, a)
		}
	})
}

// errRenewed is why a node ends its own stream.
var errRenewed = errors.New("what went stale in the queue is to be assigned anew")

// renew has the stream opened anew, so that the control plane assigns once more
// all that is open, with proofs of then. That happens once in Timing.BackoffMax at
// most, however many ask for it; none that asks is left out.
func (n *Node) renew() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.renewal == nil {
		n.renewal = time.AfterFunc(n.config.Timing.BackoffMax-time.Since(n.renewed), n.reopen)
	}
}

func (n *Node) reopen() {
	n.mu.Lock()
	n.renewal, n.renewed = nil, time.Now()
	end := n.endStream
	n.mu.Unlock()
	if end != nil { // else the next one is to be opened anyway
		end(errRenewed)
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

// drain waits for the workers, and cancels them when their time is over.
func (n *Node) drain() {
	done := make(chan struct{})
	go func() {
		n.workers.Wait()
		close(done)
	}()
	timer := time.NewTimer(n.config.Timing.Drain)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		n.config.Logger.Warn("work in progress is cancelled", "after", n.config.Timing.Drain)
		n.cancelWork()
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
	n.mu.Lock()
	n.endStream = cancel
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.endStream = nil
		n.mu.Unlock()
	}()
	info := &pb.NodeInfo{}
	if n.config.Info != nil {
		info = proto.CloneOf(n.config.Info)
	}
	info.Capacity = uint32(n.config.Capacity)
	s, err := n.config.ControlPlane.WatchAssignments(ctx, connect.NewRequest(&pb.WatchAssignmentsRequest{Info: info}))
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, silent) || errors.Is(cause, errRenewed)) {
		return false, cause // it did not even open in that time
	}
	if err != nil {
		return false, err
	}
	defer s.Close()
	n.count(func(s *Stats) { s.Connections++ })
	n.config.Logger.Info("assignment stream open")
	for s.Receive() {
		if !received {
			n.health.clear(ProblemDisconnected)
		}
		received = true
		watchdog.Stop() // however long it takes to find space in the queue
		if a := s.Msg().GetAssignment(); a != nil {
			n.offer(ctx, a)
		}
		watchdog.Reset(n.config.Timing.Idle)
	}
	if cause := context.Cause(ctx); errors.Is(cause, silent) || errors.Is(cause, errRenewed) {
		return received, cause
	}
	if err := s.Err(); err != nil {
		return received, err
	}
	return received, errors.New("closed by the control plane")
}
