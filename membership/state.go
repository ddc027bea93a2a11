package membership

import (
	"iter"
	"sync/atomic"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
)

// A State is the membership of a cluster at one epoch. It is immutable and safe
// for concurrent use; what its methods return must not be changed.
type State struct {
	cluster         string
	epoch           uint64
	members         sorted[*member]   // by principal id
	keys            sorted[keyHolder] // by key id: every key of every member
	adminThreshold  uint64
	nodeQuorum      uint64
	limits          contract.ClusterLimits
	logs            Logs
	protocolVersion string
	payloadDigest   digest.Digest // of the payload of the change that made this epoch

	nodes       uint64 // members of kind node
	changers    uint64 // admins that hold a key with use change
	hash        digest.Digest
	identity    digest.Digest
	cachedTree  atomic.Pointer[tree]      // derived from members, nil until used
	cachedNodes atomic.Pointer[[]*member] // nodes that can attest, nil until used
	// cachedEligible are those of cachedNodes that the constraint of the last
	// schedule admits: executions of one contract follow each other.
	cachedEligible atomic.Pointer[eligible]
}

// A member is one principal of a state with its leaf hash; immutable.
type member struct {
	Principal
	leaf digest.Digest
}

func (m *member) sortKey() string { return m.ID }

// A keyHolder says which principal holds a key.
type keyHolder struct{ keyID, principal string }

func (k keyHolder) sortKey() string { return k.keyID }

// Cluster returns the cluster's id.
func (s *State) Cluster() string { return s.cluster }

// Epoch returns the number of this state, from 1.
func (s *State) Epoch() uint64 { return s.epoch }

// Count returns the number of principals.
func (s *State) Count() uint64 { return uint64(s.members.len()) }

// Principals iterates over all principals, ascending by id.
func (s *State) Principals() iter.Seq[Principal] {
	return func(yield func(Principal) bool) {
		for m := range s.members.from(0) {
			if !yield(m.Principal) {
				return
			}
		}
	}
}

// Principal returns the principal with this id.
func (s *State) Principal(id string) (Principal, bool) {
	m, ok := s.members.get(id)
	if !ok {
		return Principal{}, false
	}
	return m.Principal, true
}

// KeyHolder returns the principal that holds the key with this id, whatever the
// key's uses.
func (s *State) KeyHolder(keyID string) (Principal, bool) {
	h, ok := s.keys.get(keyID)
	if !ok {
		return Principal{}, false
	}
	return s.Principal(h.principal)
}

// Nodes returns the principals of kind node, ascending by id.
func (s *State) Nodes() []Principal {
	nodes := make([]Principal, 0, s.nodes)
	for m := range s.members.from(0) {
		if m.Kind == KindNode {
			nodes = append(nodes, m.Principal)
		}
	}
	return nodes
}

// AdminThreshold returns how many admins must sign a change.
func (s *State) AdminThreshold() uint64 { return s.adminThreshold }

// NodeQuorum returns how many nodes must be members for executions to be
// accepted.
func (s *State) NodeQuorum() uint64 { return s.nodeQuorum }

// MeetsQuorum reports whether as many nodes are members as the quorum asks for.
func (s *State) MeetsQuorum() bool { return s.nodes >= s.nodeQuorum }

// Limits returns what contracts may ask for.
func (s *State) Limits() contract.ClusterLimits { return s.limits }

// Logs returns origins and keys of the cluster's logs.
func (s *State) Logs() Logs { return s.logs }

// ProtocolVersion returns the version that the cluster speaks.
func (s *State) ProtocolVersion() string { return s.protocolVersion }

// PayloadDigest returns the digest of the payload of the change that made this
// epoch, which the next change names as its previous.
func (s *State) PayloadDigest() digest.Digest { return s.payloadDigest }

// MembershipHash returns the RFC 6962 root hash over the leaf data of all
// principals, ascending by id.
func (s *State) MembershipHash() digest.Digest { return s.hash }

// IdentityHash returns the cluster identity hash, which binds the whole state.
func (s *State) IdentityHash() digest.Digest { return s.identity }

// tree returns the hashes over the members, built when first used.
func (s *State) tree() *tree {
	if t := s.cachedTree.Load(); t != nil {
		return t
	}
	n := s.Count()
	t := new(tree).with(n, 0, n, s.leavesFrom(0))
	s.cachedTree.Store(t) // a concurrent builder stores an equal one
	return t
}

func (s *State) leavesFrom(i int) iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		for m := range s.members.from(i) {
			if !yield(m.leaf) {
				return
			}
		}
	}
}

// attesters returns the nodes that hold an attestation key, ascending by id.
func (s *State) attesters() []*member {
	if list := s.cachedNodes.Load(); list != nil {
		return *list
	}
	var list []*member
	for m := range s.members.from(0) {
		if m.Kind == KindNode && m.holds(UseAttestation) {
			list = append(list, m)
		}
	}
	s.cachedNodes.Store(&list) // a concurrent builder stores an equal one
	return list
}

// holds reports whether p has a key with this use.
func (p *Principal) holds(use Use) bool {
	for _, k := range p.Keys {
		if k.Has(use) {
			return true
		}
	}
	return false
}

// light returns the same state without what can be derived again.
func (s *State) light() *State {
	return &State{
		cluster:         s.cluster,
		epoch:           s.epoch,
		members:         s.members,
		keys:            s.keys,
		adminThreshold:  s.adminThreshold,
		nodeQuorum:      s.nodeQuorum,
		limits:          s.limits,
		logs:            s.logs,
		protocolVersion: s.protocolVersion,
		payloadDigest:   s.payloadDigest,
		nodes:           s.nodes,
		changers:        s.changers,
		hash:            s.hash,
		identity:        s.identity,
	}
}

// identityHash computes the cluster identity hash over the fields of s.
func (s *State) identityHash() (digest.Digest, error) {
	limits, err := strictjson.Marshal(s.limits)
	if err != nil {
		return digest.Digest{}, err
	}
	logs, err := strictjson.Marshal(s.logs)
	if err != nil {
		return digest.Digest{}, err
	}
	return digest.New("tallystick/v1/cluster-identity").
		Text(s.cluster).
		Digest(s.hash).
		Uint(s.Count()).
		Uint(s.adminThreshold).
		Uint(s.nodeQuorum).
		Bytes(limits).
		Bytes(logs).
		Text(s.protocolVersion).
		Sum(), nil
}
