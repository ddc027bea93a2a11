package controlapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// operation is one authenticated call from its token to its answer. It belongs
// to the goroutine of its HTTP request.
type operation struct {
	method  *method
	caller  caller
	account *account
	start   time.Time
	control *http.ResponseController // for the deadlines of streams

	object      []byte // what it is about: a digest, or nil
	recorded    bool   // the core made a record of its own
	duplicateOf uint64 // index of the record that already holds the effect

	bodyErr error // why the body could not be read: a quota or the bound
	settled bool  // its record is durable: the answer may go
	parked  bool  // it was refused over quota, and is only counted
	code    Code  // how it ended, for log and metrics
}

// tenant is the tenant that the operation belongs to, "" if none.
func (op *operation) tenant() string {
	if op.caller.kind == tenant {
		return op.caller.id
	}
	return ""
}

// sees is the tenant argument of the core's lookups: tenants see their own,
// auditors everything. The table lets nobody else near them.
func (op *operation) sees() string { return op.tenant() }

func (op *operation) actor() orchestrator.Actor {
	return orchestrator.Actor{
		Principal: op.caller.id,
		KeyID:     op.caller.token.KeyID,
		Method:    op.method.name(),
		TokenID:   op.caller.token.ID,
	}
}

// about names the object of the operation.
func (op *operation) about(d digest.Digest) { op.object = d[:] }

// appended notes the outcome of a mutation.
func (op *operation) appended(a orchestrator.Appended) {
	op.recorded = !a.Duplicate
	if a.Duplicate {
		op.duplicateOf = uint64(a.Index)
	}
}

type operationKey struct{}

func operationOf(ctx context.Context) *operation {
	op, _ := ctx.Value(operationKey{}).(*operation)
	return op
}

// settle makes the record of an operation that ended with err, unless it has
// one. It returns err, or, if the record could not be made, an error that must
// be answered in its place. The record is made even if the caller has gone: the
// operation took place.
func (s *Server) settle(ctx context.Context, op *operation, err error) error {
	if op.settled {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	op.code = codeOK
	if err != nil {
		op.code = asRefusal(err).Code
	}
	if recordErr := s.makeRecord(ctx, op, err); recordErr != nil {
		s.metrics.unrecorded.Inc()
		// Whoever is refused without end must not fill the log: see observe.
		level := slog.LevelError
		if errors.Is(recordErr, errParked) {
			level = slog.LevelDebug
		}
		s.log.Log(ctx, level, "recording an operation", "method", op.method.name(), "principal", op.caller.id, "err", recordErr)
		op.code = orchestrator.CodeUnavailable
		return errRecord(recordErr)
	}
	op.settled = true
	return err
}

func (s *Server) makeRecord(ctx context.Context, op *operation, err error) error {
	batched := op.method.effect == reads || op.method.effect == streams
	switch {
	case op.recorded:
		return nil // whatever happened afterwards, the effect has its record
	case err == nil && op.method.effect == heartbeats:
		return nil
	case err == nil && batched:
		return s.collector.add(entry{
			principal: op.caller.id,
			tenant:    op.tenant(),
			item:      itemOf(op.actor(), codeOK, op.object),
		})
	case err != nil && (isQuota(op.code) || !op.account.refusals.AllowN(s.cfg.Now(), 1)):
		return s.park(op)
	}
	return s.cfg.Core.RecordOperation(ctx, op.actor(), &pb.OperationRecord{
		Tenant:      op.tenant(),
		Code:        string(op.code),
		Object:      op.object,
		DuplicateOf: op.duplicateOf,
	})
}

// park has a refusal over quota counted in the principal's next batch, by code
// only. The caller waits for it, at most about parkInterval: who is refused too
// often is slowed down.
func (s *Server) park(op *operation) error {
	op.parked = true
	e := entry{
		principal: op.caller.id,
		tenant:    op.tenant(),
		item:      itemOf(op.actor(), op.code, nil),
		parked:    true,
	}
	defer op.account.parked.Add(-1)
	if op.account.parked.Add(1) > maxParked {
		s.collector.count(e)
		return errParked
	}
	return s.collector.add(e)
}

func isQuota(code Code) bool {
	switch code {
	case CodeQuotaRate, CodeQuotaInFlight, CodeQuotaBytes, CodeQuotaStreams, CodeQuotaBodies:
		return true
	}
	return false
}

// WrapUnary settles every call between its work and its answer.
func (s *Server) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		op := operationOf(ctx)
		var res connect.AnyResponse
		err := refuseUndecoded(req.Any())
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
			defer cancel()
			res, err = next(ctx, req)
		}
		if err = s.settle(ctx, op, err); err != nil {
			return nil, s.answerError(op, err)
		}
		return res, nil
	}
}

// WrapStreamingHandler settles a stream that ends before it has begun. One that
// begins has been settled by its handler; see begin.
func (s *Server) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		op := operationOf(ctx)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()
		var err error
		if isReflection(op.method) {
			err = s.settle(ctx, op, nil)
		}
		if err == nil {
			err = next(ctx, conn)
		}
		if cause := context.Cause(ctx); cause == errStopping && err != nil {
			err = errStopping
		}
		// An error of Connect itself, before the stream has begun, is about the
		// request; a handler's errors are refusals.
		var fault *connect.Error
		if !op.settled && errors.As(err, &fault) {
			err = s.unread(op)
		}
		if err = s.settle(ctx, op, err); err != nil {
			return s.answerError(op, err)
		}
		return nil
	}
}

// WrapStreamingClient is for clients; a Server is none.
func (s *Server) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// answerError is the last word on a failed call: its code for the log, its
// cause for the operator, its message for the client.
func (s *Server) answerError(op *operation, err error) error {
	refusal := asRefusal(err)
	op.code = refusal.Code
	if refusal.Code == CodeInternal || (refusal.Code == orchestrator.CodeUnavailable && refusal.Cause != nil && !errors.Is(err, errParked)) {
		s.log.Error("answering a call", "method", op.method.name(), "principal", op.caller.id,
			"code", string(refusal.Code), "err", refusal.Cause)
	}
	return wireError(err)
}

func refuseUndecoded(message any) error {
	if err := decodeError(message); err != nil {
		return refuse(CodeMalformed, "%v: see the schema under proto/tallystick/v1", err)
	}
	return nil
}
