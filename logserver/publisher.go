package logserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// SignedNote is a checkpoint with its signatures. Its bytes must not be changed.
type SignedNote struct {
	Size int64
	Root Hash
	Note []byte // the signed note, or nil if there is none
}

// publisher runs the rounds that sign, witness and publish. Its one goroutine
// owns pending, witnessed, signedWith, missed and due; everybody reads the rest.
type publisher struct {
	log *Log
	// policy is what a witnessed checkpoint satisfies; nil if no cosignature is
	// asked for. It is replaced by SetPolicy, which never changes whether it is nil.
	policy atomic.Pointer[checkpoint.Policy]
	// witnesses has one client for each submission prefix of the policy.
	witnesses []*witnessClient
	answers   chan witnessAnswer

	signed    atomic.Pointer[SignedNote] // by the log key alone
	published atomic.Pointer[SignedNote] // with cosignatures; Note is nil if there is none
	// accepted is the newest published checkpoint that satisfied the policy: the
	// published one, unless that was published without its quorum.
	accepted  atomic.Pointer[SignedNote]
	covered   watermark // size of the published checkpoint
	confirmed watermark // size of the accepted checkpoint
	allowed   watermark // see AllowWitness
	clocks    clocks    // of the witnesses

	// pending is the last signed note with the cosignatures gathered for it
	// since it was signed, or since its last refresh began.
	pending SignedNote
	// witnessed is the size of the newest published checkpoint that satisfies
	// the policy, -1 if there is none.
	witnessed int64
	// signedWith are the keys that the last signed note is known to have the
	// signatures of; nil if it is not known.
	signedWith *keyring
	// missed counts the rounds in a row that led to no witnessed checkpoint.
	missed int
	// due is when the published checkpoint wants fresh cosignatures.
	due time.Time

	// ready is closed when the start-up head check has ended well; refused is
	// set when it has ended badly.
	ready   chan struct{}
	refused atomic.Pointer[error]

	rotated  chan struct{}      // holds a token when the keys have changed
	stopping chan struct{}      // closed by stop: one last round, then end
	cancel   context.CancelFunc // ends what is under way
	ctx      context.Context    // of the publisher's goroutines
	workers  sync.WaitGroup

	// behindSince is when the first round began that has not led to a witnessed
	// checkpoint yet, as uptime in nanoseconds; 0 if the last one did.
	behindSince atomic.Int64
}

func newPublisher(l *Log, n *notes) (*publisher, error) {
	p := &publisher{
		log:      l,
		answers:  make(chan witnessAnswer),
		ready:    make(chan struct{}),
		rotated:  make(chan struct{}, 1),
		stopping: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.signed.Store(&n.signed)
	p.allowed.raise(n.signed.Size)
	if policy := l.opts.Policy; policy != nil && !policy.QuorumNone() {
		if err := checkPolicy(policy, n.signed.Note); err != nil {
			return nil, err
		}
		p.policy.Store(policy)
		p.witnesses = newWitnessClients(l, policy, p.answers)
	}
	p.witnessed = -1
	if l.suspended != nil {
		p.refused.Store(&l.suspended)
	} else if p.policy.Load() == nil {
		close(p.ready)
	}
	if !p.satisfies(n.published) {
		return p, p.restoreAccepted(n.published)
	}
	p.serve(n.published)
	p.confirm(n.published)
	if n.published.Note != nil {
		p.witnessed = n.published.Size
	}
	if size := n.signed.Size; n.published.Size == size && !bytes.HasPrefix(n.published.Note, n.signed.Note) {
		// A rotation was interrupted between sign and publish: the same tree with
		// other signatures is due, also if nothing is appended.
		p.witnessed = min(p.witnessed, size-1)
	}
	return p, nil
}

// restoreAccepted finds the newest checkpoint that satisfies the policy when the
// last published one does not: it was published without its quorum, or the policy
// is another one now. A log that fails closed goes back to serving that one, or
// none: what it serves satisfies the policy that it has now. One that has ended
// will never publish another, so that it serves its last one whatever the policy.
func (p *publisher) restoreAccepted(published SignedNote) error {
	accepted, err := p.lastAccepted()
	if err != nil {
		return err
	}
	p.confirm(accepted)
	if p.log.opts.FailOpen || errors.Is(p.log.suspended, ErrSucceeded) {
		p.serve(published)
		return nil
	}
	p.serve(accepted)
	if published.Note != nil {
		p.log.opts.Logger.Warn("the last published checkpoint does not satisfy the witness policy: it is not served",
			"origin", p.log.opts.Origin, "size", published.Size, "served_size", accepted.Size)
	}
	return nil
}

// lastAccepted returns the newest kept checkpoint if it satisfies the policy; its
// Note is nil if it does not, or if there is none.
func (p *publisher) lastAccepted() (SignedNote, error) {
	raw, err := p.log.store.last(kindNote)
	if errors.Is(err, ErrNotFound) {
		return SignedNote{}, nil
	}
	if err != nil {
		return SignedNote{}, err
	}
	n, err := openNote(p.log.snapshot(), raw, p.log.opts.Origin, p.log.keys.Load().opens)
	if err != nil || !p.satisfies(n) {
		return SignedNote{}, err
	}
	return n, nil
}

// satisfies reports whether a stored note satisfies the policy.
func (p *publisher) satisfies(n SignedNote) bool {
	policy := p.policy.Load()
	if policy == nil {
		return true
	}
	_, err := policy.Verify(n.Note)
	return err == nil
}

// serve makes n the published checkpoint.
func (p *publisher) serve(n SignedNote) {
	p.published.Store(&n)
	p.covered.raise(n.Size)
}

// confirm makes n the newest checkpoint that satisfied the policy.
func (p *publisher) confirm(n SignedNote) {
	p.accepted.Store(&n)
	p.confirmed.raise(n.Size)
}

// checkPolicy makes sure that the policy is about this log and can be satisfied
// by, and only with, witnesses that have a URL: silence of the others would keep
// the start-up head check from ever ending.
func checkPolicy(policy *checkpoint.Policy, signed []byte) error {
	if _, err := policy.Verify(signed); err != nil && !errors.Is(err, checkpoint.ErrQuorum) {
		return fmt.Errorf("%w: the policy does not accept the log's own signature: %w", ErrInvalid, err)
	}
	with, without := map[string]bool{}, map[string]bool{}
	for _, w := range policy.Witnesses() {
		with[w.Name], without[w.Name] = w.URL != "", w.URL == ""
	}
	if !policy.CouldSatisfy(with) {
		return invalid("the witnesses with a URL cannot satisfy the policy; add submission prefixes")
	}
	if policy.CouldSatisfy(without) {
		return invalid("witnesses without a URL could satisfy the policy by themselves; add their submission prefixes")
	}
	return nil
}

// start runs the publisher. A log without witnesses publishes what it has
// before that, so that it serves a checkpoint from birth.
func (p *publisher) start() error {
	if p.log.suspended != nil {
		p.cancel() // nothing will ever be signed or published
		return nil
	}
	if p.policy.Load() == nil && p.target() > p.witnessed {
		if err := p.round(); err != nil {
			return err
		}
	}
	p.log.store.faults.running.Store(true) // Open has nothing more to fail with
	p.log.space.start()
	for _, w := range p.witnesses {
		p.workers.Go(func() { w.run(p.ctx) })
	}
	p.workers.Go(p.run)
	return nil
}

// stop lets the publisher end with a last round, cancels that when ctx ends,
// and waits for all of its goroutines.
func (p *publisher) stop(ctx context.Context) {
	close(p.stopping)
	unhook := context.AfterFunc(ctx, p.cancel)
	defer unhook()
	p.workers.Wait()
	p.cancel()
	for _, w := range p.witnesses {
		w.http.CloseIdleConnections()
	}
}

// run confirms the last signed head with the witnesses and then runs rounds.
func (p *publisher) run() {
	defer p.cancel() // the witness clients end with the rounds
	if p.policy.Load() != nil {
		if !p.confirmHead() {
			return
		}
		close(p.ready)
	}
	for p.awaitWork() {
		start, last := time.Now(), p.isStopping()
		p.behindSince.CompareAndSwap(0, int64(uptime()))
		if err := p.round(); err != nil {
			p.log.fail(err)
			return
		}
		if last {
			return
		}
		p.pause(p.log.opts.MinInterval - time.Since(start))
	}
}

// awaitWork blocks until a round has something to do; false ends the publisher.
// Cosignatures that arrive after their round are kept meanwhile.
func (p *publisher) awaitWork() bool {
	refresh := time.NewTimer(time.Until(p.due))
	defer refresh.Stop()
	for {
		_, grown := p.log.integrated.read()
		_, allowed := p.allowed.read()
		if p.log.failed() != nil || p.ctx.Err() != nil {
			return false
		}
		work := p.hasWork() // before room: what begins now has room now
		room := p.log.space.admitRound() == nil
		if room && work {
			return true
		}
		due := p.refreshDue(refresh)
		if !room {
			due = nil
		}
		select {
		case <-p.log.space.resumed:
		case <-grown:
		case <-allowed:
		case <-p.rotated:
		case a := <-p.answers:
			p.accept(a)
		case <-due:
			return true
		case <-p.stopping:
			// What the tree has grown by may have come at the same time.
			return room && p.hasWork()
		case <-p.ctx.Done():
			return false
		}
	}
}

// hasWork reports whether a round would sign or publish something.
func (p *publisher) hasWork() bool { return p.target() > p.witnessed || !p.signedByAll() }

// wake makes the publisher look at the keys.
func (p *publisher) wake() {
	select {
	case p.rotated <- struct{}{}:
	default:
	}
}

// refreshDue returns the channel of the refresh timer, or nil if there are no
// cosignatures to refresh.
func (p *publisher) refreshDue(t *time.Timer) <-chan time.Time {
	if p.policy.Load() == nil {
		return nil
	}
	return t.C
}

// pause waits between the starts of two rounds.
func (p *publisher) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return
		case a := <-p.answers:
			p.accept(a)
		case <-p.stopping:
			return
		case <-p.ctx.Done():
			return
		}
	}
}

// target is the tree size that the next round is about.
func (p *publisher) target() int64 {
	size, _ := p.log.integrated.read()
	if first := p.log.source.first.Size; first > p.signed.Load().Size {
		size = first // an imported log signs the tree that it began with first
	}
	if !p.log.opts.HoldWitness {
		return size
	}
	allowed, _ := p.allowed.read()
	return min(size, allowed)
}

func (p *publisher) isStopping() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// appendable reports why the log does not accept entries: ErrNotReady until the
// start-up head check has ended, ErrForked if it ended badly, ErrRestored or
// ErrSucceeded if the log is suspended.
func (p *publisher) appendable() error {
	select {
	case <-p.ready:
		return nil
	default:
	}
	if err := p.refused.Load(); err != nil {
		return *err
	}
	return ErrNotReady
}

// Ready blocks until the start-up head check has ended. It returns nil when the
// log may be appended to, and ErrForked if a witness knows a head that this
// store does not lead to. A log without witnesses is ready at once.
func (l *Log) Ready(ctx context.Context) error {
	select {
	case <-l.publisher.ready:
		return nil
	case <-l.publisher.ctx.Done():
		if err := l.publisher.appendable(); err != ErrNotReady {
			return err
		}
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AllowWitness lets trees up to the given size be signed and sent to witnesses.
// It matters only under Options.HoldWitness; the limit never falls, and starts
// at the size of the last signed head each time the log is opened.
func (l *Log) AllowWitness(size int64) { l.publisher.allowed.raise(size) }

// Signed returns the newest checkpoint signed by the log key, without
// cosignatures. There always is one.
func (l *Log) Signed() SignedNote { return *l.publisher.signed.Load() }

// Published returns the newest published checkpoint with its cosignatures; Note
// is nil if none has been published yet.
func (l *Log) Published() SignedNote { return *l.publisher.published.Load() }

// Witnessed returns the newest published checkpoint that satisfied the policy,
// with its cosignatures; Note is nil if there is none. It differs from Published
// only under Options.FailOpen.
func (l *Log) Witnessed() SignedNote { return *l.publisher.accepted.Load() }

// WaitWitnessed is Wait for a checkpoint that satisfied the policy.
func (l *Log) WaitWitnessed(ctx context.Context, size int64) error {
	return l.waitFor(ctx, &l.publisher.confirmed, size)
}

// Wait blocks until a published checkpoint covers the given tree size. It fails
// when ctx ends, and when the log has stopped publishing.
func (l *Log) Wait(ctx context.Context, size int64) error {
	return l.waitFor(ctx, &l.publisher.covered, size)
}

func (l *Log) waitFor(ctx context.Context, mark *watermark, size int64) error {
	err := mark.wait(ctx, size, l.publisher.ctx.Done())
	if err != ErrClosed {
		return err
	}
	if failed := l.failed(); failed != nil {
		return failed
	}
	if refused := l.publisher.refused.Load(); refused != nil {
		return *refused
	}
	return ErrClosed
}

// FirstPublishedCovering returns the first checkpoint ever published that covers
// the entry at index and satisfied the policy, always the same bytes; it is kept
// for ever. ErrNotFound means that there is none yet.
func (l *Log) FirstPublishedCovering(index int64) (SignedNote, error) {
	if index < 0 {
		return SignedNote{}, invalid("index %d", index)
	}
	var found SignedNote
	err := l.store.scan(indexKey(kindNote, index+1), []byte{kindNote + 1}, func(_, value []byte) error {
		c, err := checkpoint.Open(value, l.opts.Origin, l.keys.Load().opens)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		found = SignedNote{Size: c.Size, Root: c.Root, Note: append([]byte(nil), value...)}
		return errStopped
	})
	switch {
	case errors.Is(err, errStopped):
		return found, nil
	case err != nil:
		return SignedNote{}, err
	}
	return SignedNote{}, fmt.Errorf("published checkpoint covering index %d: %w", index, ErrNotFound)
}

// accepted returns the keys that may cosign: those behind one submission prefix.
func accepted(witnesses []checkpoint.Witness) []note.Verifier {
	keys := make([]note.Verifier, len(witnesses))
	for i, w := range witnesses {
		keys[i] = w.Key
	}
	return keys
}
