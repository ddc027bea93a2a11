package logserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/logserver/internal/direct"
)

// Log is an append-only Merkle log in one Pebble store. Its methods are safe
// for concurrent use.
type Log struct {
	opts    Options
	store   *store
	given   *candidates    // the private keys of the options
	receipt *receiptSigner // nil without a receipt key
	queue   *queue
	metrics *metrics
	space   *space

	// keys are the store's identity and what signs for it: replaced by
	// rotations, under rotating.
	keys     atomic.Pointer[keyring]
	rotating sync.Mutex

	// view is replaced by the sequencer after each commit.
	view atomic.Pointer[view]
	// integrated is the durable tree size: raised by the sequencer.
	integrated watermark
	// nodes is shared by everybody who makes proofs.
	nodes *nodeCache
	// applied is the tree size that the store may show, durable or not: set by
	// the sequencer before each group is applied.
	applied atomic.Int64
	// head is that of the newest commit group: replaced by the sequencer.
	head atomic.Pointer[Head]
	// copy is what ReportCopy was told, or nil.
	copy atomic.Pointer[Copy]
	// source is set before the log is opened for others.
	source source
	// suspended is why the log neither appends nor signs, or nil: set by Open.
	suspended error
	// readOnly says that nothing can be written to the store: set by newLog.
	readOnly bool
	// signedFile repeats the last signed head: read by Open, then the publisher's.
	signedFile *signedFile
	// late watches publication from outside the publisher.
	late lateness

	// The HTTP interface shares these: bytes of bodies that are being read and
	// of replies that are being sent, requests of HTTP/2 connections, full tiles
	// and bundles, the number of open streams, and the uptime at the last
	// complaint to the logger.
	bodies, replies *budget
	multiplexed     *multiplexed
	tiles           *tileCache
	streams         atomic.Int64
	complained      atomic.Int64

	// failure is the first error after which nothing may be written any more.
	failure atomic.Pointer[error]
	broken  chan struct{} // closed after failure has been set

	publisher     *publisher
	sequencer     *sequencer
	sequencerDone chan struct{}
	// scanning says that not all deduplication keys of the store are in the
	// sequencer's filter.
	scanning atomic.Bool
	closing  sync.Once
	closed   error
}

// newLog validates the options and opens the store, without reading it.
func newLog(o Options) (*Log, error) {
	o.setDefaults()
	if err := o.checkImportFrom(); err != nil {
		return nil, err
	}
	l := &Log{opts: o, sequencerDone: make(chan struct{}), broken: make(chan struct{})}
	var err error
	if l.given, err = newCandidates(o); err != nil {
		return nil, err
	}
	l.nodes = newNodeCache(nodeCacheBytes)
	l.queue = newQueue(o.QueueEntries, o.QueueBytes)
	l.queue.largeEntries = o.overlap
	l.bodies, l.replies = newBudget(o.BodyBytes), newBudget(o.ReplyBytes)
	l.multiplexed = newMultiplexed(maxMultiplexed)
	l.tiles = newTileCache(o.TileCacheBytes)
	if err := makeDir(o.fs, o.Dir); err != nil {
		return nil, err
	}
	if o.Dir, err = realDir(o.Dir, o.fs); err != nil {
		return nil, err
	}
	l.space = newSpace(&o)
	l.metrics = newMetrics(l)
	faults := newFaults(o.Logger, l.fatal, func(err error) { l.fail(err) })
	o.fs = storeFS{l.space.wrap(), faults, l.space}
	if o.ReadWhenFull {
		o.locked = l.openWithRoom
	}
	if l.store, err = openStore(&o, faults); err != nil {
		return nil, err
	}
	l.space.unflushed = l.store.unflushed
	l.store.roomToFlush = func() bool { return l.space.free() >= l.space.enough() }
	return l, nil
}

// fatal ends the process by Options.Fatal: a write has an unknown outcome.
func (l *Log) fatal(err error) {
	err = l.fail(fmt.Errorf("store failed: %w", err))
	if l.opts.Fatal != nil {
		l.opts.Fatal(err)
	}
	panic(err)
}

// Create makes an empty log in o.Dir and signs the checkpoint of its empty
// tree: the only signature that is ever made without asking the witnesses. A
// directory where an earlier Create was interrupted is completed; one that
// holds a log is ErrExists.
func Create(o Options) (err error) {
	o.ReadWhenFull = false // there is nothing to read
	l, err := newLog(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.store.close()) }()
	return l.store.faults.during(func() error { return l.create(o) })
}

// create writes the first commit of a log.
func (l *Log) create(o Options) error {
	switch _, err := l.store.get(metaFormat); {
	case err == nil:
		return fmt.Errorf("%w: %q", ErrExists, o.Dir)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	keys, _, err := l.given.fit(l.given.identity(o.Origin))
	if err != nil {
		return err
	}
	signed, err := keys.sign(0, emptyRoot)
	if err != nil {
		return fmt.Errorf("signing the empty tree: %w", err)
	}
	place, err := makePlace(o.Dir, l.opts.fs)
	if err != nil {
		return err
	}
	b := l.store.db.NewBatch()
	defer b.Close()
	head := encodeHead(0, emptyRoot)
	if o.firstEntry != nil {
		if head, err = appendFirst(b, o.firstEntry); err != nil {
			return err
		}
	}
	values := [][2][]byte{
		{metaFormat, []byte(storeFormat)},
		{metaIdentity, keys.format()},
		{metaHead, head},
		{metaSigned, signed},
	}
	if place != unknownPlace {
		values = append(values, [2][]byte{metaPlace, []byte(place)})
	}
	if o.ImportFrom != "" {
		values = append(values, [2][]byte{metaImport, importMark{vkey: o.ImportFrom}.encode()})
	}
	for _, kv := range values {
		if err := b.Set(kv[0], kv[1], nil); err != nil {
			return err
		}
	}
	return l.store.commit(b)
}

// Open opens the log in o.Dir, re-verifies the edge of its tree and its last
// signed head from stored bytes, and starts it. With a policy that asks for
// witnesses it is not ready until the start-up head check has ended: see Ready.
func Open(o Options) (*Log, error) {
	o.setDefaults()
	if err := checkStore(o.Dir, o.fs); err != nil {
		return nil, err
	}
	l, err := newLog(o)
	if err != nil {
		return nil, err
	}
	if err := l.store.faults.during(l.start); err != nil {
		return nil, errors.Join(fmt.Errorf("opening log %q: %w", o.Origin, err), l.store.close())
	}
	return l, nil
}

// removeStaging removes what a backup left that was interrupted.
func (l *Log) removeStaging() error {
	if l.readOnly {
		return nil
	}
	return l.opts.fs.RemoveAll(l.opts.fs.PathJoin(l.opts.Dir, backupStaging))
}

// start recovers the log and starts its goroutines.
func (l *Log) start() error {
	if err := l.removeStaging(); err != nil {
		return fmt.Errorf("removing what a backup left: %w", err)
	}
	seq, notes, err := l.recover()
	if err != nil {
		return err
	}
	if l.publisher, err = newPublisher(l, notes); err != nil {
		return err
	}
	if err := l.publisher.start(); err != nil {
		return err
	}
	if l.readOnly {
		l.space.start()
	}
	l.sequencer = seq
	go seq.run()
	return nil
}

// closeGrace is for how long Close waits, when its ctx has ended, for what the
// disk has been given before that.
const closeGrace = 5 * time.Second

// Close stops accepting entries, waits until what was accepted is durable, runs
// a last round so that it is published if the witnesses allow, stops, and
// releases the store. It blocks for as long as a round may take, at most until
// ctx ends. No other method may be in progress or be called afterwards, except
// the appends, which are ErrClosed.
//
// A disk that hangs does not let go of what it has been given: then the error is
// that of ctx, closeGrace after its end, and the store is as a crash would leave
// it. The process is expected to end.
func (l *Log) Close(ctx context.Context) error {
	l.closing.Do(func() {
		l.queue.shut()
		closed := make(chan error, 1)
		go func() { closed <- l.shutDown(ctx) }()
		select {
		case l.closed = <-closed:
			return
		case <-ctx.Done():
		}
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case l.closed = <-closed:
		case <-grace.C:
			l.closed = fmt.Errorf("closing log %q: the disk does not answer: %w", l.opts.Origin, ctx.Err())
		}
	})
	return l.closed
}

// shutDown is the work of Close.
func (l *Log) shutDown(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, l.space.abandon)
	defer unhook()
	<-l.sequencerDone // every accepted entry has its answer
	l.publisher.stop(ctx)
	l.space.stop()
	return l.store.close()
}

// fail keeps the log from writing anything more, and returns the error to give
// to callers. The first reason stays.
func (l *Log) fail(err error) error {
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrReload) {
		err = fmt.Errorf("%w: %w", ErrReload, err)
	}
	if l.failure.CompareAndSwap(nil, &err) {
		close(l.broken)
		l.opts.Logger.Error("log stopped accepting entries", "origin", l.opts.Origin, "err", err)
	}
	l.queue.refuse(err)
	return err
}

// failed returns the reason why nothing may be written, or nil.
func (l *Log) failed() error {
	if p := l.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Append sequences and integrates one entry and returns when that is durable.
// The error is Result.Err, or what kept the entry from being decided on. When
// ctx ends while the entry waits, it may still be sequenced: give it a
// deduplication key to find out.
func (l *Log) Append(ctx context.Context, e Entry) (Result, Head, error) {
	entries, leaves := [1]Entry{e}, [1]Hash{}
	a, first, err := l.join(ctx, entries[:], leaves[:])
	if err != nil {
		return Result{Index: -1, Err: err}, Head{}, err
	}
	r := a.result(first)
	return r, a.head, r.Err
}

// AppendBatch is Append for up to MaxBatch entries, handed over together: those
// that are sequenced follow one another in the log, in order. Each has its own
// result; the error is set only if none was decided on.
func (l *Log) AppendBatch(ctx context.Context, entries []Entry) ([]Result, Head, error) {
	if len(entries) == 0 || len(entries) > MaxBatch {
		return nil, Head{}, invalid("batch of %d entries, 1 to %d are allowed", len(entries), MaxBatch)
	}
	leaves := leafSlices.Get().(*[]Hash)
	defer leafSlices.Put(leaves)
	*leaves = slices.Grow((*leaves)[:0], len(entries))[:len(entries)]
	a, first, err := l.join(ctx, entries, *leaves)
	if err != nil {
		return nil, Head{}, err
	}
	results := make([]Result, len(entries))
	for i := range results {
		results[i] = a.result(first + i)
	}
	return results, a.head, nil
}

// join hands the entries to the sequencer and waits for the answer of their
// commit group.
func (l *Log) join(ctx context.Context, entries []Entry, leaves []Hash) (*answer, int, error) {
	a, first, err := l.enqueue(entries, leaves, nil)
	if err != nil {
		l.metrics.refused(err)
		return nil, 0, err
	}
	if ctx.Done() == nil {
		<-a.done // cheaper than a select, and thousands may be waiting
		return a, first, a.err
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("waiting for the commit: %w", ctx.Err())
	}
	return a, first, a.err
}

// ask is Append for a caller that does not wait: by is told when there is an
// answer, unless there is an error now.
func (l *Log) ask(data []byte, by direct.Asker) error {
	entries, leaves := [1]Entry{{Data: data}}, [1]Hash{}
	_, _, err := l.enqueue(entries[:], leaves[:], by)
	if err != nil {
		l.metrics.refused(err)
	}
	return err
}

// enqueue hashes the entries on the caller's goroutine, filling leaves, and puts
// them into the queue. It returns the answer of their commit group and the
// place of the first of them in it. The slices may be used again at once. by may
// be nil: see queue.join.
func (l *Log) enqueue(entries []Entry, leaves []Hash, by direct.Asker) (*answer, int, error) {
	if err := l.publisher.appendable(); err != nil {
		return nil, 0, err
	}
	if err := l.space.refusal(); err != nil {
		return nil, 0, err
	}
	for i := range entries {
		if err := entries[i].check(); err != nil {
			return nil, 0, err
		}
		leaves[i] = LeafHash(entries[i].Data)
	}
	return l.queue.join(entries, leaves, by)
}
