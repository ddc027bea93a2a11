package orchestrator

import (
	"context"
	"errors"
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
	files map[digest.Digest][]byte
	order []digest.Digest // as made
	bytes int
}

func newBundleCache() *bundleCache { return &bundleCache{files: make(map[digest.Digest][]byte)} }

func (c *bundleCache) get(id digest.Digest) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	file, ok := c.files[id]
	return file, ok
}

func (c *bundleCache) put(id digest.Digest, file []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.files[id]; ok || len(file) > bundleCacheBytes {
		return
	}
	c.files[id], c.order, c.bytes = file, append(c.order, id), c.bytes+len(file)
	for c.bytes > bundleCacheBytes {
		oldest := c.order[0]
		c.order, c.bytes = c.order[1:], c.bytes-len(c.files[oldest])
		delete(c.files, oldest)
	}
}

// Bundle returns the proof bundle of a complete execution, always the same
// bytes. It is CodeProofNotReady until a checkpoint covers the provenance record.
func (o *Orchestrator) Bundle(ctx context.Context, id digest.Digest, tenant string) ([]byte, error) {
	if _, err := o.execution(id, tenant); err != nil {
		return nil, err
	}
	return o.bundle(ctx, id)
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
func (o *Orchestrator) bundle(ctx context.Context, id digest.Digest) ([]byte, error) {
	if file, ok := o.bundles.get(id); ok {
		return file, nil
	}
	o.view.mu.RLock()
	content, ok := o.view.fold.BundleContent(id)
	ex, _ := o.view.fold.Execution(id)
	o.view.mu.RUnlock()
	if !ok {
		return nil, refuse(CodeProofNotReady, "the execution is %s: there is a proof once it is complete and recorded", ex.State)
	}
	b := &pb.ProofBundle{ProtocolVersion: record.Version, Cluster: o.cfg.Cluster, ExecutionId: id[:]}
	if err := o.fillBundle(ctx, b, &ex, content); err != nil {
		if errors.Is(err, ErrNotYet) {
			return nil, refuse(CodeProofNotReady, "no witnessed checkpoint covers the provenance record yet: try again shortly")
		}
		return nil, err
	}
	file, err := provenance.FormatBundle(b)
	if err != nil {
		o.log.Error("formatting a proof bundle", "execution", id, "err", err)
		return nil, refuseCause(CodeUnavailable, err, "the proof bundle could not be written: tell the operator")
	}
	o.bundles.put(id, file)
	return file, nil
}

// fillBundle adds checkpoints, proofs, records and changes. Each checkpoint is
// the first that serves, so the bundle is the same whenever it is made.
func (o *Orchestrator) fillBundle(ctx context.Context, b *pb.ProofBundle, ex *provenance.Execution, content provenance.BundleContent) error {
	last := content.Records[len(content.Records)-1] // the provenance record
	note, audit, err := firstCovering(o.cfg.Audit, last)
	if err != nil {
		return err
	}
	b.AuditCheckpoint = note
	note, request, err := firstCovering(o.cfg.Audit, ex.RequestIndex)
	if err != nil {
		return err
	}
	b.RequestCheckpoint = note
	hashes, err := o.cfg.Audit.ConsistencyProof(request.Size, audit.Size)
	if err != nil {
		return o.readError(ctx, err)
	}
	b.ConsistencyProof = rawHashes(hashes)

	note, members, err := firstCovering(o.cfg.Membership, int64(content.Epoch)-1)
	if err != nil {
		return err
	}
	b.MembershipCheckpoint = note
	size := 0
	for epoch := uint64(1); epoch <= uint64(members.Size); epoch++ {
		_, envelope, err := o.history.Change(epoch)
		if err != nil {
			return o.readError(ctx, err)
		}
		b.MembershipChanges = append(b.MembershipChanges, envelope)
		size += len(envelope)
	}
	if size > inlineChanges || len(b.MembershipChanges) > provenance.MaxBundleChanges {
		b.MembershipChanges, b.ExternalMembership = nil, true
	}
	b.Records, err = o.provenAll(ctx, content.Records, audit.Size)
	return err
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
