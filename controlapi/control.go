package controlapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

type controlService struct{ *Server }

func (s controlService) RegisterContract(ctx context.Context, req *connect.Request[pb.RegisterContractRequest]) (*connect.Response[pb.RegisterContractResponse], error) {
	op := operationOf(ctx)
	if err := s.checkPayload("module", req.Msg.GetModule()); err != nil {
		return nil, err
	}
	hash, made, err := s.cfg.Core.RegisterContract(ctx, op.actor(), op.tenant(), req.Msg.GetEnvelope(), req.Msg.GetModule())
	if err != nil {
		return nil, err
	}
	op.about(hash)
	op.appended(made)
	receipt, err := s.receipt(ctx, made, req.Msg.GetWait())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RegisterContractResponse{
		ProtocolVersion: protocolVersion,
		ContractHash:    hash.String(),
		Duplicate:       made.Duplicate,
		Receipt:         receipt,
	}), nil
}

func (s controlService) RetireContract(ctx context.Context, req *connect.Request[pb.RetireContractRequest]) (*connect.Response[pb.RetireContractResponse], error) {
	op := operationOf(ctx)
	hash, made, err := s.cfg.Core.RetireContract(ctx, op.actor(), op.tenant(), req.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	op.about(hash)
	op.appended(made)
	receipt, err := s.receipt(ctx, made, pb.Wait_WAIT_UNSPECIFIED)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RetireContractResponse{
		ProtocolVersion: protocolVersion,
		Duplicate:       made.Duplicate,
		Receipt:         receipt,
	}), nil
}

func (s controlService) GetContract(ctx context.Context, req *connect.Request[pb.GetContractRequest]) (*connect.Response[pb.GetContractResponse], error) {
	op := operationOf(ctx)
	hash, err := op.digest("contract_hash", req.Msg.GetContractHash())
	if err != nil {
		return nil, err
	}
	summary, envelope, err := s.cfg.Core.Contract(hash, op.sees())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GetContractResponse{
		ProtocolVersion: protocolVersion,
		Contract:        summary,
		Envelope:        envelope,
	}), nil
}

func (s controlService) ListContracts(ctx context.Context, req *connect.Request[pb.ListContractsRequest]) (*connect.Response[pb.ListContractsResponse], error) {
	op := operationOf(ctx)
	contracts, next, err := s.cfg.Core.ListContracts(op.sees(), page(req.Msg.GetPageSize(), req.Msg.GetPageToken()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ListContractsResponse{
		ProtocolVersion: protocolVersion,
		Contracts:       contracts,
		NextPageToken:   next,
	}), nil
}

func (s controlService) SubmitExecutionRequest(ctx context.Context, req *connect.Request[pb.SubmitExecutionRequestRequest]) (*connect.Response[pb.SubmitExecutionRequestResponse], error) {
	op := operationOf(ctx)
	if err := s.checkPayload("input", req.Msg.GetInput()); err != nil {
		return nil, err
	}
	id, made, err := s.cfg.Core.Submit(ctx, op.actor(), op.tenant(), req.Msg.GetSubmission(), req.Msg.GetInput())
	if err != nil {
		return nil, err
	}
	op.about(id)
	op.appended(made)
	receipt, err := s.receipt(ctx, made, req.Msg.GetWait())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.SubmitExecutionRequestResponse{
		ProtocolVersion: protocolVersion,
		ExecutionId:     id.String(),
		Duplicate:       made.Duplicate,
		Receipt:         receipt,
	}), nil
}

func (s controlService) CancelExecution(ctx context.Context, req *connect.Request[pb.CancelExecutionRequest]) (*connect.Response[pb.CancelExecutionResponse], error) {
	op := operationOf(ctx)
	id, made, err := s.cfg.Core.Cancel(ctx, op.actor(), op.tenant(), req.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	op.about(id)
	op.appended(made)
	receipt, err := s.receipt(ctx, made, pb.Wait_WAIT_UNSPECIFIED)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.CancelExecutionResponse{
		ProtocolVersion: protocolVersion,
		Duplicate:       made.Duplicate,
		Receipt:         receipt,
	}), nil
}

func (s controlService) QueryExecutionStatus(ctx context.Context, req *connect.Request[pb.QueryExecutionStatusRequest]) (*connect.Response[pb.QueryExecutionStatusResponse], error) {
	op := operationOf(ctx)
	id, err := op.digest("execution_id", req.Msg.GetExecutionId())
	if err != nil {
		return nil, err
	}
	status, err := s.cfg.Core.Status(id, op.sees())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.QueryExecutionStatusResponse{ProtocolVersion: protocolVersion, Status: status}), nil
}

// WatchExecution is one operation, recorded before its first message.
func (s controlService) WatchExecution(ctx context.Context, req *connect.Request[pb.WatchExecutionRequest], stream *connect.ServerStream[pb.WatchExecutionResponse]) error {
	op := operationOf(ctx)
	if err := refuseUndecoded(req.Msg); err != nil {
		return err
	}
	id, err := op.digest("execution_id", req.Msg.GetExecutionId())
	if err != nil {
		return err
	}
	changes, err := s.cfg.Core.Watch(ctx, id, op.sees())
	if err != nil {
		return err
	}
	if err := s.settle(ctx, op, nil); err != nil {
		return err
	}
	out := sender[pb.WatchExecutionResponse]{Server: s.Server, op: op, stream: stream}
	for status := range changes {
		if err := out.send(&pb.WatchExecutionResponse{ProtocolVersion: protocolVersion, Status: status}); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func (s controlService) RetrieveExecutionProof(ctx context.Context, req *connect.Request[pb.RetrieveExecutionProofRequest]) (*connect.Response[pb.RetrieveExecutionProofResponse], error) {
	op := operationOf(ctx)
	id, err := op.digest("execution_id", req.Msg.GetExecutionId())
	if err != nil {
		return nil, err
	}
	bundle, err := s.cfg.Core.Bundle(ctx, id, op.sees(), req.Msg.GetWithAncestors())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RetrieveExecutionProofResponse{ProtocolVersion: protocolVersion, Bundle: bundle}), nil
}

func (s controlService) ListExecutions(ctx context.Context, req *connect.Request[pb.ListExecutionsRequest]) (*connect.Response[pb.ListExecutionsResponse], error) {
	op := operationOf(ctx)
	state := req.Msg.GetState()
	if _, known := pb.ExecutionState_name[int32(state)]; !known {
		return nil, refuse(orchestrator.CodeArgument, "state: no such state: see ExecutionState in control.proto")
	}
	node := req.Msg.GetDivergentNode()
	if node != "" && !contract.ValidIdentifier(node) {
		return nil, refuse(orchestrator.CodeArgument, "divergent_node: %.80q is no identifier: see ListClusterNodes", node)
	}
	filter := orchestrator.Filter{Tenant: op.sees(), State: state, DivergentNode: node}
	executions, next, err := s.cfg.Core.ListExecutions(filter, page(req.Msg.GetPageSize(), req.Msg.GetPageToken()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ListExecutionsResponse{
		ProtocolVersion: protocolVersion,
		Executions:      executions,
		NextPageToken:   next,
	}), nil
}

func (s controlService) ListClusterNodes(context.Context, *connect.Request[pb.ListClusterNodesRequest]) (*connect.Response[pb.ListClusterNodesResponse], error) {
	nodes := s.cfg.Core.Nodes()
	s.sessions.describe(nodes.Nodes)
	nodes.ProtocolVersion = protocolVersion
	return connect.NewResponse(nodes), nil
}

func (s controlService) GetClusterRoot(context.Context, *connect.Request[pb.GetClusterRootRequest]) (*connect.Response[pb.GetClusterRootResponse], error) {
	root, err := s.cfg.Core.ClusterRoot()
	if err != nil {
		return nil, err
	}
	root.ProtocolVersion = protocolVersion
	return connect.NewResponse(root), nil
}

func (s controlService) PutBlob(ctx context.Context, req *connect.Request[pb.PutBlobRequest]) (*connect.Response[pb.PutBlobResponse], error) {
	op := operationOf(ctx)
	if err := s.checkPayload("data", req.Msg.GetData()); err != nil {
		return nil, err
	}
	d, err := s.cfg.Core.PutBlob(ctx, op.caller.id, req.Msg.GetData())
	if err != nil {
		return nil, err
	}
	op.about(d)
	return connect.NewResponse(&pb.PutBlobResponse{ProtocolVersion: protocolVersion, Digest: d.String()}), nil
}

// GetBlob resolves a digest in the caller's namespace; for a node, among what
// its open assignments refer to; for an auditor, among what the replay of an
// execution takes.
func (s controlService) GetBlob(ctx context.Context, req *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	op := operationOf(ctx)
	d, err := op.digest("digest", req.Msg.GetDigest())
	if err != nil {
		return nil, err
	}
	var data []byte
	switch named := req.Msg.GetExecutionId(); {
	case op.caller.kind == auditor:
		var execution digest.Digest
		if execution, err = digest.Parse(named); err != nil {
			return nil, refuse(orchestrator.CodeArgument, "execution_id: want 64 lowercase hexadecimal characters: name the execution that you replay")
		}
		data, err = s.cfg.Core.GetExecutionBlob(ctx, execution, d)
	case named != "":
		return nil, refuse(orchestrator.CodeArgument, "execution_id: it is for auditors: leave it out")
	case op.caller.kind == node:
		data, err = s.cfg.Core.GetAssignedBlob(ctx, op.caller.id, d)
	default:
		data, err = s.cfg.Core.GetBlob(ctx, op.caller.id, d)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GetBlobResponse{ProtocolVersion: protocolVersion, Data: data}), nil
}

// digest reads the digest that an operation is about.
func (op *operation) digest(field, text string) (digest.Digest, error) {
	d, err := digest.Parse(text)
	if err != nil {
		return d, refuse(orchestrator.CodeArgument, "%s: want 64 lowercase hexadecimal characters", field)
	}
	op.about(d)
	return d, nil
}

// checkPayload holds a payload to the bound that its request's bound, made for
// base64, does not.
func (s controlService) checkPayload(field string, data []byte) error {
	if len(data) > s.cfg.MaxPayload {
		return refuse(CodeBodyTooLarge, "%s: %d bytes, want at most %d: send less", field, len(data), s.cfg.MaxPayload)
	}
	return nil
}

// page asks the core for a part of a list; it knows the bounds.
func page(size uint32, token string) orchestrator.Page {
	return orchestrator.Page{Size: int(min(size, orchestrator.MaxPageSize)), Token: token}
}
