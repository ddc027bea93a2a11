package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/blobstore"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/sandbox"
)

// No service imports another: here their types meet.

// controlLog makes a log of package logserver an orchestrator.Log.
type controlLog struct{ *logserver.Log }

func (l controlLog) Append(ctx context.Context, entries ...orchestrator.LogEntry) ([]orchestrator.LogResult, orchestrator.Head, error) {
	in := make([]logserver.Entry, len(entries))
	for i, e := range entries {
		in[i] = logserver.Entry{Data: e.Data, Opening: e.Opening, Dedup: e.Dedup}
		for _, g := range e.Guards {
			in[i].Guards = append(in[i].Guards, logserver.Guard{Key: g.Key, Want: g.Value})
		}
		for _, s := range e.Sets {
			in[i].Sets = append(in[i].Sets, logserver.Register{Key: s.Key, Value: s.Value})
		}
	}
	results, head, err := l.AppendBatch(ctx, in)
	if err != nil {
		return nil, orchestrator.Head{}, logError(err)
	}
	out := make([]orchestrator.LogResult, len(results))
	for i, r := range results {
		out[i] = orchestrator.LogResult{Index: r.Index, Duplicate: r.Duplicate, Err: logError(r.Err)}
	}
	signed, err := head.Note()
	if err != nil {
		return nil, orchestrator.Head{}, logError(err)
	}
	return out, orchestrator.Head{Size: head.Size, Note: signed}, nil
}

func (l controlLog) Entries(ctx context.Context, start, end int64, visit func(index int64, data, opening []byte) error) error {
	index := start
	var openings [][]byte
	for opening, err := range l.Openings(start, end) {
		if err != nil {
			return err
		}
		openings = append(openings, opening)
	}
	for data, err := range l.Log.Entries(start, end) {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = visit(index, data, openings[index-start])
		}
		if err != nil {
			return err
		}
		index++
	}
	return nil
}

func (l controlLog) InclusionProof(index, size int64) ([]tlog.Hash, error) {
	return l.Log.InclusionProof(index, size)
}

func (l controlLog) Published() ([]byte, error) {
	note := l.Log.Witnessed().Note
	if note == nil {
		return nil, orchestrator.ErrNotYet
	}
	return note, nil
}

func (l controlLog) FirstPublishedCovering(index int64) ([]byte, error) {
	signed, err := l.Log.FirstPublishedCovering(index)
	if errors.Is(err, logserver.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", orchestrator.ErrNotYet, err)
	}
	return signed.Note, err
}

func (l controlLog) WaitPublished(ctx context.Context, size int64) ([]byte, error) {
	if err := l.WaitWitnessed(ctx, size); err != nil {
		return nil, err
	}
	return l.Log.Witnessed().Note, nil
}

// logError adds the outcomes that the orchestrator tells apart. A log that is
// not ready, or whose disk is full, has accepted nothing either.
func logError(err error) error {
	switch {
	case errors.Is(err, logserver.ErrGuard):
		return fmt.Errorf("%w: %w", orchestrator.ErrGuard, err)
	case errors.Is(err, logserver.ErrPushback), errors.Is(err, logserver.ErrNotReady), errors.Is(err, logserver.ErrDiskFull):
		return fmt.Errorf("%w: %w", orchestrator.ErrPushback, err)
	}
	return err
}

// payloads makes a blobstore.Store an orchestrator.Blobs.
type payloads struct{ *blobstore.Store }

func (p payloads) Put(ctx context.Context, owner string, data []byte) (digest.Digest, error) {
	d, err := p.Store.Put(ctx, owner, data)
	return d, blobError(err)
}

func (p payloads) Get(ctx context.Context, owner string, d digest.Digest) ([]byte, error) {
	data, err := p.Store.Get(ctx, owner, d)
	return data, blobError(err)
}

func (p payloads) Size(ctx context.Context, owner string, d digest.Digest) (int64, error) {
	size, err := p.Store.Size(ctx, owner, d)
	return size, blobError(err)
}

func blobError(err error) error {
	switch {
	case errors.Is(err, blobstore.ErrNotFound):
		return fmt.Errorf("%w: %w", orchestrator.ErrNoBlob, err)
	case errors.Is(err, blobstore.ErrTooLarge):
		return fmt.Errorf("%w: %w", orchestrator.ErrBlobTooLarge, err)
	case errors.Is(err, blobstore.ErrCorrupt):
		return fmt.Errorf("%w: %w", orchestrator.ErrBlobDamaged, err)
	}
	return err
}

// admission makes a sandbox an orchestrator.Admitter.
type admission struct {
	pool interface {
		Admit(ctx context.Context, module []byte, capabilities []string, limits sandbox.Limits) (*sandbox.Admission, error)
	}
}

func (a admission) Admit(ctx context.Context, contractPayload, module []byte, moduleBytes uint64) error {
	c, err := contract.ParseContract(contractPayload)
	if err != nil {
		return err
	}
	if uint64(len(module)) > moduleBytes {
		return fmt.Errorf("%w: %d bytes, the cluster takes %d", orchestrator.ErrNotAdmitted, len(module), moduleBytes)
	}
	if err := sandbox.Supports(c.Versions); err != nil {
		return fmt.Errorf("%w: %w", orchestrator.ErrNotAdmitted, err)
	}
	_, err = a.pool.Admit(ctx, module, sandbox.CapabilitiesOf(c), sandbox.LimitsOf(c))
	var refusal *sandbox.Refusal
	if errors.As(err, &refusal) || errors.Is(err, sandbox.ErrInvalidJob) {
		return fmt.Errorf("%w: %w", orchestrator.ErrNotAdmitted, err)
	}
	return err
}
