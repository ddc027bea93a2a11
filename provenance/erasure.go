package provenance

import (
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// tenantCopy is a tenant's copy of a payload: every tenant that has it has one of
// its own, and erases that one.
type tenantCopy struct {
	tenant  string
	payload digest.Digest
}

// judgeErasure keeps where a payload's erasure is recorded. No execution depends
// on it.
func (f *Fold) judgeErasure(index int64, r *pb.ErasureRecord) (Effect, commit) {
	if len(r.GetDigest()) != digest.Size {
		return Effect{}, nil
	}
	erased := tenantCopy{r.GetTenant(), digest.Digest(r.GetDigest())}
	return Effect{}, func([record.EntrySize]byte) *execution {
		f.erased[erased] = index
		return nil
	}
}

// Erased returns the index of the last record which says that a tenant's copy of a
// payload was erased; ok is false if none does. It explains why a payload is not
// there, and is the control plane's word alone.
func (f *Fold) Erased(tenant string, payload digest.Digest) (index int64, ok bool) {
	index, ok = f.erased[tenantCopy{tenant, payload}]
	return index, ok
}
