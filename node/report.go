package node

import (
	"context"
	"time"

	"connectrpc.com/connect"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// maxWorking bounds the executions of a report.
const maxWorking = 32

// report tells the control plane how the node is, whenever that changes and in
// regular pauses, until ctx ends. It is a courtesy to operators: nothing depends
// on it but how long the control plane waits for a run.
func (n *Node) report(ctx context.Context) {
	tick := time.NewTicker(n.config.Timing.Report)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.health.changed:
		case <-n.stopping.Done():
			n.reportOnce(ctx) // that it is draining
			return
		case <-ctx.Done():
			return
		}
		n.reportOnce(ctx)
	}
}

func (n *Node) reportOnce(ctx context.Context) {
	s := n.Status()
	if _, off := s.Problems[ProblemDisconnected]; off {
		return // the control plane forgets a report with the stream
	}
	ctx, cancel := context.WithTimeout(ctx, n.noticeTime())
	defer cancel()
	_, err := n.config.ControlPlane.ReportNodeStatus(ctx, connect.NewRequest(&pb.ReportNodeStatusRequest{Status: s.message()}))
	if err != nil && n.stopping.Err() == nil {
		n.config.Logger.Debug("the control plane was not told how the node is", "error", err)
	}
}

// message is what others are told: codes without their details, which may name
// what is nobody else's business.
func (s *Status) message() *pb.NodeStatus {
	m := &pb.NodeStatus{
		Running: uint32(s.Running), Queued: uint32(s.Queued), Waiting: uint32(s.Waiting),
		Draining: s.Draining, Working: s.Working[:min(len(s.Working), maxWorking)],
	}
	for _, seen := range s.Seen {
		m.Checkpoints = append(m.Checkpoints, &pb.SeenCheckpoint{Origin: seen.Origin, Size: uint64(seen.Size), RootHash: seen.Root[:]})
	}
	for _, code := range s.Codes() {
		m.Problems = append(m.Problems, string(code))
	}
	return m
}
