package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/node"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/sandbox"
)

// runner makes a sandbox a node's Runner: no service imports another, here their
// types meet.
type runner struct {
	pool *sandbox.Pool
	// unmetered is the operator's leave to run contracts of rewriter version 0.
	unmetered bool
}

// Supports is what this node runs: what this release can, and unmetered modules
// only if the operator allowed them.
func (r runner) Supports(v contract.Versions) error {
	if err := sandbox.Supports(v); err != nil {
		return err
	}
	if sandbox.Unmetered(v) && !r.unmetered {
		return errors.New("rewriter 0 runs modules unmetered; this node does so only with --allow-unmetered, for development")
	}
	return nil
}

func (r runner) Run(ctx context.Context, run node.Run) (*node.Result, error) {
	job := sandbox.JobOf(run.Contract, run.Module, run.Input)
	job.Limits.WallClock = run.Timeout
	result, err := r.pool.Run(ctx, job)
	var refusal *sandbox.Refusal
	if errors.As(err, &refusal) || errors.Is(err, sandbox.ErrInvalidJob) {
		return nil, fmt.Errorf("%w: %w", node.ErrNotAdmitted, err)
	}
	if errors.Is(err, sandbox.ErrStopped) && !errors.Is(err, sandbox.ErrClosed) && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", node.ErrStopped, err) // by a guard, since by nobody else
	}
	if err != nil {
		return nil, err
	}
	n := &node.Result{Outcome: result.Outcome.Attested(), Output: result.Output, Diagnostics: result.Diagnostics}
	if result.RewrittenModule != nil {
		d := digest.Digest(*result.RewrittenModule)
		n.RewrittenModule = &d
	}
	return n, nil
}

// describe is what the node tells about itself.
func describe(pool *sandbox.Pool) *pb.NodeInfo {
	return &pb.NodeInfo{
		SoftwareVersion: wiring.Version(),
		Architecture:    runtime.GOARCH,
		Engine:          "wazero",
		Isolation:       pool.Enforcement().Names(),
	}
}
