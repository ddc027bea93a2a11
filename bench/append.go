package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Callers of the in-process series: as many entries are in flight in either
// form.
const (
	singleCallers = 4096
	batchEntries  = 256
	batchCallers  = singleCallers / batchEntries
)

// answered is one caller's count, on a cache line of its own.
type answered struct {
	entries atomic.Int64
	_       [56]byte
}

// saturate appends from many callers for a time, or until a size, and reports
// the entries that were answered in the measured time.
func saturate(ctx context.Context, j job) (r report, err error) {
	e, err := openEngine(ctx, j)
	if err != nil {
		return r, err
	}
	before, err := e.size()
	if err != nil {
		return r, err
	}
	var (
		next   atomic.Uint64 // number of the next entry
		stop   atomic.Bool
		failed atomic.Pointer[error]
		counts = make([]answered, j.Callers)
		wg     sync.WaitGroup
		n      = max(j.Batch, 1)
	)
	total := func() (sum int64) {
		for i := range counts {
			sum += counts[i].entries.Load()
		}
		return sum
	}
	for i := range counts {
		add := e.caller(j.Batch)
		wg.Go(func() {
			for !stop.Load() {
				if err := add(next.Add(uint64(n)) - uint64(n)); err != nil {
					failed.CompareAndSwap(nil, &err)
					stop.Store(true)
					return
				}
				counts[i].entries.Add(int64(n))
			}
		})
	}
	r.Scan, r.ScanOperations = scanned(ctx, e, total)
	wait(ctx, j.Warm)
	watch, start, first := watchCPU(0), time.Now(), total()
	if j.Until > 0 {
		for total()+max(before, 0) < j.Until && !stop.Load() && ctx.Err() == nil {
			wait(ctx, time.Millisecond)
		}
	} else {
		wait(ctx, j.Measure)
	}
	r.Operations, r.Elapsed = total()-first, time.Since(start)
	r.CPU = watch.stop()
	stop.Store(true)
	wg.Wait()
	r.Total = total()
	if p := failed.Load(); p != nil {
		return r, errors.Join(*p, e.close(ctx))
	}
	if after, err := e.size(); err != nil || after >= 0 && after-before != r.Total {
		return r, errors.Join(fmt.Errorf("%d entries were acknowledged and %d are there (%v)", r.Total, after-before, err), e.close(ctx))
	}
	if j.Settle {
		settle(ctx, j.Dir)
	}
	if r.Value, err = memoryPeak(os.Getpid()); err != nil {
		return r, err
	}
	return r, e.close(ctx)
}

// scanner is an engine that goes through stored keys when it has been opened.
type scanner interface{ scanning() bool }

// scanned waits until the engine has gone through its keys, while it is appended
// to, and returns how long that took and how many entries there were meanwhile.
func scanned(ctx context.Context, e engine, total func() int64) (time.Duration, int64) {
	s, ok := e.(scanner)
	if !ok || !s.scanning() {
		return 0, 0
	}
	start := time.Now()
	for s.scanning() && ctx.Err() == nil {
		wait(ctx, 10*time.Millisecond)
	}
	return time.Since(start), total()
}

// wait returns after a time, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// settle waits until the size of a directory has not changed for three seconds:
// compactions have ended then, and obsolete files are gone.
func settle(ctx context.Context, dir string) {
	const quiet, most = 3, 60 // seconds
	same, last := 0, int64(-1)
	for i := 0; i < most && same < quiet && ctx.Err() == nil; i++ {
		wait(ctx, time.Second)
		size, err := diskUsage(dir)
		if err != nil {
			return
		}
		if same++; size != last {
			same, last = 0, size
		}
	}
}

// lone appends from one caller and reports how long each append took. Value is
// the number of bytes written for an append, opening the store once more
// included: that is when what is only in the write-ahead log moves into tables.
func lone(ctx context.Context, j job) (r report, err error) {
	e, err := openEngine(ctx, j)
	if err != nil {
		return r, err
	}
	add := e.caller(j.Batch)
	var number uint64
	for start := time.Now(); time.Since(start) < j.Warm; number++ {
		if err := add(number); err != nil {
			return r, err
		}
	}
	bytes, err := bytesWritten(os.Getpid())
	if err != nil {
		return r, err
	}
	var took []time.Duration
	watch, start := watchCPU(0), time.Now()
	for ; time.Since(start) < j.Measure; number++ {
		began := time.Now()
		if err := add(number); err != nil {
			return r, err
		}
		took = append(took, time.Since(began))
	}
	r.Elapsed, r.CPU, r.Operations = time.Since(start), watch.stop(), int64(len(took))
	if err := e.close(ctx); err != nil {
		return r, err
	}
	if e, err = openEngine(ctx, j); err != nil {
		return r, err
	}
	if err := e.close(ctx); err != nil {
		return r, err
	}
	after, err := bytesWritten(os.Getpid())
	if err != nil {
		return r, err
	}
	r.Value = (after - bytes) / float64(max(len(took), 1))
	r.P50, r.P99 = percentile(took, 50), percentile(took, 99)
	return r, nil
}

// written appends until a number of entries and reports the bytes written for
// an entry, until the store has settled and was opened once more.
func written(ctx context.Context, j job) (r report, err error) {
	before, err := bytesWritten(os.Getpid())
	if err != nil {
		return r, err
	}
	if r, err = saturate(ctx, j); err != nil {
		return r, err
	}
	e, err := openEngine(ctx, j)
	if err != nil {
		return r, err
	}
	if err := e.close(ctx); err != nil {
		return r, err
	}
	after, err := bytesWritten(os.Getpid())
	r.Value = (after - before) / float64(max(r.Total, 1))
	return r, err
}

// appends measures the in-process rows.
func (b *bench) appends() error {
	base := job{Role: roleSaturate, Shape: b.shape, Warm: b.warm(), Measure: b.window()}
	with := func(engine string, callers, batch int, dedup bool) job {
		j := base
		j.Engine, j.Callers, j.Batch = engine, callers, batch
		j.Shape.Dedup = j.Shape.Dedup || dedup
		return j
	}
	sides := []struct {
		name       string
		job        job
		ours, peer []string
	}{
		{"ours, single", with(engineLog, singleCallers, 0, false), []string{rowSingle}, nil},
		{"Tessera, in process", with(engineTessera, singleCallers, 0, false), nil, []string{rowSingle, rowBatch, rowDedupRatio}},
		{"ours, batches of 256", with(engineLog, batchCallers, batchEntries, false), []string{rowBatch, rowBatchPebble}, nil},
		{"Pebble, batches of 256", with(enginePebble, batchCallers, batchEntries, false), nil, []string{rowBatchPebble}},
		{"ours, batches of 1024", with(engineLog, batchCallers, 4*batchEntries, false), []string{rowBatchLarge}, nil},
		{"ours, single, deduplicated", with(engineLog, singleCallers, 0, true), []string{rowDedup, rowDedupRatio}, nil},
	}
	options, err := b.storeOptions()
	if err != nil {
		return err
	}
	for range b.rounds() {
		for _, s := range sides {
			if !slices.ContainsFunc(append(s.ours, s.peer...), b.wants) {
				continue
			}
			s.job.Options = options
			r, err := b.appendTo(s.job)
			if err != nil {
				return err
			}
			b.note(s.name, r, figure(r.rate())+" entries/s")
			b.add(r.rate(), s.ours, s.peer)
		}
	}
	return nil
}

// add appends a value to both sides of rows.
func (b *bench) add(value float64, ours, peer []string) {
	for _, name := range ours {
		o := b.result(name)
		o.ours = append(o.ours, value)
	}
	for _, name := range peer {
		o := b.result(name)
		o.peer = append(o.peer, value)
	}
}

// addSide appends a value to one side of some rows.
func (b *bench) addSide(ours bool, value float64, names ...string) {
	if ours {
		b.add(value, names, nil)
	} else {
		b.add(value, nil, names)
	}
}

// appendTo runs a job that appends, in a fresh directory.
func (b *bench) appendTo(j job) (report, error) {
	j.Dir = b.newDir(j.Engine)
	if j.Engine == engineLog {
		if err := b.initLog(j.Dir); err != nil {
			return report{}, err
		}
	}
	return b.role(j)
}

// storeOptions makes a store of ours whose options raw Pebble takes.
func (b *bench) storeOptions() (string, error) {
	dir := b.newDir("options")
	return dir + "/store", b.initLog(dir)
}

// lone measures one caller of an idle log against a bare sync commit.
func (b *bench) lone() error {
	options, err := b.storeOptions()
	if err != nil {
		return err
	}
	for range b.rounds() {
		for _, engine := range []string{engineLog, enginePebble} {
			r, err := b.appendTo(job{Role: roleLone, Engine: engine, Options: options, Shape: b.shape, Warm: b.warm() / 3, Measure: b.window()})
			if err != nil {
				return err
			}
			b.note(engine+", one caller", r, fmt.Sprintf("p50 %v, p99 %v", r.P50, r.P99))
			b.addSide(engine == engineLog, float64(r.P50.Nanoseconds())/1000, rowLone)
		}
	}
	return nil
}

// written measures the bytes that reach the disk, ours and those of Pebble
// alone. They depend on nobody else, so once is enough.
func (b *bench) written() error {
	const large = 1<<16 - 1
	entries := int64(8192)
	if b.quick {
		entries = 512
	}
	options, err := b.storeOptions()
	if err != nil {
		return err
	}
	for _, engine := range []string{engineLog, enginePebble} {
		if b.wants(rowBytesLarge) {
			r, err := b.appendTo(job{Role: roleWritten, Engine: engine, Options: options, Shape: shape{Entry: large}, Callers: batchCallers, Until: entries, Settle: true})
			if err != nil {
				return err
			}
			b.note(engine+", entries of 64 KiB", r, fmt.Sprintf("%s bytes each, %.0f entries/s", figure(r.Value), r.rate()))
			b.addSide(engine == engineLog, r.Value/large, rowBytesLarge)
		}
		if b.wants(rowBytesLone) {
			r, err := b.appendTo(job{Role: roleLone, Engine: engine, Options: options, Shape: plain, Measure: b.window()})
			if err != nil {
				return err
			}
			b.note(engine+", one caller", r, figure(r.Value)+" bytes an append")
			b.addSide(engine == engineLog, r.Value, rowBytesLone)
		}
	}
	return nil
}
