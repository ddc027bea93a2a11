package orchestrator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"strings"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// statement is what the tenant signed, before its signature is verified: the
// fold verifies it when it judges the record.
type statement[T any] struct {
	value   *T
	payload []byte
	hash    digest.Digest // of the payload
}

// readStatement takes an envelope apart and refuses what was signed for another
// cluster or tenant than the caller's.
func readStatement[T any](envelope []byte, payloadType string, parse func([]byte) (*T, error)) (statement[T], error) {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return statement[T]{}, refuseCause(CodeEnvelope, err, "%v: send the envelope as it was signed", err)
	}
	if e.PayloadType != payloadType {
		return statement[T]{}, refuse(CodeEnvelope, "payload type %q, want %q", e.PayloadType, payloadType)
	}
	v, err := parse(e.Payload)
	if err != nil {
		return statement[T]{}, err
	}
	return statement[T]{v, e.Payload, digest.Of(e.Payload)}, nil
}

// checkScope refuses what was signed for another cluster or tenant.
func (o *Orchestrator) checkScope(cluster, tenant, caller string) error {
	if cluster != o.cfg.Cluster {
		return refuse(CodeForeign, "signed for cluster %q, this is %q: sign it for this cluster", cluster, o.cfg.Cluster)
	}
	if tenant != caller {
		return refuse(CodeForeign, "signed for tenant %q, the caller is %q: sign it as the caller", tenant, caller)
	}
	return nil
}

// signedRefusal refuses a payload whose kind has the given code for its rules.
func signedRefusal(err error, rules Code) error {
	var refused *Error
	if errors.As(err, &refused) {
		return refused // it has its code already
	}
	var refusal *contract.RefusalError
	if !errors.As(err, &refusal) {
		return refuseCause(CodeEnvelope, err, "%v", err)
	}
	switch refusal.Code {
	case contract.RefusedEnvelope, contract.RefusedSyntax:
		return refuseCause(CodeEnvelope, err, "%v", err)
	case contract.RefusedVersion:
		return refuseCause(CodeVersion, err, "%v", err)
	case contract.RefusedSigner, contract.RefusedSignature:
		return refuseCause(CodeSignature, err, "%v: sign it with a key of the caller that is valid now and may sign this", err)
	case contract.RefusedCluster:
		return refuseCause(CodeForeign, err, "%v", err)
	}
	return refuseCause(rules, err, "%v", err)
}

// RegisterContract admits a contract envelope. The module may be nil when the
// tenant has put it as a blob before.
func (o *Orchestrator) RegisterContract(ctx context.Context, actor Actor, tenant string, envelope, module []byte) (digest.Digest, Appended, error) {
	if err := o.usable(); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	s, err := readStatement(envelope, contract.ContractType, contract.ParseContract)
	if err != nil {
		return digest.Digest{}, Appended{}, signedRefusal(err, CodeContractRules)
	}
	if err := o.checkScope(s.value.Cluster, s.value.Tenant, tenant); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	appended, err := o.registerContract(ctx, actor, s, envelope, module)
	return s.hash, appended, err
}

func (o *Orchestrator) registerContract(ctx context.Context, actor Actor, s statement[contract.Contract], envelope, module []byte) (Appended, error) {
	c := s.value
	if index, ok := o.registeredAt(s.hash); ok {
		if err := checkRepeated(c, module); err != nil {
			return Appended{}, err
		}
		return o.again(ctx, index, envelope, func(keys contract.Authority) error {
			_, err := contract.OpenContract(envelope, keys)
			return err
		}, membership.UseContract)
	}
	if err := o.checkDeliverable(c); err != nil {
		return Appended{}, err
	}
	judge := func(v *view) (proposal, error) {
		epoch := v.fold.Epoch()
		r := header(actor)
		r.Body = &pb.Record_Contract{Contract: &pb.ContractRecord{
			Tenant: c.Tenant, ContractHash: s.hash[:], Epoch: epoch, Envelope: envelope, ModuleSize: uint64(len(module)),
		}}
		p := proposal{record: r, guards: []Register{guardEpoch(epoch)}}
		if _, ok := v.fold.Contract(s.hash); ok {
			return p, nil // another call was faster: the log answers with its index
		}
		return o.judged(v, p)
	}
	module, err := o.findModule(ctx, c, module)
	if err != nil {
		return Appended{}, err
	}
	// The cheap rules first: nothing is compiled or stored for a contract that
	// would be void anyhow.
	o.view.mu.RLock()
	_, err = judge(o.view)
	moduleBytes := o.view.current.Limits().ModuleBytes
	o.view.mu.RUnlock()
	if err != nil {
		return Appended{}, err
	}
	switch err := o.cfg.Admitter.Admit(ctx, s.payload, module, moduleBytes); {
	case errors.Is(err, ErrNotAdmitted):
		return Appended{}, refuseCause(CodeModule, err, "%s", strings.TrimPrefix(err.Error(), ErrNotAdmitted.Error()+": "))
	case ctx.Err() != nil:
		return Appended{}, ctx.Err()
	case err != nil:
		o.log.Error("admitting a module", "err", err)
		return Appended{}, refuseCause(CodeBusy, err, "the module could not be checked now: try again")
	}
	if _, err := o.PutBlob(ctx, c.Tenant, module); err != nil {
		return Appended{}, err
	}
	return o.commit(ctx, judge)
}

// checkDeliverable refuses a contract under which a node could find an outcome
// whose payloads it cannot put. The cluster's limits do not know this bound: it is
// this service's, and no rule of the fold.
func (o *Orchestrator) checkDeliverable(c *contract.Contract) error {
	name, limit := "output_bytes", c.Limits.OutputBytes
	if c.Limits.DiagnosticsBytes > limit {
		name, limit = "diagnostics_bytes", c.Limits.DiagnosticsBytes
	}
	if limit > o.cfg.MaxPayload {
		return refuse(CodeContractRules, "%s is %d, and nodes can deliver at most %d: ask for less", name, limit, o.cfg.MaxPayload)
	}
	return nil
}

// findModule returns the module that a contract names: the one sent, or the
// tenant's blob.
func (o *Orchestrator) findModule(ctx context.Context, c *contract.Contract, module []byte) ([]byte, error) {
	if len(module) == 0 {
		module, err := o.blobs.Get(ctx, c.Tenant, c.Module)
		if errors.Is(err, ErrNoBlob) {
			return nil, refuse(CodeModuleMissing, "no module %v: send it with the contract, or put it as a blob first", c.Module)
		}
		if err != nil {
			return nil, o.blobError(ctx, err)
		}
		return module, nil
	}
	switch err := c.CheckModule(module, o.now().Limits()); {
	case errors.Is(err, contract.RefusedLimits):
		return nil, refuseCause(CodeTooLarge, err, "%v", err)
	case err != nil:
		return nil, refuseCause(CodeModuleDigest, err, "%v", err)
	}
	return module, nil
}

// checkRepeated refuses a module that was sent with a known contract and is not
// the one that it names. Limits were checked when it was admitted.
func checkRepeated(c *contract.Contract, module []byte) error {
	if len(module) == 0 {
		return nil
	}
	if err := c.CheckModule(module, contract.ClusterLimits{ModuleBytes: uint64(len(module))}); err != nil {
		return refuseCause(CodeModuleDigest, err, "%v", err)
	}
	return nil
}

// judged returns the proposal if the fold would find its record valid.
func (o *Orchestrator) judged(v *view, p proposal) (proposal, error) {
	p.record.ProtocolVersion, p.record.Cluster = record.Version, o.cfg.Cluster
	if effect := v.fold.Check(p.record); effect.Void {
		return proposal{}, voidRefusal(effect)
	}
	return p, nil
}

// registeredAt returns the index of a contract's record.
func (o *Orchestrator) registeredAt(hash digest.Digest) (int64, bool) {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	c, ok := o.view.fold.Contract(hash)
	return c.Index, ok
}

// again answers an operation whose record the log holds already. The payload is
// the same; the envelope must be the one of the record, or verify by itself.
func (o *Orchestrator) again(ctx context.Context, index int64, envelope []byte, verify func(contract.Authority) error, use membership.Use) (Appended, error) {
	a, err := o.earlier(ctx, index)
	if err != nil {
		return Appended{}, err
	}
	if bytes.Contains(a.Opening, envelope) {
		return a, nil
	}
	state := o.now()
	authority := contract.Authority{Cluster: o.cfg.Cluster, Keys: func(tenant string) []ed25519.PublicKey {
		p, _ := state.Principal(tenant)
		return p.KeysFor(use)
	}}
	if err := verify(authority); err != nil {
		return Appended{}, signedRefusal(err, CodeSignature)
	}
	return a, nil
}

// RetireContract withdraws a contract. The digest is the contract hash.
func (o *Orchestrator) RetireContract(ctx context.Context, actor Actor, tenant string, envelope []byte) (digest.Digest, Appended, error) {
	if err := o.usable(); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	s, err := readStatement(envelope, contract.RetirementType, contract.ParseRetirement)
	if err != nil {
		return digest.Digest{}, Appended{}, signedRefusal(err, CodeEnvelope)
	}
	if err := o.checkScope(s.value.Cluster, s.value.Tenant, tenant); err != nil {
		return digest.Digest{}, Appended{}, err
	}
	hash := s.value.Contract
	o.view.mu.RLock()
	index, retired := o.view.retiredAt(hash, tenant)
	o.view.mu.RUnlock()
	if retired {
		appended, err := o.again(ctx, index, envelope, func(keys contract.Authority) error {
			_, err := contract.OpenRetirement(envelope, keys)
			return err
		}, membership.UseContract)
		return hash, appended, err
	}
	appended, err := o.commit(ctx, func(v *view) (proposal, error) {
		epoch := v.fold.Epoch()
		r := header(actor)
		r.Body = &pb.Record_Retirement{Retirement: &pb.RetirementRecord{
			Tenant: tenant, ContractHash: hash[:], Epoch: epoch, Envelope: envelope,
		}}
		p := proposal{record: r,
			guards: []Register{guardEpoch(epoch), guardNotRetired(hash[:])},
			sets:   []Register{{registerRetired(hash[:]), 1}}}
		if _, ok := v.retiredAt(hash, tenant); ok {
			return p, nil // another call was faster: the log answers with its index
		}
		return o.judged(v, p)
	})
	return hash, appended, err
}

// retiredAt returns the index of the retirement of a contract of the tenant.
func (v *view) retiredAt(hash digest.Digest, tenant string) (int64, bool) {
	c, ok := v.fold.Contract(hash)
	if !ok || c.Contract.Tenant != tenant {
		return 0, false
	}
	index, ok := v.retired[hash]
	return index, ok
}

// Contract returns a contract and its envelope.
func (o *Orchestrator) Contract(hash digest.Digest, tenant string) (*pb.ContractSummary, []byte, error) {
	if err := o.usable(); err != nil {
		return nil, nil, err
	}
	o.view.mu.RLock()
	c, ok := o.view.fold.Contract(hash)
	o.view.mu.RUnlock()
	if !ok || (tenant != "" && c.Contract.Tenant != tenant) {
		return nil, nil, refuse(CodeContractUnknown, "no such contract for this caller: check the contract hash")
	}
	r, err := o.recordAt(o.ctx, c.Index)
	if err != nil {
		return nil, nil, err
	}
	return contractSummary(c), r.GetContract().GetEnvelope(), nil
}

func contractSummary(c provenance.RegisteredContract) *pb.ContractSummary {
	return &pb.ContractSummary{
		ContractHash: c.Hash.String(), Tenant: c.Contract.Tenant, Name: c.Contract.Name, Version: c.Contract.Version,
		Module: c.Contract.Module.String(), Retired: c.Retired, Index: uint64(c.Index),
	}
}
