package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/node"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/sandbox"
)

// runner makes a sandbox a node's Runner: no service imports another, here their
// types meet.
type runner struct {
	pool      *sandbox.Pool
	wallClock time.Duration
}

func (r runner) Supports(v contract.Versions) error {
	if v.HostInterface != sandbox.HostInterface || v.Rewriter != sandbox.Rewriter || v.CostTable != 0 {
		return fmt.Errorf("host_interface %d, rewriter %d, cost_table %d; this release has %d, %d, 0",
			v.HostInterface, v.Rewriter, v.CostTable, sandbox.HostInterface, sandbox.Rewriter)
	}
	return nil
}

func (r runner) Run(ctx context.Context, run node.Run) (*node.Result, error) {
	c := run.Contract
	capabilities := make([]string, len(c.Capabilities))
	for i, name := range c.Capabilities {
		capabilities[i] = string(name)
	}
	result, err := r.pool.Run(ctx, sandbox.Job{
		Module: run.Module, ModuleDigest: c.Module, Input: run.Input,
		Args: c.Args(), Env: c.Environment, Seed: c.Seed, Capabilities: capabilities,
		Limits: sandbox.Limits{
			// The node's own limits, which it held the contract to, fit the types.
			MemoryPages:      uint32(c.Limits.MemoryPages),
			InputBytes:       int64(c.Limits.InputBytes),
			OutputBytes:      int64(c.Limits.OutputBytes),
			DiagnosticsBytes: int64(c.Limits.DiagnosticsBytes),
			WallClock:        r.wallClock,
		},
	})
	var refusal *sandbox.Refusal
	if errors.As(err, &refusal) || errors.Is(err, sandbox.ErrInvalidJob) {
		return nil, fmt.Errorf("%w: %w", node.ErrNotAdmitted, err)
	}
	if err != nil {
		return nil, err
	}
	return &node.Result{Outcome: outcome(result.Outcome), Output: result.Output, Diagnostics: result.Diagnostics}, nil
}

func outcome(o sandbox.Outcome) contract.Outcome {
	out := contract.Outcome{
		Kind:              contract.OutcomeKind(o.Kind.String()),
		ExitCode:          uint64(o.ExitCode),
		Gas:               o.Gas,
		PeakPages:         uint64(o.PeakPages),
		OutputLength:      uint64(o.Output.Length),
		OutputDigest:      o.Output.SHA256,
		DiagnosticsLength: uint64(o.Diagnostics.Length),
		DiagnosticsDigest: o.Diagnostics.SHA256,
	}
	if o.Memory != nil {
		d := digest.Digest(*o.Memory)
		out.MemoryDigest = &d
	}
	return out
}

// describe is what the node tells about itself.
func describe(pool *sandbox.Pool) *pb.NodeInfo {
	return &pb.NodeInfo{
		SoftwareVersion: version(),
		Architecture:    runtime.GOARCH,
		Engine:          "wazero",
		Isolation:       isolation(pool.Enforcement()),
	}
}

// isolation names what confines the workers on this machine.
func isolation(e sandbox.Enforcement) []string {
	var list []string
	for _, m := range []struct {
		name string
		on   bool
	}{
		{"process", e.Process}, {"process_group", e.ProcessGroup}, {"empty_directory", e.EmptyDirectory},
		{"parent_death", e.ParentDeath}, {"no_new_privileges", e.NoNewPrivs}, {"no_core_dumps", e.NoCoreDumps},
		{"no_file_writes", e.NoFileWrites}, {"open_files", e.OpenFiles}, {"memory", e.MemoryBytes > 0},
	} {
		if m.on {
			list = append(list, m.name)
		}
	}
	return list
}
