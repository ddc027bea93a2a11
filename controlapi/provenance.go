package controlapi

import (
	"context"

	"connectrpc.com/connect"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

type provenanceService struct{ *Server }

func (s provenanceService) GetExecutionProvenance(ctx context.Context, req *connect.Request[pb.GetExecutionProvenanceRequest]) (*connect.Response[pb.GetExecutionProvenanceResponse], error) {
	op := operationOf(ctx)
	id, err := op.digest("execution_id", req.Msg.GetExecutionId())
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Core.Provenance(ctx, id, op.sees())
	if err != nil {
		return nil, err
	}
	found.ProtocolVersion = protocolVersion
	return connect.NewResponse(found), nil
}

func (s provenanceService) VerifyProvenanceChain(ctx context.Context, req *connect.Request[pb.VerifyProvenanceChainRequest]) (*connect.Response[pb.VerifyProvenanceChainResponse], error) {
	op := operationOf(ctx)
	id, err := op.digest("execution_id", req.Msg.GetExecutionId())
	if err != nil {
		return nil, err
	}
	chain, err := s.cfg.Core.Chain(ctx, id, op.sees())
	if err != nil {
		return nil, err
	}
	chain.ProtocolVersion = protocolVersion
	return connect.NewResponse(chain), nil
}

func (s provenanceService) RecordExecutionProvenance(ctx context.Context, req *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
	op := operationOf(ctx)
	id, made, state, err := s.cfg.Core.Attest(ctx, op.actor(), op.caller.id, req.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	op.about(id)
	op.appended(made)
	receipt, err := s.receipt(ctx, made, pb.Wait_WAIT_UNSPECIFIED)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RecordExecutionProvenanceResponse{
		ProtocolVersion: protocolVersion,
		Duplicate:       made.Duplicate,
		Receipt:         receipt,
		State:           state,
	}), nil
}
