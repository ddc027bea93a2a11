package controlapi

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

type nodeService struct{ *Server }

// WatchAssignments sends the node its work, and empty messages while there is
// none. It ends when the node opens another stream, loses its key, or does not
// take a message for writeTimeout.
func (s nodeService) WatchAssignments(ctx context.Context, req *connect.Request[pb.WatchAssignmentsRequest], stream *connect.ServerStream[pb.WatchAssignmentsResponse]) error {
	op := operationOf(ctx)
	if err := refuseUndecoded(req.Msg); err != nil {
		return err
	}
	info := req.Msg.GetInfo()
	if err := checkInfo(info); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	mine := s.sessions.open(op.caller.id, info, end)
	s.metrics.nodes.Set(float64(s.sessions.count()))
	defer func() {
		s.sessions.close(op.caller.id, mine)
		s.metrics.nodes.Set(float64(s.sessions.count()))
	}()
	assignments, err := s.cfg.Core.Assignments(ctx, op.caller.id)
	if err != nil {
		return err
	}
	if err := s.settle(ctx, op, nil); err != nil {
		return err
	}
	out := sender[pb.WatchAssignmentsResponse]{Server: s.Server, op: op, stream: stream}
	// At once, so that the node knows that it is connected.
	if err := out.send(&pb.WatchAssignmentsResponse{}); err != nil {
		return err
	}
	idle := time.NewTicker(s.cfg.KeepAlive)
	defer idle.Stop()
	for {
		message := &pb.WatchAssignmentsResponse{}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case assignment, ok := <-assignments:
			if !ok {
				if cause := context.Cause(ctx); cause != nil {
					return cause
				}
				return errEnded
			}
			message.Assignment = assignment
			idle.Reset(s.cfg.KeepAlive)
		case <-idle.C:
		}
		if err := out.send(message); err != nil {
			return err
		}
	}
}

// AbandonAssignment takes the node's word that it will not attest. It has its
// record before it has an effect: what could not be recorded is as if it had not
// been said.
func (s nodeService) AbandonAssignment(ctx context.Context, req *connect.Request[pb.AbandonAssignmentRequest]) (*connect.Response[pb.AbandonAssignmentResponse], error) {
	op := operationOf(ctx)
	id, err := op.digest("execution_id", req.Msg.GetExecutionId())
	if err != nil {
		return nil, err
	}
	recorded := func() error { return s.settle(ctx, op, nil) }
	if err := s.cfg.Core.Abandon(ctx, op.caller.id, id, req.Msg.GetCode(), recorded); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.AbandonAssignmentResponse{ProtocolVersion: protocolVersion}), nil
}

// ReportNodeStatus takes what a node says of itself, for as long as it holds the
// stream.
func (s nodeService) ReportNodeStatus(ctx context.Context, req *connect.Request[pb.ReportNodeStatusRequest]) (*connect.Response[pb.ReportNodeStatusResponse], error) {
	op := operationOf(ctx)
	status := req.Msg.GetStatus()
	if err := checkStatus(status); err != nil {
		return nil, err
	}
	var working []digest.Digest
	for _, text := range status.GetWorking() {
		id, err := op.digest("working", text)
		if err != nil {
			return nil, err
		}
		working = append(working, id)
	}
	if status != nil {
		status.Working = nil // of tenants, for nobody who lists nodes
	}
	s.sessions.report(op.caller.id, status)
	s.cfg.Core.Working(op.caller.id, working)
	return connect.NewResponse(&pb.ReportNodeStatusResponse{ProtocolVersion: protocolVersion}), nil
}

// errEnded ends a stream that the core ended: it stops, or the node has another
// stream or is no member any more.
var errEnded = refuse(orchestrator.CodeUnavailable, "the control plane ended the stream: connect again")

// sender sends the messages of one stream. It belongs to its goroutine.
type sender[M any] struct {
	*Server
	op     *operation
	stream *connect.ServerStream[M]
}

// send sends one message, unless the key that opened the stream has been
// revoked since. (Its token may have expired: a stream outlives its token.)
func (o sender[M]) send(message *M) error {
	if !o.auth.valid(o.op.caller.token) {
		return refuse(CodeTokenKey, "the key that opened the stream is not valid any more: use a key of a current member")
	}
	_ = o.op.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	defer func() { _ = o.op.control.SetWriteDeadline(time.Time{}) }()
	if err := o.stream.Send(message); err != nil {
		return fmt.Errorf("%w: sending: %w", context.Canceled, err)
	}
	return nil
}
