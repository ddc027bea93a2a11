package orchestrator

import (
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// view is what the audit log says, as far as it has been applied: the fold, and
// indexes into it. The applier alone writes what the log implies, under the lock;
// readers hold the read lock and do no I/O under it. Nothing else is here, apart
// from covered, the timers, and what nodes do and say beside the log: paces and
// abandonments.
type view struct {
	mu   sync.RWMutex
	fold *provenance.Fold
	// epochs[i] is the index of the epoch record of epoch i+1.
	epochs  []int64
	current *membership.State // of the epoch in force; nil before audit entry 0

	executions map[digest.Digest]*tracked
	retired    map[digest.Digest]int64 // index of the retirement by contract hash
	all        listing
	tenants    map[string]*listing
	attested   map[string]uint64 // valid attestations by node
	// divergences says by node what others contradict.
	divergences map[string]divergences

	// open holds the executions that are not decided; needed, by the digest of
	// a payload, those of them whose nodes may fetch it.
	open   map[digest.Digest]*tracked
	needed map[digest.Digest]map[*tracked]struct{}

	// covered is the size of the newest witnessed checkpoint; marks are the
	// records that something waits for until they are covered, ascending by index.
	covered int64
	marks   []mark

	// paces says how far each node has come, as this process saw it.
	paces map[string]pace

	history *membership.History
}

// listing is what one tenant may list, in log order.
type listing struct {
	executions []*tracked
	contracts  []digest.Digest
}

// tracked is an execution in the view.
type tracked struct {
	id        digest.Digest
	tenant    string
	index     int64  // of the request record
	submitted uint64 // milliseconds, by the writer's clock
	closed    int64  // index of the record that closes the chain; -1 before
	// begun is how many attempts may be worked on: those whose request or
	// reschedule record is covered.
	begun uint64
	// deadline fires when the nodes of the last attempt have stayed away too
	// long; nil while none has begun. graced says that it was put off for a node
	// that had just passed the request, or had just connected.
	deadline *time.Timer
	graced   bool
	// abandoned holds the codes of the nodes that will not attest, at most one
	// for each assigned node, none that has attested.
	abandoned map[string]string
	// divergent are the nodes that are counted in the view's divergences for it.
	divergent map[string]provenance.Stance
	// working is when each assigned node last said that it compiles or runs it, and
	// stretched how often the deadline of this attempt was put off for that.
	working   map[string]time.Time
	stretched int
	// postponed is how often the deadline of this attempt was put off for nodes that
	// were coming, since progress, how far they have got, last grew.
	postponed int
	progress  int64
	// reoffered says that the nodes of this attempt were told once more when it was
	// about to be the last.
	reoffered bool
}

// mark says that an execution is to be looked at once its record is covered.
type mark struct {
	index int64
	x     *tracked
}

func newView(cluster string, history *membership.History) *view {
	return &view{
		fold:        provenance.NewFold(cluster, history),
		executions:  make(map[digest.Digest]*tracked),
		retired:     make(map[digest.Digest]int64),
		tenants:     make(map[string]*listing),
		attested:    make(map[string]uint64),
		divergences: make(map[string]divergences),
		paces:       make(map[string]pace),
		open:        make(map[digest.Digest]*tracked),
		needed:      make(map[digest.Digest]map[*tracked]struct{}),
		history:     history,
	}
}

// applyRecord folds the entry at index. A nil record stands for one that cannot
// be read. The caller holds the write lock.
func (v *view) applyRecord(index int64, entry [record.EntrySize]byte, r *pb.Record) (provenance.Effect, *tracked) {
	effect := v.fold.Apply(index, entry, r)
	if effect.Void {
		return effect, nil
	}
	switch body := r.GetBody().(type) {
	case *pb.Record_Epoch:
		v.epochs = append(v.epochs, index)
		v.current, _ = v.history.StateAt(body.Epoch.GetEpoch())
	case *pb.Record_Contract:
		hash := digest.Digest(body.Contract.GetContractHash())
		v.all.contracts = append(v.all.contracts, hash)
		own := v.own(body.Contract.GetTenant())
		own.contracts = append(own.contracts, hash)
	case *pb.Record_Retirement:
		v.retired[digest.Digest(body.Retirement.GetContractHash())] = index
	case *pb.Record_Request:
		x := &tracked{id: *effect.Execution, tenant: body.Request.GetTenant(), index: index,
			submitted: r.GetTimeUnixMs(), closed: -1}
		v.executions[x.id] = x
		v.all.executions = append(v.all.executions, x)
		own := v.own(x.tenant)
		own.executions = append(own.executions, x)
		v.setOpen(x)
		v.marks = append(v.marks, mark{index, x})
	case *pb.Record_Attestation:
		v.attested[body.Attestation.GetNode()]++
	case *pb.Record_Reschedule:
		v.marks = append(v.marks, mark{index, v.executions[*effect.Execution]})
	case *pb.Record_Provenance, *pb.Record_Divergence, *pb.Record_Cancellation, *pb.Record_Expired:
		x := v.executions[*effect.Execution]
		x.closed = index
		v.marks = append(v.marks, mark{index, x})
	}
	if effect.Execution == nil {
		return effect, nil
	}
	x := v.executions[*effect.Execution]
	if effect.After != provenance.StateOpen {
		v.setDecided(x)
	}
	if r.GetAttestation() != nil { // nothing else changes how nodes stand
		v.blame(x)
	}
	return effect, x
}

func (v *view) setOpen(x *tracked) {
	v.open[x.id] = x
	for _, d := range v.payloads(x) {
		if v.needed[d] == nil {
			v.needed[d] = make(map[*tracked]struct{})
		}
		v.needed[d][x] = struct{}{}
	}
}

func (v *view) setDecided(x *tracked) {
	if _, ok := v.open[x.id]; !ok {
		return
	}
	delete(v.open, x.id)
	for _, d := range v.payloads(x) {
		delete(v.needed[d], x)
		if len(v.needed[d]) == 0 {
			delete(v.needed, d)
		}
	}
}

// payloads returns the digests of what the nodes of an execution fetch.
func (v *view) payloads(x *tracked) []digest.Digest {
	ex, _ := v.fold.Execution(x.id)
	return append([]digest.Digest{ex.Contract.Module, ex.Submission.Input}, ex.ParentOutputs...)
}

// assignedTo reports whether an attempt that has begun assigns the node.
func (v *view) assignedTo(x *tracked, node string) bool {
	ex, _ := v.fold.Execution(x.id)
	attempt, ok := ex.Schedule.FirstAttempt(node)
	return ok && attempt < x.begun
}

func (v *view) own(tenant string) *listing {
	l, ok := v.tenants[tenant]
	if !ok {
		l = new(listing)
		v.tenants[tenant] = l
	}
	return l
}

// visible returns an execution if the tenant may see it; "" sees all. A foreign
// one takes the same path as an unknown one.
func (v *view) visible(id digest.Digest, tenant string) (provenance.Execution, *tracked, error) {
	x, ok := v.executions[id]
	if !ok || (tenant != "" && x.tenant != tenant) {
		return provenance.Execution{}, nil, errUnknownExecution()
	}
	ex, _ := v.fold.Execution(id)
	return ex, x, nil
}

func errUnknownExecution() *Error {
	return refuse(CodeExecutionUnknown, "no such execution for this caller: check the execution id")
}

// cover notes a witnessed checkpoint and returns the executions whose records
// are covered by now. A record may be applied only after the checkpoint that
// covers it was noted: an entry can be sequenced and published while others are
// applied. The caller holds the write lock.
func (v *view) cover(size int64) []mark {
	v.covered = max(v.covered, size)
	n := 0
	for n < len(v.marks) && v.marks[n].index < v.covered {
		n++
	}
	due := v.marks[:n:n]
	v.marks = v.marks[n:]
	return due
}
