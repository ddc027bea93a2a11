package controlapi

import (
	"context"
	"math"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// maxRecords bounds one answer of ListRecords.
const maxRecords = 1_000

type logService struct{ *Server }

func (s logService) GetCheckpoint(_ context.Context, req *connect.Request[pb.GetCheckpointRequest]) (*connect.Response[pb.GetCheckpointResponse], error) {
	if err := checkLog(req.Msg.GetLog()); err != nil {
		return nil, err
	}
	checkpoint, err := s.cfg.Core.Checkpoint(req.Msg.GetLog())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GetCheckpointResponse{ProtocolVersion: protocolVersion, Checkpoint: checkpoint}), nil
}

func (s logService) GetInclusionProof(ctx context.Context, req *connect.Request[pb.GetInclusionProofRequest]) (*connect.Response[pb.GetInclusionProofResponse], error) {
	if err := checkLog(req.Msg.GetLog(), req.Msg.GetIndex(), req.Msg.GetSize()); err != nil {
		return nil, err
	}
	found, err := s.cfg.Core.InclusionProof(ctx, req.Msg.GetLog(), int64(req.Msg.GetIndex()), int64(req.Msg.GetSize()))
	if err != nil {
		return nil, err
	}
	found.ProtocolVersion = protocolVersion
	return connect.NewResponse(found), nil
}

func (s logService) GetConsistencyProof(_ context.Context, req *connect.Request[pb.GetConsistencyProofRequest]) (*connect.Response[pb.GetConsistencyProofResponse], error) {
	if err := checkLog(req.Msg.GetLog(), req.Msg.GetOldSize(), req.Msg.GetNewSize()); err != nil {
		return nil, err
	}
	found, err := s.cfg.Core.ConsistencyProof(req.Msg.GetLog(), int64(req.Msg.GetOldSize()), int64(req.Msg.GetNewSize()))
	if err != nil {
		return nil, err
	}
	found.ProtocolVersion = protocolVersion
	return connect.NewResponse(found), nil
}

func (s logService) GetTlogProof(ctx context.Context, req *connect.Request[pb.GetTlogProofRequest]) (*connect.Response[pb.GetTlogProofResponse], error) {
	if err := checkLog(req.Msg.GetLog(), req.Msg.GetIndex()); err != nil {
		return nil, err
	}
	proof, err := s.cfg.Core.TlogProof(ctx, req.Msg.GetLog(), int64(req.Msg.GetIndex()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GetTlogProofResponse{ProtocolVersion: protocolVersion, TlogProof: proof}), nil
}

// ListRecords shows tenants their own records and auditors all.
func (s logService) ListRecords(ctx context.Context, req *connect.Request[pb.ListRecordsRequest]) (*connect.Response[pb.ListRecordsResponse], error) {
	op := operationOf(ctx)
	if err := checkNumbers(req.Msg.GetStart()); err != nil {
		return nil, err
	}
	records, next, err := s.cfg.Core.Records(ctx, op.sees(), int64(req.Msg.GetStart()), atMost(req.Msg.GetPageSize(), maxRecords))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ListRecordsResponse{
		ProtocolVersion: protocolVersion,
		Records:         records,
		Next:            uint64(next),
	}), nil
}

// checkLog holds a request to the two logs there are and to sizes and indexes
// that exist in none larger.
func checkLog(log pb.LogName, numbers ...uint64) error {
	if log != pb.LogName_LOG_NAME_AUDIT && log != pb.LogName_LOG_NAME_MEMBERSHIP {
		return refuse(orchestrator.CodeArgument, "log: want LOG_NAME_AUDIT or LOG_NAME_MEMBERSHIP")
	}
	return checkNumbers(numbers...)
}

func checkNumbers(numbers ...uint64) error {
	for _, n := range numbers {
		if n > math.MaxInt64 {
			return refuse(orchestrator.CodeArgument, "an index or size is at most 2^63 − 1")
		}
	}
	return nil
}
