package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

const (
	// bundleCacheBytes bounds the proof bundles kept in memory. A parent's is
	// needed once for each node of each child.
	bundleCacheBytes = 64 << 20
	// inlineChanges bounds the membership changes in a bundle, in bytes: half of
	// what a bundle may have, the rest is for the records.
	inlineChanges = provenance.MaxBundleSize / 2
)

// bundleCache keeps bundles, which never change, the latest made.
type bundleCache struct {
	mu    sync.Mutex
	files map[bundleKey][]byte
	order []bundleKey // as made
	bytes int
}

// bundleKey names a bundle.
type bundleKey struct {
	id        digest.Digest
	ancestors bool
	external  bool // leaves the membership log out, for nodes, which have folded it
}

func newBundleCache() *bundleCache { return &bundleCache{files: make(map[bundleKey][]byte)} }

func (c *bundleCache) get(key bundleKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	file, ok := c.files[key]
	return file, ok
}

func (c *bundleCache) put(key bundleKey, file []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.files[key]; ok || len(file) > bundleCacheBytes {
		return
	}
	c.files[key], c.order, c.bytes = file, append(c.order, key), c.bytes+len(file)
	for c.bytes > bundleCacheBytes {
		oldest := c.order[0]
		c.order, c.bytes = c.order[1:], c.bytes-len(c.files[oldest])
		delete(c.files, oldest)
	}
}

// Bundle returns the proof bundle of an execution that has ended, with the
// executions that it descends from if they are asked for; always the same bytes.
// It is CodeProofNotReady until a checkpoint covers the closing record, and
// CodeTooLarge if there are more ancestors than a bundle may have.
func (o *Orchestrator) Bundle(ctx context.Context, id digest.Digest, tenant string, ancestors bool) ([]byte, error) {
	if _, err := o.execution(id, tenant); err != nil {
		return nil, err
	}
	return o.bundle(ctx, bundleKey{id: id, ancestors: ancestors})
}

// execution returns an execution that the tenant may see.
func (o *Orchestrator) execution(id digest.Digest, tenant string) (provenance.Execution, error) {
	if err := o.usable(); err != nil {
		return provenance.Execution{}, err
	}
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	ex, _, err := o.view.visible(id, tenant)
	return ex, err
}

// bundle makes or finds a bundle (docs/formats/bundle.md).
func (o *Orchestrator) bundle(ctx context.Context, key bundleKey) ([]byte, error) {
	if file, ok := o.bundles.get(key); ok {
		return file, nil
	}
	plan, err := o.planBundle(key)
	if err != nil {
		return nil, err
	}
	b, err := o.fillBundle(ctx, plan, key.external)
	if err != nil {
		if errors.Is(err, ErrNotYet) {
			return nil, refuse(CodeProofNotReady, "no witnessed checkpoint covers the closing record yet: try again shortly")
		}
		return nil, err
	}
	file, err := provenance.FormatBundle(b)
	if errors.Is(err, record.ErrTooLarge) || errors.Is(err, provenance.ErrBundleField) && key.ancestors {
		return nil, refuseCause(CodeTooLarge, err, "with its ancestors the bundle is over what one may hold: fetch theirs one by one")
	}
	if err != nil {
		o.log.Error("formatting a proof bundle", "execution", key.id, "err", err)
		return nil, refuseCause(CodeUnavailable, err, "the proof bundle could not be written: tell the operator")
	}
	o.bundles.put(key, file)
	return file, nil
}

// bundlePlan says which records a bundle holds.
type bundlePlan struct {
	main      planned
	ancestors []planned // ascending by their last record
	last      int64     // index of the last record of all
	epoch     uint64    // the last that the membership checkpoint has to cover
}

// planned is one execution of a bundle.
type planned struct {
	id      digest.Digest
	request int64   // index of the request record
	records []int64 // ascending
}

func (p planned) last() int64 { return p.records[len(p.records)-1] }

// planBundle reads from the view what a bundle takes.
func (o *Orchestrator) planBundle(key bundleKey) (*bundlePlan, error) {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	fold, plan := o.view.fold, &bundlePlan{}
	add := func(id digest.Digest) (planned, error) {
		ex, _ := fold.Execution(id)
		content, ok := fold.BundleContent(id)
		if !ok {
			return planned{}, refuse(CodeProofNotReady, "execution %s is %s: there is a proof once it has ended and its end is recorded", id, ex.State)
		}
		p := planned{id, ex.RequestIndex, content.Records}
		plan.last, plan.epoch = max(plan.last, p.last()), max(plan.epoch, content.Epoch)
		return p, nil
	}
	var err error
	if plan.main, err = add(key.id); err != nil || !key.ancestors {
		return plan, err
	}
	ids, ok := fold.Ancestors(key.id)
	if !ok {
		return nil, refuse(CodeTooLarge, "the execution has more than %d ancestors: fetch their bundles one by one", provenance.MaxBundleAncestors)
	}
	records := len(plan.main.records)
	for _, id := range ids {
		p, err := add(id)
		if err != nil {
			return nil, err
		}
		// Before anything is read or proven for it.
		if records += len(p.records); records > provenance.MaxBundleRecords {
			return nil, refuse(CodeTooLarge, "with its ancestors the execution has more than %d records: fetch their bundles one by one", provenance.MaxBundleRecords)
		}
		plan.ancestors = append(plan.ancestors, p)
	}
	slices.SortFunc(plan.ancestors, func(a, b planned) int { return cmp.Compare(a.last(), b.last()) })
	return plan, nil
}

// fillBundle adds checkpoints, proofs, records and changes. Each checkpoint is
// the first that serves, so the bundle is the same whenever it is made. external
// leaves the changes out in any case.
func (o *Orchestrator) fillBundle(ctx context.Context, plan *bundlePlan, external bool) (*pb.ProofBundle, error) {
	b := &pb.ProofBundle{ProtocolVersion: record.Version, Cluster: o.cfg.Cluster}
	note, audit, err := firstCovering(o.cfg.Audit, plan.last)
	if err != nil {
		return nil, err
	}
	b.AuditCheckpoint = note
	main, err := o.provenExecution(ctx, plan.main, audit.Size)
	if err != nil {
		return nil, err
	}
	b.ExecutionId, b.RequestCheckpoint, b.ConsistencyProof, b.Records = main.ExecutionId, main.RequestCheckpoint, main.ConsistencyProof, main.Records
	for _, p := range plan.ancestors {
		a, err := o.provenExecution(ctx, p, audit.Size)
		if err != nil {
			return nil, err
		}
		b.Ancestors = append(b.Ancestors, a)
	}

	note, members, err := firstCovering(o.cfg.Membership, int64(plan.epoch)-1)
	if err != nil {
		return nil, err
	}
	b.MembershipCheckpoint, b.ExternalMembership = note, external
	if external {
		return b, nil
	}
	size := 0
	for epoch := uint64(1); epoch <= uint64(members.Size); epoch++ {
		_, envelope, err := o.history.Change(epoch)
		if err != nil {
			return nil, o.readError(ctx, err)
		}
		b.MembershipChanges = append(b.MembershipChanges, envelope)
		size += len(envelope)
	}
	if size > inlineChanges || len(b.MembershipChanges) > provenance.MaxBundleChanges {
		b.MembershipChanges, b.ExternalMembership = nil, true
	}
	return b, nil
}

// provenExecution proves the records of an execution in the tree of the given
// size, and its request checkpoint to be one of that tree.
func (o *Orchestrator) provenExecution(ctx context.Context, p planned, size int64) (*pb.ProvenExecution, error) {
	note, request, err := firstCovering(o.cfg.Audit, p.request)
	if err != nil {
		return nil, err
	}
	hashes, err := o.cfg.Audit.ConsistencyProof(request.Size, size)
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	records, err := o.provenAll(ctx, p.records, size)
	if err != nil {
		return nil, err
	}
	return &pb.ProvenExecution{ExecutionId: p.id[:], RequestCheckpoint: note, ConsistencyProof: rawHashes(hashes), Records: records}, nil
}

// proven returns a record of the audit log with its proof in the tree of the
// given size.
func (o *Orchestrator) proven(ctx context.Context, index, size int64) (*pb.ProvenRecord, error) {
	opening, err := o.opening(ctx, index)
	if err != nil {
		return nil, err
	}
	proof, err := o.cfg.Audit.InclusionProof(index, size)
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	return &pb.ProvenRecord{Index: uint64(index), Opening: opening, InclusionProof: rawHashes(proof)}, nil
}

// provenAll is proven for several records.
func (o *Orchestrator) provenAll(ctx context.Context, indexes []int64, size int64) ([]*pb.ProvenRecord, error) {
	var out []*pb.ProvenRecord
	for _, index := range indexes {
		r, err := o.proven(ctx, index, size)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Provenance returns the provenance record with its proof.
func (o *Orchestrator) Provenance(ctx context.Context, id digest.Digest, tenant string) (*pb.GetExecutionProvenanceResponse, error) {
	ex, err := o.execution(id, tenant)
	if err != nil {
		return nil, err
	}
	index, ok := linkOf(&ex, record.KindProvenance)
	if !ok {
		return nil, refuse(CodeProofNotReady, "the execution is %s: there is provenance once it is complete and recorded", ex.State)
	}
	note, c, err := firstCovering(o.cfg.Audit, index)
	if err != nil {
		return nil, o.notYet(ctx, err)
	}
	r, err := o.proven(ctx, index, c.Size)
	if err != nil {
		return nil, err
	}
	return &pb.GetExecutionProvenanceResponse{Provenance: proto.CloneOf(ex.Provenance()), Record: r, Checkpoint: note}, nil
}

// Chain returns the provenance chain of an execution as far as the newest
// published checkpoint covers it.
func (o *Orchestrator) Chain(ctx context.Context, id digest.Digest, tenant string) (*pb.VerifyProvenanceChainResponse, error) {
	ex, err := o.execution(id, tenant)
	if err != nil {
		return nil, err
	}
	note, c, err := published(o.cfg.Audit)
	if err != nil {
		return nil, o.notYet(ctx, err)
	}
	out := &pb.VerifyProvenanceChainResponse{Checkpoint: note}
	for _, link := range ex.Chain {
		if link.Index >= c.Size {
			break
		}
		r, err := o.proven(ctx, link.Index, c.Size)
		if err != nil {
			return nil, err
		}
		out.Links = append(out.Links, &pb.ChainLink{Record: r, Hash: link.Hash[:]})
	}
	return out, nil
}

// notYet answers a read that needs a checkpoint.
func (o *Orchestrator) notYet(ctx context.Context, err error) error {
	if errors.Is(err, ErrNotYet) {
		return refuse(CodeProofNotReady, "no witnessed checkpoint covers it yet: try again shortly")
	}
	return o.readError(ctx, err)
}

// rawHashes gives hashes the form of a message's field.
func rawHashes(hashes []tlog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
