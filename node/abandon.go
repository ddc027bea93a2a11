package node

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Codes that the control plane is told besides those of refusals.
const (
	abandonedStopped     = "stopped"     // the run did not end in its time
	abandonedFault       = "fault"       // the runner failed
	abandonedUnavailable = "unavailable" // something that is needed did not answer
)

const (
	// noticeTimeout bounds telling the control plane of one assignment.
	noticeTimeout = 5 * time.Second
	// maxNotices bounds those that wait to be told; more are not told at all.
	maxNotices = 1024
)

// A notice says that an assignment was given up.
type notice struct {
	execution, code string
}

// abandonCode says why an assignment was given up for good; "" when that concerns
// nobody: the execution is decided, an attestation is kept, or the node itself
// is about to end.
func abandonCode(err error) string {
	var refusal *RefusalError
	switch {
	case errors.Is(err, ErrStore), errors.Is(err, errUndelivered), errors.Is(err, RefusedMissing):
		return ""
	case errors.As(err, &refusal):
		return string(refusal.Code)
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
	if _, malformed := digest.Parse(execution); malformed != nil || code == "" || n.stopping.Err() != nil {
		return
	}
	select {
	case n.notices <- notice{execution, code}:
	default:
	}
}

// tell tells the control plane what was given up, each once, until the node is
// stopped.
func (n *Node) tell() {
	for {
		select {
		case x := <-n.notices:
			n.tellOne(x)
		case <-n.stopping.Done():
			return
		}
	}
}

func (n *Node) tellOne(x notice) {
	ctx, cancel := context.WithTimeout(n.stopping, noticeTimeout)
	defer cancel()
	_, err := n.config.ControlPlane.AbandonAssignment(ctx, connect.NewRequest(&pb.AbandonAssignmentRequest{ExecutionId: x.execution, Code: x.code}))
	if err != nil {
		n.config.Logger.Info("the control plane was not told of an assignment given up", "execution", x.execution, "code", x.code, "error", err)
	}
}
