package controlapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// maxChanges bounds one answer of ListChanges: 256 envelopes of the largest
// size are 16 MiB.
const maxChanges = 256

type membershipService struct{ *Server }

// RegisterTrustedNode is ApplyChange for one kind of change, so that a caller
// who means to add a node cannot be handed anything else to send.
func (s membershipService) RegisterTrustedNode(ctx context.Context, req *connect.Request[pb.RegisterTrustedNodeRequest]) (*connect.Response[pb.RegisterTrustedNodeResponse], error) {
	if err := checkAddsNode(req.Msg.GetEnvelope()); err != nil {
		return nil, err
	}
	epoch, duplicate, err := s.apply(ctx, req.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RegisterTrustedNodeResponse{
		ProtocolVersion: protocolVersion,
		Epoch:           epoch,
		Duplicate:       duplicate,
	}), nil
}

func (s membershipService) ApplyChange(ctx context.Context, req *connect.Request[pb.ApplyChangeRequest]) (*connect.Response[pb.ApplyChangeResponse], error) {
	epoch, duplicate, err := s.apply(ctx, req.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ApplyChangeResponse{
		ProtocolVersion: protocolVersion,
		Epoch:           epoch,
		Duplicate:       duplicate,
	}), nil
}

func (s membershipService) apply(ctx context.Context, envelope []byte) (epoch uint64, duplicate bool, err error) {
	op := operationOf(ctx)
	change, epoch, duplicate, err := s.cfg.Core.ApplyChange(ctx, op.actor(), envelope)
	if err != nil {
		return 0, false, err
	}
	op.about(change)
	op.recorded = !duplicate
	return epoch, duplicate, nil
}

// checkAddsNode reads what a change is about. Whether it is lawful the core
// decides.
func checkAddsNode(envelope []byte) error {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return refuse(orchestrator.CodeEnvelope, "%v: sign the change again", err)
	}
	change, err := membership.ParseChange(e.Payload)
	if err != nil {
		return refuse(orchestrator.CodeChange, "%v: sign a change of the documented form", err)
	}
	if add, ok := change.Effect.(membership.AddPrincipal); !ok || add.Principal.Kind != membership.KindNode {
		return refuse(orchestrator.CodeArgument, "the change does not add a node: use ApplyChange")
	}
	return nil
}

func (s membershipService) GetMembershipHash(_ context.Context, req *connect.Request[pb.GetMembershipHashRequest]) (*connect.Response[pb.GetMembershipHashResponse], error) {
	found, err := s.cfg.Core.MembershipHash(req.Msg.GetEpoch())
	if err != nil {
		return nil, err
	}
	found.ProtocolVersion = protocolVersion
	return connect.NewResponse(found), nil
}

func (s membershipService) VerifyMembership(ctx context.Context, req *connect.Request[pb.VerifyMembershipRequest]) (*connect.Response[pb.VerifyMembershipResponse], error) {
	found, err := s.cfg.Core.VerifyMembership(ctx, req.Msg.GetPrincipal(), req.Msg.GetEpoch())
	if err != nil {
		return nil, err
	}
	found.ProtocolVersion = protocolVersion
	return connect.NewResponse(found), nil
}

func (s membershipService) ListChanges(ctx context.Context, req *connect.Request[pb.ListChangesRequest]) (*connect.Response[pb.ListChangesResponse], error) {
	changes, current, err := s.cfg.Core.Changes(ctx, max(1, req.Msg.GetFromEpoch()), atMost(req.Msg.GetPageSize(), maxChanges))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ListChangesResponse{
		ProtocolVersion: protocolVersion,
		Changes:         changes,
		CurrentEpoch:    current,
	}), nil
}

// atMost reads a page size: 0 means the most.
func atMost(size, most uint32) int {
	if size == 0 {
		size = most
	}
	return int(min(size, most))
}
