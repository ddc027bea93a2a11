// Package testcluster makes whole clusters in memory for tests: membership and
// audit log with real Merkle trees, real signatures by logs, witnesses, admins,
// tenants and nodes, and proof bundles over them. Only tests may import it.
//
// Everything is a function of the calls made: keys come from names, salts from
// indexes, times from a counter. The same calls make the same bytes. Its keys
// are therefore known to everybody and worth nothing.
//
// Calls that cannot go wrong in a correct program end the test when they do. A
// Cluster belongs to the test's goroutine.
package testcluster

import (
	"crypto/ed25519"
	"crypto/sha256"
	"strconv"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Options says what cluster to make. The zero value is the smallest ordinary
// one: three nodes, one tenant, three witnesses of which two must cosign.
type Options struct {
	Name      string // of the cluster; "" means "demo"
	Nodes     int    // node-1 to node-n; 0 means 3
	Witnesses int    // of each log; 0 means 3
	Quorum    int    // witnesses that must cosign; 0 means 2
}

// The members of every cluster besides its nodes.
const (
	Admin  = "admin-1"
	Tenant = "tenant-1"
	Other  = "tenant-2" // another tenant, for what must not work across tenants
)

// Cluster is a running cluster: its two logs and the folds over them.
type Cluster struct {
	Name             string
	Genesis          []byte // the first change's envelope
	History          *membership.History
	Fold             *provenance.Fold
	Audit            *Log
	Membership       *Log
	AuditPolicy      *checkpoint.Policy
	MembershipPolicy *checkpoint.Policy
	// PolicyText has the policy files that the two policies were read from.
	PolicyText struct{ Audit, Membership []byte }

	t        testing.TB
	nonce    uint64                   // submissions made
	requests map[digest.Digest]string // request checkpoints by execution
}

// New makes a cluster at epoch 1, whose epoch record is entry 0 of the audit log.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Name == "" {
		o.Name = "demo"
	}
	o.Nodes, o.Witnesses, o.Quorum = or(o.Nodes, 3), or(o.Witnesses, 3), or(o.Quorum, 2)
	c := &Cluster{Name: o.Name, History: membership.NewHistory(), t: t, requests: map[digest.Digest]string{}}
	c.Audit = newLog(t, membership.Origin(o.Name, membership.LogAudit), o.Witnesses)
	c.Membership = newLog(t, membership.Origin(o.Name, membership.LogMembership), o.Witnesses)
	c.AuditPolicy, c.PolicyText.Audit = c.Audit.policy(o.Quorum)
	c.MembershipPolicy, c.PolicyText.Membership = c.Membership.policy(o.Quorum)
	c.Fold = provenance.NewFold(o.Name, c.History)
	c.found(o.Nodes)
	return c
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// Key returns the private key of a name. Members of a cluster have one key for
// each use, named "<id>/<use>": "node-1/attestation", "tenant-1/submission".
func Key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("tallystick test key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Public returns the public key of a name.
func Public(name string) ed25519.PublicKey { return Key(name).Public().(ed25519.PublicKey) }

// NewKey returns a membership key of a name.
func NewKey(name string, uses ...membership.Use) membership.Key {
	return membership.Key{Algorithm: membership.AlgorithmEd25519, PublicKey: Public(name), Uses: uses}
}

// NewPrincipal returns a principal with one key for each use.
func NewPrincipal(id string, kind membership.Kind, uses ...membership.Use) membership.Principal {
	p := membership.Principal{ID: id, Kind: kind}
	for _, use := range uses {
		p.Keys = append(p.Keys, NewKey(id+"/"+string(use), use))
	}
	return p
}

// NewNode returns a node.
func NewNode(id string) membership.Principal {
	return NewPrincipal(id, membership.KindNode, membership.UseAttestation, membership.UseToken)
}

// found makes epoch 1.
func (c *Cluster) found(nodes int) {
	c.t.Helper()
	founding := membership.Founding{
		AdminThreshold: 1,
		Limits:         contract.DefaultClusterLimits(),
		Logs:           membership.Logs{Audit: c.Audit.known(), Membership: c.Membership.known()},
		NodeQuorum:     1,
		Principals: []membership.Principal{
			NewPrincipal(Admin, membership.KindAdmin, membership.UseChange),
			NewPrincipal(Tenant, membership.KindTenant, membership.UseContract, membership.UseSubmission, membership.UseToken),
			NewPrincipal(Other, membership.KindTenant, membership.UseContract, membership.UseSubmission, membership.UseToken),
		},
	}
	signers := []string{Admin + "/change"}
	for _, id := range []string{Tenant, Other} {
		signers = append(signers, id+"/contract", id+"/submission", id+"/token")
	}
	for i := range nodes {
		id := NodeID(i + 1)
		founding.Principals = append(founding.Principals, NewNode(id))
		signers = append(signers, id+"/attestation", id+"/token")
	}
	payload, err := membership.ProposeGenesis(c.Name, founding)
	c.must(err)
	c.Genesis = c.Envelope(membership.PayloadType, payload, signers...)
	c.append(c.Genesis)
}

// NodeID returns the id of the n-th node, from 1.
func NodeID(n int) string { return "node-" + strconv.Itoa(n) }

// Change makes the next epoch, signed by the admin and by the keys named in
// addition, and appends its epoch record.
func (c *Cluster) Change(effect membership.Effect, alsoSign ...string) provenance.Effect {
	c.t.Helper()
	payload, err := c.History.Current().Propose(effect)
	c.must(err)
	return c.append(c.Envelope(membership.PayloadType, payload, append([]string{Admin + "/change"}, alsoSign...)...))
}

// AddNode makes the next epoch by adding a node.
func (c *Cluster) AddNode(id string) {
	c.t.Helper()
	c.Change(membership.AddPrincipal{Principal: NewNode(id)}, id+"/attestation", id+"/token")
}

// append takes a change into the membership log and mirrors its epoch.
func (c *Cluster) append(envelope []byte) provenance.Effect {
	c.t.Helper()
	_, err := c.History.Append(envelope)
	c.must(err)
	c.Membership.Append(envelope, nil)
	_, effect := c.Append(c.EpochRecord(c.History.Size()))
	return effect
}

// EpochRecord returns the record of an epoch.
func (c *Cluster) EpochRecord(epoch uint64) *pb.Record {
	c.t.Helper()
	state, err := c.History.StateAt(epoch)
	c.must(err)
	root, err := c.History.Root(epoch)
	c.must(err)
	hash, identity := state.MembershipHash(), state.IdentityHash()
	return c.Fill(&pb.Record{Body: &pb.Record_Epoch{Epoch: &pb.EpochRecord{Epoch: epoch, MembershipSize: epoch,
		MembershipRoot: root[:], MembershipHash: hash[:], ClusterIdentityHash: identity[:]}}})
}

// Append commits to a record in the audit log and folds it. Header fields that
// are empty are filled in.
func (c *Cluster) Append(r *pb.Record) (int64, provenance.Effect) {
	c.t.Helper()
	index := c.Audit.Size()
	c.Fill(r)
	r.TimeUnixMs = 1_767_225_600_000 + uint64(index)*1000
	b, err := record.Marshal(r)
	c.must(err)
	opening, err := record.NewOpening(sha256.Sum256([]byte{'s', byte(index >> 8), byte(index)}), b)
	c.must(err)
	entry := opening.Entry()
	c.Audit.Append(entry[:], opening.Bytes())
	return index, c.Fold.Apply(index, entry, r)
}

// Refold folds the audit log again, by the rules of a whole fold or by those of
// a partial one, which takes more: what a server writes that breaks the rules.
func (c *Cluster) Refold(partial bool) {
	c.t.Helper()
	c.Fold = provenance.NewFold(c.Name, c.History)
	if partial {
		c.Fold = provenance.NewPartialFold(c.Name, c.History)
	}
	for index, data := range c.Audit.Openings {
		opening, err := record.ParseOpening(data)
		c.must(err)
		r, err := record.Parse(opening.Record())
		c.must(err)
		c.Fold.Apply(int64(index), opening.Entry(), r)
	}
}

// Fill completes the header of a record: version, cluster and, where the kind
// wants one, the actor.
func (c *Cluster) Fill(r *pb.Record) *pb.Record {
	if r.ProtocolVersion == "" {
		r.ProtocolVersion = record.Version
	}
	if r.Cluster == "" {
		r.Cluster = c.Name
	}
	switch record.KindOf(r) {
	case record.KindContract, record.KindRetirement, record.KindRequest, record.KindCancellation,
		record.KindAttestation, record.KindOperation:
		if r.Actor == nil {
			r.Actor = &pb.Actor{Principal: Tenant, KeyId: dsse.KeyID(Public(Tenant + "/token")), Method: "test"}
		}
	}
	return r
}

// Envelope signs a payload with the keys of names.
func (c *Cluster) Envelope(payloadType string, payload []byte, names ...string) []byte {
	c.t.Helper()
	var signers []dsse.Signer
	for _, name := range names {
		s, err := dsse.NewSigner(Key(name))
		c.must(err)
		signers = append(signers, s)
	}
	e, err := dsse.Sign(payloadType, payload, signers...)
	c.must(err)
	b, err := e.Marshal()
	c.must(err)
	return b
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}
