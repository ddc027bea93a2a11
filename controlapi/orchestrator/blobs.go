package orchestrator

import (
	"context"
	"errors"
	"slices"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// PutBlob stores a payload in the owner's namespace.
func (o *Orchestrator) PutBlob(ctx context.Context, owner string, data []byte) (digest.Digest, error) {
	if err := o.usable(); err != nil {
		return digest.Digest{}, err
	}
	d, err := o.blobs.Put(ctx, owner, data)
	if err != nil {
		return digest.Digest{}, o.blobError(ctx, err)
	}
	return d, nil
}

// GetBlob returns a payload of the owner.
func (o *Orchestrator) GetBlob(ctx context.Context, owner string, d digest.Digest) ([]byte, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	data, err := o.blobs.Get(ctx, owner, d)
	if err != nil {
		return nil, o.blobError(ctx, err)
	}
	return data, nil
}

// GetAssignedBlob returns a payload that an open assignment of the node refers
// to: module, input, or the output of a parent.
func (o *Orchestrator) GetAssignedBlob(ctx context.Context, node string, d digest.Digest) ([]byte, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	owner, ok := o.assignedOwner(node, d)
	if !ok {
		return nil, errNoBlob()
	}
	return o.GetBlob(ctx, owner, d)
}

// assignedOwner finds the tenant of an open execution that is assigned to the
// node and needs the payload.
func (o *Orchestrator) assignedOwner(node string, d digest.Digest) (string, bool) {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	for x := range o.view.needed[d] {
		if o.view.assignedTo(x, node) {
			return x.tenant, true
		}
	}
	return "", false
}

// GetExecutionBlob returns a payload that a replay of an execution takes: its
// module, its input, or the output of a parent. It is for auditors, who see every
// execution and of tenants' payloads nothing that none refers to.
func (o *Orchestrator) GetExecutionBlob(ctx context.Context, execution, d digest.Digest) ([]byte, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	owner, err := o.replayedOwner(execution, d)
	if err != nil {
		return nil, err
	}
	return o.GetBlob(ctx, owner, d)
}

// replayedOwner finds the tenant of an execution that refers to the payload.
func (o *Orchestrator) replayedOwner(execution, d digest.Digest) (string, error) {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	_, x, err := o.view.visible(execution, "")
	if err != nil {
		return "", err
	}
	if !slices.Contains(o.view.payloads(x), d) {
		return "", refuse(CodeBlobUnknown, "no replay of that execution takes such a payload: it takes the module, the input and the outputs of parents")
	}
	return x.tenant, nil
}

// EraseBlob destroys the key of a tenant's payload and appends the erasure
// record. If it fails in between, the payload is gone and erasing it again
// makes the record.
func (o *Orchestrator) EraseBlob(ctx context.Context, actor Actor, tenant string, d digest.Digest, reason string) (Appended, error) {
	if err := o.usable(); err != nil {
		return Appended{}, err
	}
	if err := o.blobs.Erase(ctx, tenant, d); err != nil {
		return Appended{}, o.blobError(ctx, err)
	}
	return o.commit(ctx, func(v *view) (proposal, error) {
		r := header(actor)
		r.Body = &pb.Record_Erasure{Erasure: &pb.ErasureRecord{Tenant: tenant, Digest: d[:], Reason: reason}}
		return o.judged(v, proposal{record: r})
	})
}

func errNoBlob() error {
	return refuse(CodeBlobUnknown, "no such payload for this caller: put it first")
}

// blobError turns what the blob store failed with into what the caller is told.
func (o *Orchestrator) blobError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, ErrNoBlob):
		return errNoBlob()
	case errors.Is(err, ErrBlobTooLarge):
		return refuseCause(CodeTooLarge, err, "the payload is over the store's limit: send less")
	case ctx.Err() != nil:
		return ctx.Err()
	}
	o.log.Error("using the blob store", "err", err)
	if errors.Is(err, ErrBlobDamaged) {
		return refuseCause(CodeUnavailable, err, "the payload is damaged where it is kept: tell the operator")
	}
	return refuseCause(CodeUnavailable, err, "the payload store failed: try again, or tell the operator")
}
