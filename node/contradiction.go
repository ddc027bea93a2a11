package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/provenance"
)

// errContradiction says that two runs of one execution on this machine found
// different results. Neither is handed in: one of them is wrong, and nobody here
// knows which.
var errContradiction = errors.New("a second run found another result: this machine or its sandbox is faulty; nothing of it is handed in")

// contradiction is what is kept of two runs that differ. It holds digests only.
type contradiction struct {
	Execution digest.Digest `json:"execution"`
	// Signed is the result of the run that the kept attestation states, Again that
	// of the later run.
	Signed digest.Digest `json:"signed"`
	Again  digest.Digest `json:"again"`
}

// maxContradiction bounds the file of one.
const maxContradiction = 1 << 10

func contradictionName(execution digest.Digest) string {
	return filepath.Join("contradictions", execution.String()+".json")
}

// uncontradicted: no contradiction is kept of an execution. While there is one
// nothing is handed in, whether or not the attestation is still there.
func (n *Node) uncontradicted(id digest.Digest) error {
	contrary, err := n.store.read(contradictionName(id), maxContradiction)
	if err != nil || contrary != nil {
		return errors.Join(err, errContradiction)
	}
	return nil
}

// again runs an execution whose attestation is kept, but whose payloads may never
// have been handed in: the process ended, or the control plane was away. The
// attestation is handed in only if the run finds the same result. A run that is
// not possible any more is no reason to withhold it; what the node said stays
// said. A result that an earlier try of the assignment left in memory stands for
// the run: it is compared like any other. What may pass is waited for, for
// Timing.Retry at most: until then the run is possible, and an attestation without
// its payloads could complete an execution with an output that nobody has.
func (n *Node) again(ctx context.Context, t *trial, kept *provenance.Statement) error {
	id := kept.Execution
	err := n.rerun(ctx, t)
	if err == nil {
		if got, want := t.result.Outcome.ResultDigest(), kept.Outcome.ResultDigest(); got != want {
			return n.contradict(contradiction{Execution: id, Signed: want, Again: got})
		}
		err = n.putPayloads(ctx, t.result)
	}
	var refusal *RefusalError
	switch {
	case err == nil:
		t.result = nil
		return n.store.markPut(id)
	case errors.Is(err, ErrStore):
		return err
	case errors.Is(err, errOutdated): // a refusal too; it is assigned again with what this lacks
		return err
	case passing(err) && time.Since(t.began) < n.config.Timing.Retry:
		return fmt.Errorf("%w: %v", errUndelivered, err) // not %w: what is kept is not refused
	case errors.As(err, &refusal), errors.Is(err, errFault), errors.Is(err, ErrStopped):
		n.config.Logger.Info("a kept attestation is handed in without another run", "execution", id.String(), "error", err)
		return nil
	}
	return fmt.Errorf("%w: %w", errUndelivered, err)
}

// rerun runs a trial's execution, unless its result is in memory.
func (n *Node) rerun(ctx context.Context, t *trial) error {
	if t.result != nil {
		return nil
	}
	work, err := n.verify(ctx, t.assignment)
	if err != nil {
		return err
	}
	t.result, err = n.run(ctx, work)
	return err
}

// contradict keeps a contradiction, durably, before anything else happens.
func (n *Node) contradict(c contradiction) error {
	data, err := strictjson.Marshal(c)
	if err != nil {
		return fmt.Errorf("%w: %w", errContradiction, err)
	}
	if err := n.store.replace(contradictionName(c.Execution), data); err != nil {
		return err
	}
	path := filepath.Join(n.store.dir, contradictionName(c.Execution))
	n.health.set(ProblemContradiction, fmt.Sprintf("two runs of execution %s differ; see %q", c.Execution, path))
	n.config.Logger.Error("two runs of an execution differ: this machine or its sandbox is faulty",
		"execution", c.Execution.String(), "signed", c.Signed.String(), "again", c.Again.String(), "kept", path)
	return errContradiction
}
