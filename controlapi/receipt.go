package controlapi

import (
	"context"
	"errors"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// protocolVersion is in every answer.
const protocolVersion = record.Version

// receipt is the answer to a mutation, once the caller's wait is over. A wait
// that fails does not undo the mutation: the same call again gets the receipt.
func (s *Server) receipt(ctx context.Context, made orchestrator.Appended, wait pb.Wait) (*pb.Receipt, error) {
	r := &pb.Receipt{
		Index:          uint64(made.Index),
		Opening:        made.Opening,
		Head:           made.Head,
		InclusionProof: made.Proof,
	}
	if wait != pb.Wait_WAIT_WITNESSED {
		return r, nil
	}
	proof, err := s.cfg.Core.TlogProof(ctx, pb.LogName_LOG_NAME_AUDIT, made.Index)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, refuse(CodeNotWitnessed, "recorded at index %d, but no witnessed checkpoint covers it yet: call again for the receipt", made.Index)
	}
	if err != nil {
		return nil, err
	}
	r.TlogProof = proof
	return r, nil
}
