// Package importer fills a new log with the entries of another one: any log, or
// static copy of a log, that can be read by c2sp.org/tlog-tiles.
//
// The new log has an origin and keys of its own, and its first tree is that of
// the source's checkpoint; package logserver says why, and keeps it from signing
// or serving anything before the import is complete. An interrupted import is
// gone on with by running it again, also when the source has grown meanwhile.
//
// # Trust
//
// The source's key, and the policy that accepts its checkpoint, are trusted. What
// is fetched is suspect: no entry is appended that does not lead to the source's
// checkpoint, so a source that lies can only keep the import from ending. A
// source that shows another past than the one that was imported is refused.
//
// # Concurrency
//
// Downloads and hashing run in parallel, appending in order behind them. All
// goroutines have ended when Run returns.
package importer

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// ErrSource means that the source does not lead on from what was imported: it
// is another log, or one that went back, or one with a changed past.
var ErrSource = errors.New("source is not what was imported so far")

// Bounds of what is appended in one commit. Larger ones are not faster.
const (
	batchEntries = logserver.MaxBatch
	batchBytes   = 8 << 20
	// ahead is how many such batches wait for their commit.
	ahead = 2
)

// Options say what to import.
type Options struct {
	// Log are the options of the new log, which was created with them. Its
	// ImportFrom is the source's verifier key.
	Log logserver.Options
	// Fetch reads from the source, and Policy accepts its checkpoint.
	Fetch  tiles.Fetch
	Policy *checkpoint.Policy
	// Workers bounds the parallel downloads; 0 means tiles.DefaultWorkers.
	Workers int
	// Progress, if not nil, is called after each commit with the entries that
	// are there and that there will be.
	Progress func(done, size int64)
}

// Report says what an import made.
type Report struct {
	Source  string `json:"source"` // its origin
	Size    int64  `json:"size"`
	Root    string `json:"root_hash"` // base64, as in a checkpoint
	Resumed int64  `json:"resumed"`   // entries that were there before this run
}

// Run imports, and returns when the new log holds the source's tree durably and
// can be opened as a log of its own. It closes the log.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	log, err := logserver.Open(o.Log)
	if errors.Is(err, logserver.ErrExists) {
		return completed(o)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close(context.WithoutCancel(ctx))) }()

	source, err := tiles.OpenSource(ctx, o.Fetch, o.Policy, o.Workers)
	if err != nil {
		return nil, err
	}
	target := source.Checkpoint()
	report := &Report{Source: target.Origin, Size: target.Size, Root: target.Root.String(), Resumed: log.Size()}
	if err := matches(ctx, log, source); err != nil {
		return nil, err
	}
	if err := fill(ctx, log, source, o.Progress); err != nil {
		return nil, err
	}
	// Compares the tree with the checkpoint, by the store's own hashes.
	return report, log.FinishImport(source.Note())
}

// completed reports on an import that had ended well before its caller knew.
func completed(o Options) (_ *Report, err error) {
	from := o.Log.ImportFrom
	o.Log.ImportFrom, o.Log.HoldWitness = "", true
	log, err := logserver.Open(o.Log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close(context.Background())) }()
	vkey, first := log.ImportedFrom()
	if vkey != from || first.Note == nil {
		return nil, fmt.Errorf("%w: %q", logserver.ErrExists, o.Log.Dir)
	}
	key, err := checkpoint.ParseLogVkey(vkey)
	if err != nil {
		return nil, err
	}
	return &Report{Source: key.Name(), Size: first.Size, Root: first.Root.String(), Resumed: first.Size}, nil
}

// matches makes sure that the source's tree leads on from what the log holds.
func matches(ctx context.Context, log *logserver.Log, source *tiles.Source) error {
	size := log.Size()
	if now := source.Checkpoint().Size; size > now {
		return fmt.Errorf("%w: size %d is imported and the source shows %d; if a cache lies between, try again later", ErrSource, size, now)
	}
	have, err := log.RootAt(size)
	if err != nil {
		return err
	}
	want, err := source.RootAt(ctx, size)
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%w: at size %d its root hash is %v, the imported entries make %v", ErrSource, size, want, have)
	}
	return nil
}

// fill appends what the log lacks.
func fill(ctx context.Context, log *logserver.Log, source *tiles.Source, progress func(done, size int64)) error {
	group, ctx := errgroup.WithContext(ctx)
	batches := make(chan []logserver.Entry, ahead)
	group.Go(func() error {
		defer close(batches)
		return gather(ctx, source, log.Size(), batches)
	})
	group.Go(func() error {
		for batch := range batches {
			_, head, err := log.AppendBatch(ctx, batch)
			if err != nil {
				return fmt.Errorf("appending %d entries at index %d: %w", len(batch), log.Size(), err)
			}
			if progress != nil {
				progress(head.Size, source.Checkpoint().Size)
			}
		}
		return nil
	})
	return group.Wait()
}

// gather reads the entries from index start on and hands them over in batches.
func gather(ctx context.Context, source *tiles.Source, start int64, batches chan<- []logserver.Entry) error {
	var batch []logserver.Entry
	size := 0
	send := func() error {
		select {
		case batches <- batch:
			batch, size = nil, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for b, err := range source.Bundles(ctx, start) {
		if err != nil {
			return err
		}
		for _, data := range b.Entries(start) {
			if len(batch) == batchEntries || size+len(data) > batchBytes {
				if err := send(); err != nil {
					return err
				}
			}
			batch, size = append(batch, logserver.Entry{Data: data}), size+len(data)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return send()
}
