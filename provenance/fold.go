package provenance

import (
	"fmt"
	"iter"
	"maps"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/printable"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// Members is what the fold knows of the membership log. What it answers about
// an epoch must never change; later epochs may appear while the fold runs.
// [membership.History] implements it.
type Members interface {
	// StateAt returns the state at an epoch, an error if the log has none such.
	StateAt(epoch uint64) (*membership.State, error)
	// Root returns the root hash of the log at a size, an error beyond its size.
	Root(size uint64) (tlog.Hash, error)
	// Revoked reports whether a key was revoked after epoch from and up to by.
	Revoked(keyID string, from, by uint64) bool
}

// Fold is the state of an audit log as a function of its records. Make one with
// [NewFold] or [NewPartialFold]. Only Apply changes it; the caller keeps other
// calls away while it runs.
type Fold struct {
	cluster string
	members Members
	// partial: records may be missing. See NewPartialFold.
	partial bool

	next  int64  // the least index that the next record may have
	epoch uint64 // in force; 0 before the first epoch record
	// epochIndexes[e-1] is the index of the record of epoch e, in a whole fold.
	epochIndexes []int64
	contracts    map[digest.Digest]*registered
	executions   map[digest.Digest]*execution
	order        []*execution         // by request
	erased       map[tenantCopy]int64 // index of the last record that says so
}

// registered is a contract with a valid record.
type registered struct {
	contract   *contract.Contract
	index      int64
	epoch      uint64 // stated by its record
	moduleSize uint64 // bytes
	keyID      string // that signed it
	retired    bool
}

// execution is an Execution while it is folded.
type execution struct {
	Execution
	ballot ballot
}

// NewFold returns the fold of an audit log before its first entry.
func NewFold(cluster string, members Members) *Fold {
	return &Fold{
		cluster:    cluster,
		members:    members,
		contracts:  map[digest.Digest]*registered{},
		executions: map[digest.Digest]*execution{},
		erased:     map[tenantCopy]int64{},
	}
}

// NewPartialFold returns a fold for a selection of an audit log's records, in
// their order, as a proof bundle holds them. It differs from a whole fold in
// what the missing records would tell:
//
//   - indexes ascend, and need not be consecutive;
//   - the first epoch record may be of any epoch; a contract record before it
//     is taken to state the epoch that was in force;
//   - the parents of a request are not looked up; attestations must agree on
//     their outputs.
//
// So it takes on trust that nothing relevant stands between the records.
func NewPartialFold(cluster string, members Members) *Fold {
	f := NewFold(cluster, members)
	f.partial = true
	return f
}

// Apply folds the next record and says what it did. The entry is the one that
// commits to the record, at the index, which must be the next one. A nil record
// stands for one that cannot be read; it is void like any other that does not
// count. Apply never fails: bad input has no effect and a code.
func (f *Fold) Apply(index int64, entry [record.EntrySize]byte, r *pb.Record) Effect {
	if index < f.next || index != f.next && !f.partial {
		return void(CodeIndex, "index %d, want %d", index, f.next)
	}
	f.next = index + 1
	effect, commit := f.judge(index, r)
	if effect.Void || commit == nil {
		return effect
	}
	ex := commit(entry)
	if ex != nil {
		id := ex.ID
		effect.Execution, effect.After = &id, ex.State
		if effect.Before != ex.State {
			effect.Derived = proto.CloneOf(ex.Derived)
		}
	}
	return effect
}

// Check says whether the record would be void if it came next, without folding
// it. Epochs and states may change before it does come, so a writer makes its
// append conditional on them.
func (f *Fold) Check(r *pb.Record) Effect {
	effect, _ := f.judge(f.next, r)
	return effect
}

// commit changes the state of the fold; it cannot fail. It returns the
// execution that the record is about, nil if none.
type commit func(entry [record.EntrySize]byte) *execution

// judge decides whether the record is valid, and if so how to fold it. It
// changes nothing itself. A valid record with a nil commit has no effect on the
// state.
func (f *Fold) judge(index int64, r *pb.Record) (Effect, commit) {
	kind := record.KindOf(r)
	switch {
	case kind == "":
		return void(CodeNoRecord, "no record of a known kind"), nil
	case r.GetCluster() != f.cluster:
		return void(CodeOtherCluster, "record of cluster %q, this is %q", clip(r.GetCluster()), f.cluster), nil
	case f.epoch == 0 && kind != record.KindEpoch && !(f.partial && kind == record.KindContract):
		return void(CodeNoEpoch, "%s record before the first epoch record", kind), nil
	}
	switch body := r.GetBody().(type) {
	case *pb.Record_Epoch:
		return f.judgeEpoch(index, body.Epoch)
	case *pb.Record_Contract:
		return f.judgeContract(index, body.Contract)
	case *pb.Record_Retirement:
		return f.judgeRetirement(body.Retirement)
	case *pb.Record_Request:
		return f.judgeRequest(index, body.Request)
	case *pb.Record_Cancellation:
		return f.judgeCancellation(index, body.Cancellation)
	case *pb.Record_Reschedule:
		return f.judgeReschedule(index, body.Reschedule)
	case *pb.Record_Attestation:
		return f.judgeAttestation(index, body.Attestation)
	case *pb.Record_Divergence:
		return f.judgeDerived(index, body.Divergence.GetExecutionId(), r)
	case *pb.Record_Provenance:
		return f.judgeDerived(index, body.Provenance.GetExecutionId(), r)
	case *pb.Record_Expired:
		return f.judgeExpired(index, body.Expired)
	case *pb.Record_Erasure:
		return f.judgeErasure(index, body.Erasure)
	}
	return Effect{}, nil // operations and batches are no part of the state
}

// Size is the number of entries folded, the next index of a whole fold.
func (f *Fold) Size() int64 { return f.next }

// Epoch is the epoch in force, 0 before the first epoch record.
func (f *Fold) Epoch() uint64 { return f.epoch }

// Execution returns a snapshot of an execution.
func (f *Fold) Execution(id digest.Digest) (Execution, bool) {
	ex, ok := f.executions[id]
	if !ok {
		return Execution{}, false
	}
	return ex.snapshot(), true
}

// Executions iterates over snapshots of all executions in the order of their
// requests.
func (f *Fold) Executions() iter.Seq[Execution] {
	return func(yield func(Execution) bool) {
		for _, ex := range f.order {
			if !yield(ex.snapshot()) {
				return
			}
		}
	}
}

// A RegisteredContract is a contract with a valid record.
type RegisteredContract struct {
	Hash     digest.Digest
	Contract *contract.Contract // must not be changed
	Index    int64              // of its record
	Epoch    uint64             // at which it was registered
	KeyID    string             // of the key that signed it
	Retired  bool
}

// Contract returns a registered contract.
func (f *Fold) Contract(hash digest.Digest) (RegisteredContract, bool) {
	c, ok := f.contracts[hash]
	if !ok {
		return RegisteredContract{}, false
	}
	return c.snapshot(hash), true
}

// Contracts iterates over the registered contracts in no particular order.
func (f *Fold) Contracts() iter.Seq[RegisteredContract] {
	return func(yield func(RegisteredContract) bool) {
		for hash, c := range maps.All(f.contracts) {
			if !yield(c.snapshot(hash)) {
				return
			}
		}
	}
}

func (c *registered) snapshot(hash digest.Digest) RegisteredContract {
	return RegisteredContract{Hash: hash, Contract: c.contract, Index: c.index, Epoch: c.epoch, KeyID: c.keyID, Retired: c.retired}
}

// void is the effect of a record that has none.
func void(code Code, format string, args ...any) Effect {
	return Effect{Void: true, Code: code, Detail: printable.Text(fmt.Sprintf(format, args...))}
}

// clip shortens suspect text for a detail.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
