package orchestrator

import (
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// logNamed returns one of the two logs.
func (o *Orchestrator) logNamed(name pb.LogName) (Log, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	switch name {
	case pb.LogName_LOG_NAME_AUDIT:
		return o.cfg.Audit, nil
	case pb.LogName_LOG_NAME_MEMBERSHIP:
		return o.cfg.Membership, nil
	}
	return nil, refuse(CodeArgument, "log %d: name the audit log or the membership log", name)
}

// Checkpoint returns the newest published checkpoint of a log.
func (o *Orchestrator) Checkpoint(name pb.LogName) ([]byte, error) {
	log, err := o.logNamed(name)
	if err != nil {
		return nil, err
	}
	note, err := log.Published()
	if err != nil {
		return nil, o.notYet(o.ctx, err)
	}
	return note, nil
}

// treeSize returns the size that a proof is asked for: 0 means that of the
// published checkpoint. What is not published is not proven here: receipts do
// that.
func (o *Orchestrator) treeSize(log Log, size int64) (int64, error) {
	_, c, err := published(log)
	switch {
	case err != nil:
		return 0, o.notYet(o.ctx, err)
	case size == 0:
		return c.Size, nil
	case size < 0 || size > c.Size:
		return 0, refuse(CodeIndexUnknown, "size %d, the published checkpoint has %d: ask for at most that", size, c.Size)
	}
	return size, nil
}

// InclusionProof proves the entry at index in the tree of the given size, or of
// the published checkpoint if size is 0.
func (o *Orchestrator) InclusionProof(ctx context.Context, name pb.LogName, index, size int64) (*pb.GetInclusionProofResponse, error) {
	log, err := o.logNamed(name)
	if err != nil {
		return nil, err
	}
	if size, err = o.treeSize(log, size); err != nil {
		return nil, err
	}
	if index < 0 || index >= size {
		return nil, refuse(CodeIndexUnknown, "index %d in a tree of size %d: ask for a lower one", index, size)
	}
	proof, err := log.InclusionProof(index, size)
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	leaf, err := leafAt(ctx, log, index)
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	return &pb.GetInclusionProofResponse{Size: uint64(size), LeafHash: leaf[:], Proof: rawHashes(proof)}, nil
}

// leafAt returns the leaf hash of an entry.
func leafAt(ctx context.Context, log Log, index int64) (tlog.Hash, error) {
	var leaf tlog.Hash
	err := log.Entries(ctx, index, index+1, func(_ int64, data, _ []byte) error {
		leaf = tlog.RecordHash(data)
		return nil
	})
	return leaf, err
}

// ConsistencyProof proves that the tree of size newer extends that of size
// older; newer 0 means the published checkpoint.
func (o *Orchestrator) ConsistencyProof(name pb.LogName, older, newer int64) (*pb.GetConsistencyProofResponse, error) {
	log, err := o.logNamed(name)
	if err != nil {
		return nil, err
	}
	if newer, err = o.treeSize(log, newer); err != nil {
		return nil, err
	}
	if older < 0 || older > newer {
		return nil, refuse(CodeIndexUnknown, "size %d is not up to %d: ask for an older tree", older, newer)
	}
	proof, err := log.ConsistencyProof(older, newer)
	if err != nil {
		return nil, o.readError(o.ctx, err)
	}
	return &pb.GetConsistencyProofResponse{NewSize: uint64(newer), Proof: rawHashes(proof)}, nil
}

// TlogProof waits until a witnessed checkpoint covers the index and returns a
// c2sp.org/tlog-proof under the first that does.
func (o *Orchestrator) TlogProof(ctx context.Context, name pb.LogName, index int64) ([]byte, error) {
	log, err := o.logNamed(name)
	if err != nil {
		return nil, err
	}
	if index < 0 || index >= log.Size() {
		return nil, refuse(CodeIndexUnknown, "the log has no index %d yet: ask for a lower one", index)
	}
	note, c, err := o.awaitCovering(ctx, log, index)
	if err != nil {
		return nil, err
	}
	hashes, err := log.InclusionProof(index, c.Size)
	if err != nil {
		return nil, o.readError(ctx, err)
	}
	return checkpoint.Proof{Index: index, Hashes: hashes, Checkpoint: note}.Format(), nil
}

// awaitCovering waits for the first witnessed checkpoint that covers an index.
func (o *Orchestrator) awaitCovering(ctx context.Context, log Log, index int64) ([]byte, checkpoint.Checkpoint, error) {
	for {
		news := o.news.wait()
		note, c, err := firstCovering(log, index)
		if err == nil {
			return note, c, nil
		}
		if !errors.Is(err, ErrNotYet) {
			return nil, checkpoint.Checkpoint{}, o.readError(ctx, err)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, checkpoint.Checkpoint{}, ctx.Err()
		case <-o.ctx.Done():
			return nil, checkpoint.Checkpoint{}, o.usable()
		}
	}
}

// ClusterRoot returns the state of membership and of both logs. Checkpoints
// that nothing has published yet are empty.
func (o *Orchestrator) ClusterRoot() (*pb.GetClusterRootResponse, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	s := o.now()
	out := &pb.GetClusterRootResponse{
		Cluster: o.cfg.Cluster, Epoch: s.Epoch(), MembershipHash: s.MembershipHash().String(), MembershipCount: s.Count(),
		ClusterIdentityHash: s.IdentityHash().String(), AdminThreshold: s.AdminThreshold(), NodeQuorum: s.NodeQuorum(),
		MemberNodes: uint64(len(s.Nodes())), AuditSize: uint64(o.cfg.Audit.Size()),
	}
	var err error
	if out.MembershipCheckpoint, err = o.cfg.Membership.Published(); err != nil && !errors.Is(err, ErrNotYet) {
		return nil, o.readError(o.ctx, err)
	}
	if out.AuditCheckpoint, err = o.cfg.Audit.Published(); err != nil && !errors.Is(err, ErrNotYet) {
		return nil, o.readError(o.ctx, err)
	}
	return out, nil
}

// stateAt returns the membership state of an epoch that is in force or was; 0
// means the current one.
func (o *Orchestrator) stateAt(epoch uint64) (*membership.State, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	current := o.now()
	if epoch == 0 || epoch == current.Epoch() {
		return current, nil
	}
	s, err := o.history.StateAt(epoch)
	if err != nil || epoch > current.Epoch() {
		return nil, refuse(CodeEpochUnknown, "epoch %d, the current one is %d: ask for at most that", epoch, current.Epoch())
	}
	return s, nil
}

// MembershipHash returns the hashes of an epoch; 0 means the current one.
func (o *Orchestrator) MembershipHash(epoch uint64) (*pb.GetMembershipHashResponse, error) {
	s, err := o.stateAt(epoch)
	if err != nil {
		return nil, err
	}
	return &pb.GetMembershipHashResponse{
		Epoch: s.Epoch(), MembershipHash: s.MembershipHash().String(), MembershipCount: s.Count(),
		ClusterIdentityHash: s.IdentityHash().String(),
	}, nil
}

// VerifyMembership proves that a principal is a member at an epoch, or is not.
// It waits until a witnessed checkpoint of the membership log covers the epoch.
func (o *Orchestrator) VerifyMembership(ctx context.Context, principal string, epoch uint64) (*pb.VerifyMembershipResponse, error) {
	if !contract.ValidIdentifier(principal) {
		return nil, refuse(CodeArgument, "%.80q is no identifier: ask for a principal's id", principal)
	}
	s, err := o.stateAt(epoch)
	if err != nil {
		return nil, err
	}
	out := &pb.VerifyMembershipResponse{
		Epoch: s.Epoch(), MembershipCount: s.Count(), MembershipHash: s.MembershipHash().String(),
	}
	var leaves []membership.Leaf
	if _, out.Member = s.Principal(principal); out.Member {
		leaf, err := s.ProveMember(principal)
		if err != nil {
			return nil, o.readError(ctx, err)
		}
		leaves = append(leaves, leaf)
	} else if leaves, err = s.ProveAbsent(principal); err != nil {
		return nil, o.readError(ctx, err)
	}
	for _, l := range leaves {
		out.Leaves = append(out.Leaves, &pb.MembershipLeaf{Index: l.Index, Data: l.Data, InclusionProof: l.Proof})
	}
	if _, out.Change, err = o.history.Change(s.Epoch()); err != nil {
		return nil, o.readError(ctx, err)
	}
	index := int64(s.Epoch()) - 1
	note, c, err := o.awaitCovering(ctx, o.cfg.Membership, index)
	if err != nil {
		return nil, err
	}
	out.MembershipCheckpoint = note
	for _, p := range []struct {
		index int64
		to    *[][]byte
	}{{index, &out.InclusionProof}, {0, &out.GenesisProof}} {
		proof, err := o.cfg.Membership.InclusionProof(p.index, c.Size)
		if err != nil {
			return nil, o.readError(ctx, err)
		}
		*p.to = rawHashes(proof)
	}
	return out, nil
}

// maxChanges bounds the changes of one answer.
const maxChanges = 256

// Changes returns envelopes of changes from an epoch on, at most n, and the
// current epoch.
func (o *Orchestrator) Changes(_ context.Context, from uint64, n int) ([][]byte, uint64, error) {
	if err := o.usable(); err != nil {
		return nil, 0, err
	}
	current := o.now().Epoch()
	if n < 1 || n > maxChanges {
		n = maxChanges
	}
	var out [][]byte
	for epoch := max(from, 1); epoch <= current && len(out) < n; epoch++ {
		_, envelope, err := o.history.Change(epoch)
		if err != nil {
			return nil, 0, o.readError(o.ctx, err)
		}
		out = append(out, envelope)
	}
	return out, current, nil
}
