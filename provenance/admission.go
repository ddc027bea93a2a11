package provenance

import (
	"bytes"
	"crypto/ed25519"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// The rules for records that tenants and admins cause: the first rows of the
// table in docs/formats/execution.md, "The fold".

func (f *Fold) judgeEpoch(index int64, e *pb.EpochRecord) (Effect, commit) {
	epoch := e.GetEpoch()
	if want := f.epoch + 1; epoch != want && !(f.partial && f.epoch == 0) {
		return void(CodeEpochOrder, "epoch %d, want %d", epoch, want), nil
	}
	if f.epoch == 0 {
		for _, c := range f.contracts { // in a partial fold only
			if c.epoch >= epoch {
				return void(CodeEpochOrder, "epoch %d after a contract of epoch %d", epoch, c.epoch), nil
			}
		}
	}
	state, err := f.members.StateAt(epoch)
	if err != nil {
		return void(CodeEpochUnknown, "the membership log: %v", err), nil
	}
	root, err := f.members.Root(epoch)
	if err != nil {
		return void(CodeEpochUnknown, "the membership log: %v", err), nil
	}
	// The change that makes epoch E is entry E−1, so the log has E entries then.
	switch {
	case e.GetMembershipSize() != epoch:
		return void(CodeEpochDiffers, "membership size %d, want %d", e.GetMembershipSize(), epoch), nil
	case !bytes.Equal(e.GetMembershipRoot(), root[:]):
		return void(CodeEpochDiffers, "membership root %x, want %x", e.GetMembershipRoot(), root[:]), nil
	case !equal(e.GetMembershipHash(), state.MembershipHash()):
		return void(CodeEpochDiffers, "membership hash %x, want %s", e.GetMembershipHash(), state.MembershipHash()), nil
	case !equal(e.GetClusterIdentityHash(), state.IdentityHash()):
		return void(CodeEpochDiffers, "cluster identity hash %x, want %s", e.GetClusterIdentityHash(), state.IdentityHash()), nil
	}
	return Effect{}, func([record.EntrySize]byte) *execution {
		f.epoch = epoch
		f.epochIndexes = append(f.epochIndexes, index)
		return nil
	}
}

func (f *Fold) judgeContract(index int64, r *pb.ContractRecord) (Effect, commit) {
	state, bad := f.stateNow(r.GetEpoch())
	if state == nil {
		return bad, nil
	}
	signed, err := contract.OpenContract(r.GetEnvelope(), f.authority(state, membership.UseContract))
	if err != nil {
		return void(CodeContractInvalid, "%v", err), nil
	}
	c, hash := signed.Value, signed.Hash
	switch {
	case !equal(r.GetContractHash(), hash):
		return void(CodeContractInvalid, "record names contract %x, its envelope is %s", r.GetContractHash(), hash), nil
	case r.GetTenant() != c.Tenant:
		return void(CodeContractInvalid, "record names tenant %q, its envelope %q", clip(r.GetTenant()), c.Tenant), nil
	case f.contracts[hash] != nil:
		return void(CodeContractKnown, "contract %s was registered at index %d", hash, f.contracts[hash].index), nil
	case r.GetModuleSize() > state.Limits().ModuleBytes:
		return void(CodeContractLimits, "module of %d bytes, the cluster takes %d", r.GetModuleSize(), state.Limits().ModuleBytes), nil
	}
	if err := c.Within(state.Limits()); err != nil {
		return void(CodeContractLimits, "%v", err), nil
	}
	return Effect{}, func([record.EntrySize]byte) *execution {
		f.contracts[hash] = &registered{contract: c, index: index, epoch: r.GetEpoch(), moduleSize: r.GetModuleSize(), keyID: dsse.KeyID(signed.Key)}
		return nil
	}
}

func (f *Fold) judgeRetirement(r *pb.RetirementRecord) (Effect, commit) {
	state, bad := f.stateNow(r.GetEpoch())
	if state == nil {
		return bad, nil
	}
	signed, err := contract.OpenRetirement(r.GetEnvelope(), f.authority(state, membership.UseContract))
	if err != nil {
		return void(CodeRetirementInvalid, "%v", err), nil
	}
	ret := signed.Value
	if !equal(r.GetContractHash(), ret.Contract) || r.GetTenant() != ret.Tenant {
		return void(CodeRetirementInvalid, "record and envelope name different contracts or tenants"), nil
	}
	c := f.contracts[ret.Contract]
	switch {
	case c == nil || c.contract.Tenant != ret.Tenant:
		return void(CodeContractUnknown, "tenant %q has no contract %s", ret.Tenant, ret.Contract), nil
	case c.retired:
		return void(CodeContractRetired, "contract %s was retired before", ret.Contract), nil
	}
	return Effect{}, func([record.EntrySize]byte) *execution {
		c.retired = true
		return nil
	}
}

func (f *Fold) judgeRequest(index int64, r *pb.RequestRecord) (Effect, commit) {
	state, bad := f.stateNow(r.GetEpoch())
	if state == nil {
		return bad, nil
	}
	signed, err := contract.OpenSubmission(r.GetEnvelope(), f.authority(state, membership.UseSubmission))
	if err != nil {
		return void(CodeSubmissionInvalid, "%v", err), nil
	}
	sub, id := signed.Value, signed.Value.ExecutionID()
	switch {
	case !equal(r.GetExecutionId(), id) || !equal(r.GetContractHash(), sub.Contract) || r.GetTenant() != sub.Tenant:
		return void(CodeSubmissionInvalid, "record and envelope name different executions, contracts or tenants"), nil
	case f.executions[id] != nil:
		effect := void(CodeExecutionKnown, "execution %s was requested at index %d", id, f.executions[id].RequestIndex)
		return about(effect, f.executions[id]), nil
	case r.GetEpoch() > sub.LastEpoch:
		return void(CodeSubmissionExpired, "epoch %d, the submission may be pinned up to %d", r.GetEpoch(), sub.LastEpoch), nil
	}
	c := f.contracts[sub.Contract]
	if c == nil || c.contract.Tenant != sub.Tenant {
		return void(CodeContractUnknown, "tenant %q has no contract %s", sub.Tenant, sub.Contract), nil
	}
	if effect := f.judgeApplication(c, state); effect.Void {
		return effect, nil
	}
	outputs, effect := f.parentOutputs(sub)
	if effect.Void {
		return effect, nil
	}
	if !state.MeetsQuorum() {
		return void(CodeQuorum, "fewer than %d nodes are members at epoch %d", state.NodeQuorum(), r.GetEpoch()), nil
	}
	schedule, err := state.Schedule(id, ScheduleRequest(c.contract))
	if err != nil {
		return void(CodeEligible, "%v", err), nil
	}
	return Effect{}, func(entry [record.EntrySize]byte) *execution {
		ex := &execution{Execution: Execution{
			ID:               id,
			Tenant:           sub.Tenant,
			Contract:         c.contract,
			ContractHash:     sub.Contract,
			ContractIndex:    c.index,
			Submission:       sub,
			SubmissionDigest: signed.Hash,
			RequestIndex:     index,
			Epoch:            r.GetEpoch(),
			MembershipHash:   state.MembershipHash(),
			Schedule:         schedule,
			ParentOutputs:    outputs,
			State:            StateOpen,
			DecidedAt:        -1,
		}}
		ex.link(index, entry, record.KindRequest)
		f.executions[id] = ex
		f.order = append(f.order, ex)
		return ex
	}
}

// judgeApplication reports why a contract may not be applied in the state of
// the epoch in force.
func (f *Fold) judgeApplication(c *registered, state *membership.State) Effect {
	epoch := state.Epoch()
	switch expires := c.contract.ExpiresEpoch; {
	case c.retired:
		return void(CodeContractRetired, "contract was retired")
	case expires != 0 && epoch > expires:
		return void(CodeContractExpired, "epoch %d, the contract is good up to %d", epoch, expires)
	case f.members.Revoked(c.keyID, c.epoch, epoch):
		return void(CodeContractRevoked, "the key that signed the contract at epoch %d was revoked", c.epoch)
	case c.moduleSize > state.Limits().ModuleBytes:
		return void(CodeContractLimits, "module of %d bytes, the cluster takes %d", c.moduleSize, state.Limits().ModuleBytes)
	}
	if err := c.contract.Within(state.Limits()); err != nil {
		return void(CodeContractLimits, "%v", err)
	}
	return Effect{}
}

// parentOutputs looks up what the parents of a submission put out.
func (f *Fold) parentOutputs(sub *contract.Submission) ([]digest.Digest, Effect) {
	if f.partial {
		return nil, Effect{}
	}
	var outputs []digest.Digest
	for _, id := range sub.Parents {
		parent := f.executions[id]
		switch {
		case parent == nil || parent.Tenant != sub.Tenant:
			return nil, void(CodeParent, "tenant %q has no execution %s", sub.Tenant, id)
		case parent.State != StateComplete:
			return nil, void(CodeParent, "execution %s is %s, not complete", id, parent.State)
		case parent.Outcome.Kind != contract.OutcomeOK:
			return nil, void(CodeParent, "execution %s ended with %q, not \"ok\"", id, parent.Outcome.Kind)
		}
		outputs = append(outputs, parent.Outcome.OutputDigest)
	}
	return outputs, Effect{}
}

func (f *Fold) judgeCancellation(index int64, r *pb.CancellationRecord) (Effect, commit) {
	state, bad := f.stateNow(r.GetEpoch())
	if state == nil {
		return bad, nil
	}
	signed, err := contract.OpenCancellation(r.GetEnvelope(), f.authority(state, membership.UseSubmission))
	if err != nil {
		return void(CodeCancellationInvalid, "%v", err), nil
	}
	c := signed.Value
	if !equal(r.GetExecutionId(), c.Execution) || r.GetTenant() != c.Tenant {
		return void(CodeCancellationInvalid, "record and envelope name different executions or tenants"), nil
	}
	ex := f.executions[c.Execution]
	if ex == nil || ex.Tenant != c.Tenant {
		return void(CodeExecutionUnknown, "tenant %q has no execution %s", c.Tenant, c.Execution), nil
	}
	if ex.State != StateOpen {
		return decided(ex), nil
	}
	return about(Effect{}, ex), func(entry [record.EntrySize]byte) *execution {
		ex.State, ex.DecidedAt = StateCancelled, index
		ex.link(index, entry, record.KindCancellation)
		return ex
	}
}

// ScheduleRequest is what a contract asks of the schedule.
func ScheduleRequest(c *contract.Contract) membership.ScheduleRequest {
	return membership.ScheduleRequest{Nodes: c.Nodes, Step: c.Step, MaxAssigned: c.MaxAssigned,
		MinTrust: c.MinTrustLevel, Labels: c.NodeLabels}
}

// stateNow returns the membership state of the epoch that a record states,
// which must be the one in force. On failure the state is nil.
func (f *Fold) stateNow(epoch uint64) (*membership.State, Effect) {
	if epoch != f.epoch && f.epoch != 0 {
		return nil, void(CodeStaleEpoch, "states epoch %d, in force is %d", epoch, f.epoch)
	}
	state, err := f.members.StateAt(epoch)
	if err != nil {
		return nil, void(CodeEpochUnknown, "the membership log: %v", err)
	}
	return state, Effect{}
}

// authority accepts the keys that tenants hold for a use at a state.
func (f *Fold) authority(state *membership.State, use membership.Use) contract.Authority {
	return contract.Authority{Cluster: f.cluster, Keys: func(tenant string) []ed25519.PublicKey {
		p, ok := state.Principal(tenant)
		if !ok || p.Kind != membership.KindTenant {
			return nil
		}
		return p.KeysFor(use)
	}}
}

func equal(b []byte, d digest.Digest) bool { return bytes.Equal(b, d[:]) }
