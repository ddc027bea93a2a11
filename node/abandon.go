package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Codes that the control plane is told besides those of refusals.
const (
	abandonedStopped     = "stopped"       // the run did not end in its time
	abandonedFault       = "fault"         // the runner failed
	abandonedUnavailable = "unavailable"   // something that is needed did not answer
	abandonedDraining    = "draining"      // the node is being stopped
	abandonedContrary    = "contradiction" // a second run found another result
)

// errDraining says that an assignment was not begun, or did not end, since the
// node is being stopped.
var errDraining = fmt.Errorf("%w: the node is being stopped", ErrUnavailable)

const (
	// noticeTimeout bounds telling the control plane of one assignment.
	noticeTimeout = 5 * time.Second
	// maxNotices bounds those that wait to be told; more are not told at all. A
	// node that is being stopped gives back all that it has not begun.
	maxNotices = maxQueued + maxWaiting
	// tellersAtATime is how many notices are on their way at a time.
	tellersAtATime = 4
)

// A notice says that an assignment was given up.
type notice struct {
	execution, code string
}

// abandonCode says why an assignment was given up for good; "" when that concerns
// nobody: the execution is decided, an attestation is kept, it is asked for anew,
// or the node itself is about to end.
func abandonCode(err error) string {
	var refusal *RefusalError
	switch {
	case errors.Is(err, ErrStore), errors.Is(err, errUndelivered), errors.Is(err, errOutdated), errors.Is(err, RefusedMissing):
		return ""
	case errors.Is(err, errContradiction):
		return abandonedContrary
	case errors.As(err, &refusal):
		return string(refusal.Code)
	case errors.Is(err, errDraining):
		return abandonedDraining
	case errors.Is(err, ErrStopped):
		return abandonedStopped
	case errors.Is(err, errFault):
		return abandonedFault
	}
	return abandonedUnavailable
}

// abandon has the control plane told, so that it does not wait for this node. It
// is a courtesy: nothing waits for it, and it may get lost.
func (n *Node) abandon(execution string, err error) {
	code := abandonCode(err)
	if _, err := digest.Parse(execution); err != nil || code == "" {
		return
	}
	var refusal *RefusalError
	if n.stopping.Err() != nil && !errors.As(err, &refusal) && code != abandonedContrary {
		code = abandonedDraining // whatever it was: another process of this node may well do it
	}
	select {
	case n.notices <- notice{execution, code}:
	default:
	}
}

// tell tells the control plane what was given up, each once, until there is
// nothing more to tell or ctx ends.
func (n *Node) tell(ctx context.Context) {
	for {
		select {
		case x := <-n.notices:
			n.tellOne(ctx, x)
		case <-n.drained:
			n.tellRest(ctx)
			return
		}
	}
}

func (n *Node) tellRest(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case x := <-n.notices:
			n.tellOne(ctx, x)
		default:
			return
		}
	}
}

func (n *Node) tellOne(ctx context.Context, x notice) {
	ctx, cancel := context.WithTimeout(ctx, n.noticeTime())
	defer cancel()
	_, err := n.config.ControlPlane.AbandonAssignment(ctx, connect.NewRequest(&pb.AbandonAssignmentRequest{ExecutionId: x.execution, Code: x.code}))
	if err != nil {
		n.config.Logger.Info("the control plane was not told of an assignment given up", "execution", x.execution, "code", x.code, "error", err)
	}
}

func (n *Node) noticeTime() time.Duration { return min(noticeTimeout, n.config.Timing.Call) }
