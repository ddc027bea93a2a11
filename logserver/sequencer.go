package logserver

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// sequencer turns batches into commit groups, in two stages. Its first
// goroutine decides on a batch, builds the group and applies it to the store;
// its second waits until the group is durable, shows it, issues its head and
// answers. So a group is built while the one ahead of it is being synced.
//
// The rest of the log sees this work through Log.view. Each stage owns its
// fields; a group belongs to the stage that has it.
type sequencer struct {
	log *Log

	// Owned by the first stage.
	edge  edge
	conds *conditions

	// Owned by the second stage.
	//
	// last is the head of the newest durable group, answered to groups that
	// sequence nothing.
	last Head
	// broken is why no group can be finished any more: the outcome of an
	// earlier one is unknown.
	broken error

	// applied hands the groups from the first stage to the second, in order.
	applied chan *commitGroup
	// underWay counts the groups that have been taken and not been answered,
	// and idle has a token after it fell to zero.
	underWay atomic.Int64
	idle     chan struct{}
	// since is the uptime, in nanoseconds, at which a group was last answered or,
	// if that is later, the first of those under way was taken.
	since atomic.Int64
}

// maxApplied bounds the groups that wait behind the one that is being synced.
// One is enough to keep the disk busy, and each holds up to Options.QueueBytes.
const maxApplied = 1

// commitGroup is what one batch changes, on its way to the disk.
type commitGroup struct {
	answer *answer
	// commit is the applied batch of the store; nil if the group sequences
	// nothing and waits only for those ahead of it.
	commit *pebble.Batch
	view   *view // the tree after the group, if commit is set
}

func newSequencer(l *Log, e *edge, last Head) *sequencer {
	return &sequencer{
		log: l, edge: *e, conds: newConditions(l.store, l.opts.DedupFilterBytes), last: last,
		applied: make(chan *commitGroup, maxApplied), idle: make(chan struct{}, 1),
	}
}

// run sequences one batch after the other until the queue is shut and empty,
// and every group has its answer. There is no timer: whoever arrives while a
// group is built is in the next.
func (s *sequencer) run() {
	defer close(s.log.sequencerDone)
	stopScan := s.scanKeys()
	defer stopScan()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for g := range s.applied {
			s.finish(g)
			s.answered()
		}
	}()
	for s.log.queue.await() {
		s.awaitTurn()
		b, a := s.log.queue.take()
		g := &commitGroup{answer: a}
		err := s.log.failed()
		if err == nil {
			a.err = s.log.space.admit(b.bytes)
		}
		if err == nil && a.err == nil {
			err = s.apply(g, b)
		}
		if err != nil {
			// The edge in memory may be ahead of the store, or behind it:
			// nothing is written until the log is opened again.
			a.err = s.log.fail(err)
		}
		s.log.queue.release(b)
		s.applied <- g
	}
	close(s.applied)
	<-finished
}

// awaitTurn waits until the gathering batch is worth a group: at once when no
// other is under way, and otherwise when it is large, or those have been answered.
//
// Every group costs a sync and some wake-ups of threads, whatever its size. Small
// groups that overlap only wait for one another's syncs, and take the CPU from
// those who make and answer requests; large ones keep CPU and disk both busy.
func (s *sequencer) awaitTurn() {
	for s.underWay.Load() > 0 && !s.log.queue.gatheringLarge() {
		select {
		case <-s.idle:
		case <-s.log.queue.large:
		}
	}
	if s.underWay.Load() == 0 {
		s.since.Store(int64(uptime()))
	}
	s.underWay.Add(1)
}

// stuck is for how long the oldest group under way has been waited for.
func (s *sequencer) stuck() time.Duration {
	if s.underWay.Load() == 0 {
		return 0
	}
	return uptime() - time.Duration(s.since.Load())
}

// answered ends a group.
func (s *sequencer) answered() {
	s.since.Store(int64(uptime()))
	if s.underWay.Add(-1) > 0 {
		return
	}
	select {
	case s.idle <- struct{}{}:
	default: // the first stage has not looked since the last time
	}
}

// scanKeys begins to fill the filter of deduplication keys from the store, and
// returns what ends that. A scan that fails leaves every look-up to the store.
func (s *sequencer) scanKeys() (stop func()) {
	it, err := s.log.store.db.NewIter(&allKeys)
	stopped, done := make(chan struct{}), make(chan struct{})
	scan := s.conds.scan // which the sequencer lets go of
	s.log.scanning.Store(true)
	go func() {
		defer close(done)
		if err == nil {
			err = scan.run(it, stopped)
		}
		s.log.scanning.Store(err != nil)
		if err != nil {
			s.log.opts.Logger.Warn("scanning deduplication keys, each is looked up in the store", "origin", s.log.opts.Origin, "err", err)
		}
	}()
	return func() {
		close(stopped)
		<-done
	}
}

// apply is the first half of the life of a commit group: decide, build, apply.
//
// What it applies can be read from the store at once, by this goroutine's next
// group and by the publisher's snapshots. But nothing of it leaves the process
// before finish has seen it durable: readers stop at the size of the view, the
// publisher signs no size that finish has not shown, and finish answers the
// groups in order. So a duplicate of an entry that is not durable yet, or a
// guard that such an entry made fail, is answered after that entry.
func (s *sequencer) apply(g *commitGroup, b *batch) error {
	commit := s.log.store.newCommit(b)
	w := batchWriter{commit}
	before := s.edge.size

	// 1. Decide on each entry against the store and everything ahead of it in
	// this batch, and let the edge grow by what is sequenced. A tile or bundle
	// that becomes full is added to the commit on the way.
	// Crash here: nothing has been written; the callers have no answer.
	if err := s.sequence(g.answer, b, w); err != nil {
		return errors.Join(err, commit.Close())
	}
	if s.edge.size == before {
		return commit.Close()
	}

	// 2. Complete the commit: the parts of unfinished tiles and bundle that
	// are new, the deduplication keys and registers, and the head.
	if err := s.edge.flush(w); err != nil {
		return errors.Join(err, commit.Close())
	}
	if err := s.conds.write(commit); err != nil {
		return errors.Join(err, commit.Close())
	}
	root := s.edge.root()
	if err := commit.Set(metaHead, encodeHead(s.edge.size, root), nil); err != nil {
		return errors.Join(err, commit.Close())
	}

	// 3. Apply it and queue its sync. The groups are in the write-ahead log in
	// this order, so that a power cut keeps a group only with all ahead of it.
	// Crash from here to the end of the sync: the group is there on restart,
	// whole, or never was; nobody was told either.
	s.log.applied.Store(s.edge.size)
	if err := s.log.store.apply(commit); err != nil {
		return err // what became of the batch is unknown, so it is not reused
	}
	g.commit, g.view = commit, s.edge.view(root)
	return nil
}

// finish is the second half: wait for the sync, show, issue the head, answer.
// It closes the answer and tells those who do not wait for that, whatever happens.
func (s *sequencer) finish(g *commitGroup) {
	a := g.answer
	if a.err == nil {
		if err := s.settle(g); err != nil {
			s.broken = err
			a.results, a.err = nil, s.log.fail(err)
		}
	}
	s.log.metrics.group(a)
	a.log = s.log
	asked := a.asked
	a.asked = nil
	close(a.done) // from here on the answer belongs to the callers
	for _, q := range asked {
		q.by.Answered(a, q.place)
	}
}

func (s *sequencer) settle(g *commitGroup) error {
	// 4. Wait until it is durable. After an error nobody knows what is on the
	// disk, so that groups which were applied meanwhile fail with this one.
	// Crash after: the group is there on restart; callers who got no answer
	// find their deduplication keys taken by their own entries.
	if s.broken != nil {
		return s.broken
	}
	if g.commit != nil {
		if err := s.log.store.sync(g.commit); err != nil {
			return err
		}
		if s.log.opts.durable != nil {
			if err := s.log.opts.durable(); err != nil {
				return err
			}
		}

		// 5. Show the group to readers. What is served is durable.
		s.log.view.Store(g.view)
		s.log.integrated.raise(g.view.size)
		s.last = Head{Size: g.view.size, Root: g.view.root}
	}

	// 6. Issue the receipt head: from here on the receipt key may sign it. The
	// commit forbids contradicting it: recovery refuses a store whose bytes do
	// not lead to the committed head.
	// Crash here: the group stands; its callers have no answer.
	if s.last.receipt == nil && s.log.receipt != nil {
		s.last.receipt = s.log.receipt.issue(s.last.Size, s.last.Root)
	}
	head := s.last
	s.log.head.Store(&head)

	// 7. Answer every caller of the group at once.
	g.answer.head = s.last
	return nil
}

// sequence decides on every entry of the batch and integrates what is fresh. It
// fills in the results, unless every entry is sequenced.
func (s *sequencer) sequence(a *answer, b *batch, w batchWriter) error {
	a.entries, a.first = len(b.entries), s.edge.size
	if err := s.conds.begin(b); err != nil {
		return err
	}
	if b.plain {
		for i := range b.entries {
			if err := s.integrate(b, &b.entries[i], w); err != nil {
				return err
			}
		}
		return nil
	}
	a.results = make([]Result, len(b.entries))
	for i := range b.entries {
		r, err := s.conds.decide(i, s.edge.size)
		if err != nil {
			return err
		}
		a.results[i] = r
		if r.Duplicate || r.Err != nil {
			continue
		}
		if err := s.integrate(b, &b.entries[i], w); err != nil {
			return err
		}
	}
	return nil
}

// integrate adds one entry and its opening to the edge and the commit.
func (s *sequencer) integrate(b *batch, p *pending, w batchWriter) error {
	if p.opening > 0 {
		if err := w.b.Set(indexKey(kindOpening, s.edge.size), b.openingOf(p), nil); err != nil {
			return err
		}
	}
	return s.edge.append(b.frame(p), &p.leaf, w)
}
