package orchestrator

import (
	"context"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// RecordOperation appends an operation record, for a mutation or refusal that
// has no record of its own. When it returns nil the record is durable.
func (o *Orchestrator) RecordOperation(ctx context.Context, actor Actor, op *pb.OperationRecord) error {
	r := header(actor)
	r.Body = &pb.Record_Operation{Operation: op}
	return o.note(ctx, r)
}

// RecordBatches appends operation batch records, and one with counts of
// unauthenticated requests if noise is not empty, in one commit.
func (o *Orchestrator) RecordBatches(ctx context.Context, batches []*pb.OperationBatchRecord, noise []*pb.RefusalCount) error {
	var records []*pb.Record
	for _, b := range batches {
		records = append(records, &pb.Record{Body: &pb.Record_OperationBatch{OperationBatch: b}})
	}
	if len(noise) > 0 {
		records = append(records, &pb.Record{Body: &pb.Record_Unauthenticated{
			Unauthenticated: &pb.UnauthenticatedRecord{Counts: noise}}})
	}
	return o.note(ctx, records...)
}

// note appends records that are no part of any state, and answers when they are
// durable: no reader waits to see them.
func (o *Orchestrator) note(ctx context.Context, records ...*pb.Record) error {
	if err := o.usable(); err != nil {
		return err
	}
	if len(records) == 0 {
		return nil
	}
	entries := make([]LogEntry, len(records))
	for i, r := range records {
		e, err := o.seal(proposal{record: r, repeatable: true})
		if err != nil {
			return err
		}
		entries[i] = e
	}
	results, _, err := o.appendAll(ctx, entries...)
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.Err != nil {
			return o.appendError(ctx, "audit", r.Err)
		}
	}
	return nil
}

// MaxRecords bounds the records of one answer.
const MaxRecords = 1000

const (
	// maxRecordBytes bounds the openings of one answer.
	maxRecordBytes = 4 << 20
	// maxRecordScan bounds how many records are read for one answer when most of
	// them are another tenant's.
	maxRecordScan = 16 * MaxRecords
)

// Records returns openings from index start on, at most n of them, that the
// tenant may see (all for ""), and where to go on, 0 at the end. An answer may
// be short, or empty, and yet not be the last.
func (o *Orchestrator) Records(ctx context.Context, tenant string, start int64, n int) ([]*pb.ProvenRecord, int64, error) {
	if err := o.usable(); err != nil {
		return nil, 0, err
	}
	size := o.applied.get()
	if start < 0 || start > size {
		return nil, 0, refuse(CodeIndexUnknown, "index %d, the log has %d records: start at most there", start, size)
	}
	if n < 1 || n > MaxRecords {
		n = MaxRecords
	}
	var out []*pb.ProvenRecord
	next, bytes := start, 0
	end := min(size, start+maxRecordScan)
	for next < end && len(out) < n && bytes < maxRecordBytes {
		// Small steps, so that little is read in vain.
		to := min(end, next+int64(n))
		err := o.cfg.Audit.Entries(ctx, next, to, func(index int64, _, opening []byte) error {
			if len(out) == n || bytes >= maxRecordBytes {
				return nil
			}
			next = index + 1
			if tenant != "" && !o.concerns(opening, tenant) {
				return nil
			}
			bytes += len(opening)
			out = append(out, &pb.ProvenRecord{Index: uint64(index), Opening: append([]byte(nil), opening...)})
			return nil
		})
		if err != nil {
			return nil, 0, o.readError(ctx, err)
		}
	}
	if next == size {
		return out, 0, nil
	}
	return out, next, nil
}

// concerns reports whether a tenant may see a record: those about its own
// contracts, executions, payloads and operations, and the epochs, which are
// public.
func (o *Orchestrator) concerns(opening []byte, tenant string) bool {
	parsed, err := record.ParseOpening(opening)
	if err != nil {
		return false
	}
	r, err := record.Parse(parsed.Record())
	if err != nil {
		return false
	}
	about := func(execution []byte) bool {
		id, err := digest.FromBytes(execution)
		if err != nil {
			return false
		}
		o.view.mu.RLock()
		defer o.view.mu.RUnlock()
		x, ok := o.view.executions[id]
		return ok && x.tenant == tenant
	}
	switch body := r.GetBody().(type) {
	case *pb.Record_Epoch:
		return true
	case *pb.Record_Contract:
		return body.Contract.GetTenant() == tenant
	case *pb.Record_Retirement:
		return body.Retirement.GetTenant() == tenant
	case *pb.Record_Request:
		return body.Request.GetTenant() == tenant
	case *pb.Record_Cancellation:
		return body.Cancellation.GetTenant() == tenant
	case *pb.Record_Provenance:
		return body.Provenance.GetTenant() == tenant
	case *pb.Record_Operation:
		return body.Operation.GetTenant() == tenant
	case *pb.Record_OperationBatch:
		return body.OperationBatch.GetTenant() == tenant
	case *pb.Record_Erasure:
		return body.Erasure.GetTenant() == tenant
	case *pb.Record_Reschedule:
		return about(body.Reschedule.GetExecutionId())
	case *pb.Record_Attestation:
		return about(body.Attestation.GetExecutionId())
	case *pb.Record_Divergence:
		return about(body.Divergence.GetExecutionId())
	case *pb.Record_Expired:
		return about(body.Expired.GetExecutionId())
	}
	return false
}
