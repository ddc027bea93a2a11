package membership

import (
	"bytes"
	"slices"

	"github.com/tallystick/tallystick/internal/digest"
)

// A draft is the state that a change is about to make. It belongs to one call.
type draft struct {
	old   *State // the state before; nil at genesis
	next  *State // becomes visible when sealed
	added []Key  // public keys that the state before did not have

	// Leaves that differ from old's, from (inclusive) to to (exclusive).
	from, to uint64
}

// newDraft begins the epoch after old with everything as it was.
func newDraft(old *State) *draft {
	next := old.light()
	next.epoch++
	return &draft{old: old, next: next}
}

// newGenesisDraft begins epoch 1 of a cluster with nothing in it.
func newGenesisDraft(cluster string) *draft {
	return &draft{next: &State{cluster: cluster, epoch: 1, protocolVersion: ProtocolVersion}}
}

// put adds p, or replaces the principal with p's id. Keys are not checked.
func (d *draft) put(p Principal) error {
	data, err := p.LeafData()
	if err != nil {
		return refuseCause(RefusedValue, err)
	}
	s := d.next
	rank, exists := s.members.rank(p.ID)
	if exists {
		d.count(s.members.at(rank), -1)
		d.touch(uint64(rank), uint64(rank)+1)
	}
	m := &member{Principal: p, leaf: hashLeaf(data)}
	s.members = s.members.with(m)
	d.count(m, +1)
	if !exists {
		d.touch(uint64(rank), s.Count())
	}
	return nil
}

// take removes a principal and its keys.
func (d *draft) take(m *member) {
	s := d.next
	rank, _ := s.members.rank(m.ID)
	s.members = s.members.without(m.ID)
	d.count(m, -1)
	d.touch(uint64(rank), s.Count())
	for _, k := range m.Keys {
		s.keys = s.keys.without(k.ID())
	}
}

// count keeps the totals by kind: by is 1 or -1.
func (d *draft) count(m *member, by int) {
	switch {
	case m.Kind == KindNode:
		d.next.nodes += uint64(by) // wraps around for -1
	case m.Kind == KindAdmin && m.holds(UseChange):
		d.next.changers += uint64(by)
	}
}

func (d *draft) touch(from, to uint64) {
	if d.from == d.to {
		d.from, d.to = from, to
		return
	}
	d.from, d.to = min(d.from, from), max(d.to, to)
}

// addKey enters a key of a principal; its public key must be new to the state.
func (d *draft) addKey(principal string, k Key) error {
	id := k.ID()
	if h, ok := d.next.keys.get(id); ok {
		return refuse(RefusedKeyExists, "key %s of %q is held by %q already", id, principal, h.principal)
	}
	d.next.keys = d.next.keys.with(keyHolder{keyID: id, principal: principal})
	d.added = append(d.added, k)
	return nil
}

// admit adds a principal that must be new, with its keys.
func (d *draft) admit(p Principal) error {
	if _, exists := d.next.members.get(p.ID); exists {
		return refuse(RefusedExists, "%q is a member already", p.ID)
	}
	if d.next.members.len() == MaxPrincipals {
		return refuse(RefusedFull, "the cluster has %d principals", MaxPrincipals)
	}
	for _, k := range p.Keys {
		if err := d.addKey(p.ID, k); err != nil {
			return err
		}
	}
	return d.put(p)
}

// member returns a principal that must exist.
func (d *draft) member(id string) (*member, error) {
	m, ok := d.next.members.get(id)
	if !ok {
		return nil, refuse(RefusedUnknownPrincipal, "%q is not a member", id)
	}
	return m, nil
}

// checkLockOut refuses a state in which no change could be signed any more.
func (d *draft) checkLockOut() error {
	if s := d.next; s.adminThreshold > s.changers {
		return refuse(RefusedLockOut, "admin threshold would be %d with %d admins that hold a key with use %q",
			s.adminThreshold, s.changers, UseChange)
	}
	return nil
}

// seal computes the hashes and returns the state, which differs from the old.
func (d *draft) seal() (*State, error) {
	s := d.next
	switch {
	case d.old == nil:
		s.tree()
	case d.from == d.to && s.Count() == d.old.Count():
		s.cachedTree.Store(d.old.tree())
	default:
		s.cachedTree.Store(d.old.tree().with(s.Count(), d.from, d.to, s.leavesFrom(int(d.from))))
	}
	s.hash = s.tree().root()
	var err error
	if s.identity, err = s.identityHash(); err != nil {
		return nil, refuseCause(RefusedValue, err)
	}
	if d.old != nil && s.identity == d.old.identity {
		return nil, refuse(RefusedNoChange, "the state would be that of epoch %d", d.old.epoch)
	}
	return s, nil
}

func (e Founding) apply(d *draft) error {
	s := d.next
	s.adminThreshold, s.nodeQuorum, s.limits, s.logs = e.AdminThreshold, e.NodeQuorum, e.Limits, e.Logs
	for _, p := range e.Principals {
		if err := d.admit(p); err != nil {
			return err
		}
	}
	return nil
}

func (e AddPrincipal) apply(d *draft) error { return d.admit(e.Principal) }

func (e RemovePrincipal) apply(d *draft) error {
	m, err := d.member(e.ID)
	if err != nil {
		return err
	}
	d.take(m)
	return nil
}

func (e UpdatePrincipal) apply(d *draft) error {
	m, err := d.member(e.ID)
	if err != nil {
		return err
	}
	if m.Kind != KindNode {
		return refuse(RefusedKind, "%q is a principal of kind %q; only nodes have a description", e.ID, m.Kind)
	}
	p := m.Principal
	p.Labels, p.Name, p.TrustLevel = e.Labels, e.Name, e.TrustLevel
	return d.put(p)
}

func (e RotateKey) apply(d *draft) error {
	m, err := d.member(e.ID)
	if err != nil {
		return err
	}
	p := m.Principal
	p.Keys = slices.Clone(p.Keys)
	if e.Add != nil {
		if err := e.Add.validate(p.Kind); err != nil {
			return refuseCause(RefusedValue, err)
		}
		if err := d.addKey(e.ID, *e.Add); err != nil {
			return err
		}
		i, _ := slices.BinarySearchFunc(p.Keys, *e.Add, compareKeys)
		p.Keys = slices.Insert(p.Keys, i, *e.Add)
	}
	if e.Remove != "" {
		i := slices.IndexFunc(m.Keys, func(k Key) bool { return k.ID() == e.Remove })
		if i < 0 {
			return refuse(RefusedUnknownKey, "%q holds no key %s", e.ID, e.Remove)
		}
		removed := m.Keys[i].PublicKey
		p.Keys = slices.DeleteFunc(p.Keys, func(k Key) bool { return bytes.Equal(k.PublicKey, removed) })
		d.next.keys = d.next.keys.without(e.Remove)
	}
	if len(p.Keys) < 1 || len(p.Keys) > MaxKeys {
		return refuse(RefusedKeyCount, "%q would hold %d keys, want 1 to %d", e.ID, len(p.Keys), MaxKeys)
	}
	return d.put(p)
}

func (e SetAdminThreshold) apply(d *draft) error {
	d.next.adminThreshold = e.Threshold
	return nil
}

// A quorum is never set so high that no execution would be accepted. A removal
// may leave fewer nodes than the quorum asks for, though: a node that must go
// goes at once, and work waits for another one.
func (e SetNodeQuorum) apply(d *draft) error {
	if e.Quorum > d.next.nodes {
		return refuse(RefusedQuorum, "node quorum would be %d with %s: no execution would be accepted",
			e.Quorum, plural(d.next.nodes, "node"))
	}
	d.next.nodeQuorum = e.Quorum
	return nil
}

func (e SetClusterLimits) apply(d *draft) error {
	d.next.limits = e.Limits
	return nil
}

func (e SetProtocolVersion) apply(d *draft) error {
	if e.Version != ProtocolVersion {
		return refuse(RefusedVersion, "the change moves the cluster to protocol version %q, known is %q",
			e.Version, ProtocolVersion)
	}
	d.next.protocolVersion = e.Version
	return nil
}

func (e SetLogKeys) apply(d *draft) error {
	log := Log{Origin: d.next.logs.Named(e.Log).Origin, Keys: e.Keys, ReceiptKeys: e.ReceiptKeys}
	if err := log.validate(); err != nil {
		return refuseCause(RefusedValue, err)
	}
	d.next.logs = d.next.logs.with(e.Log, log)
	return nil
}

func (e ConfirmSuccessorLog) apply(d *draft) error {
	logs := d.next.logs
	for _, name := range []LogName{LogAudit, LogMembership} {
		if o := logs.Named(name).Origin; e.NewOrigin == o || e.NewOrigin == o+receiptSuffix {
			return refuse(RefusedValue, "new origin %q is in use for the %s log", e.NewOrigin, name)
		}
	}
	if err := checkCheckpoint(logs.Named(e.Log), e.Checkpoint); err != nil {
		return refuseCause(RefusedCheckpoint, err)
	}
	d.next.logs = logs.with(e.Log, Log{Origin: e.NewOrigin, Keys: e.NewKeys, ReceiptKeys: e.NewReceiptKeys})
	return nil
}

// noPrevious is what genesis names as the payload before it.
var noPrevious digest.Digest
