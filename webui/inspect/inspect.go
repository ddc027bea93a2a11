// Package inspect is what the web page computes by itself: the cluster root, a
// proof bundle, and what the user trusts, each judged by the same packages that
// the verifier's command line uses. Results are values that marshal to JSON.
//
// Everything but [Trust] is suspect: it comes from the server whose claims are
// being judged, or from a file that somebody dropped on the page. Whether Trust
// itself is the user's own or what the server suggested, only the page knows,
// and it says so.
//
// The package is pure: no I/O, no clock, no state; the time is an argument. webui/wasm compiles it for
// the browser.
package inspect

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Trust is what the user relies on: three files, as text and bytes.
type Trust struct {
	AuditPolicy      []byte
	MembershipPolicy []byte
	Genesis          []byte
}

// TrustSummary describes a Trust so that people can compare it with what others
// have.
type TrustSummary struct {
	Cluster       string        `json:"cluster"`
	GenesisDigest string        `json:"genesis_digest"` // SHA-256 of the file
	Admins        []string      `json:"admins"`         // of the genesis, ascending
	Threshold     uint64        `json:"threshold"`      // of admins at genesis
	Audit         PolicySummary `json:"audit"`
	Membership    PolicySummary `json:"membership"`
}

// PolicySummary describes a trust policy.
type PolicySummary struct {
	Digest    string   `json:"digest"` // SHA-256 of the file
	Origin    string   `json:"origin"`
	Witnesses []string `json:"witnesses"` // names, in the order of the file
	NoQuorum  bool     `json:"no_quorum"` // asks for no cosignature: shows no split view
}

// Summarize reads a Trust. Its error names the file that is at fault.
func Summarize(t Trust) (*TrustSummary, error) {
	state, _, err := membership.Genesis(t.Genesis)
	if err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	s := &TrustSummary{
		Cluster:       state.Cluster(),
		GenesisDigest: digest.Of(t.Genesis).String(),
		Threshold:     state.AdminThreshold(),
	}
	for p := range state.Principals() {
		if p.Kind == membership.KindAdmin {
			s.Admins = append(s.Admins, p.ID)
		}
	}
	for _, p := range []struct {
		name string
		text []byte
		to   *PolicySummary
	}{{"audit policy", t.AuditPolicy, &s.Audit}, {"membership policy", t.MembershipPolicy, &s.Membership}} {
		policy, err := checkpoint.ParsePolicy(p.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		origin, err := policy.Origin()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		*p.to = PolicySummary{Digest: digest.Of(p.text).String(), Origin: origin, NoQuorum: policy.QuorumNone()}
		for _, w := range policy.Witnesses() {
			p.to.Witnesses = append(p.to.Witnesses, w.Name)
		}
	}
	return s, nil
}

// Bundle verifies a proof bundle file. The report has Verified unset and a
// Failure if anything is wrong, the Trust included. execution may be "".
func Bundle(file []byte, t Trust, execution string) *verifier.Report {
	audit, err := checkpoint.ParsePolicy(t.AuditPolicy)
	if err != nil {
		return untrusted("audit policy: %v", err)
	}
	members, err := checkpoint.ParsePolicy(t.MembershipPolicy)
	if err != nil {
		return untrusted("membership policy: %v", err)
	}
	// The report holds the error.
	report, _ := verifier.VerifyBundle(file, verifier.Trust{
		AuditPolicy: audit, MembershipPolicy: members, Genesis: t.Genesis,
	}, verifier.Options{Execution: execution})
	return report
}

func untrusted(format string, args ...any) *verifier.Report {
	detail := fmt.Sprintf(format, args...)
	return &verifier.Report{
		Steps: []verifier.Step{{Name: "bundle", Title: "what to trust can be read", Detail: detail}},
		Failure: &verifier.Failure{
			Code: verifier.CodeTrust, Step: "bundle", Detail: detail, Hint: "replace the file under “What this page trusts”",
		},
	}
}

// RootClaim is what the server says about the cluster.
type RootClaim struct {
	MembershipCheckpoint []byte
	AuditCheckpoint      []byte
	MembershipHash       string   // hexadecimal, of the current epoch
	ClusterIdentityHash  string   // hexadecimal, of the current epoch
	Changes              [][]byte // the membership log's entries from the first on
}

// RootReport is what is left of a RootClaim after checking it.
type RootReport struct {
	Verified bool            `json:"verified"`
	Steps    []verifier.Step `json:"steps"` // all of them, whatever fails

	// Set as far as the checks came.
	Membership *verifier.Checkpoint `json:"membership,omitempty"`
	Audit      *verifier.Checkpoint `json:"audit,omitempty"`
	Cluster    *Cluster             `json:"cluster,omitempty"`
}

// Cluster is what the lawful changes make of the genesis, whatever the server
// says of it.
type Cluster struct {
	Name           string         `json:"name"`
	Epoch          uint64         `json:"epoch"`
	Unwitnessed    uint64         `json:"unwitnessed"`     // of the newest epochs, those that no accepted checkpoint covers
	AdminThreshold uint64         `json:"admin_threshold"` // admins that must agree
	NodeQuorum     uint64         `json:"node_quorum"`     // nodes that must be members
	Members        map[string]int `json:"members"`         // number by kind
	MembershipHash string         `json:"membership_hash"` // hexadecimal
	IdentityHash   string         `json:"identity_hash"`   // hexadecimal
}

// MaxAge is how old the cosignatures of the membership checkpoint may be, as for
// nodes: three refresh rounds of the membership log. An older view may hide a
// revocation.
const MaxAge = checkpoint.DefaultMaxAge

// Root checks a RootClaim: both checkpoints under their policies, that of the
// membership log for its age at now, and the membership recomputed from the
// genesis.
func Root(claim RootClaim, t Trust, now time.Time) *RootReport {
	r := &RootReport{Verified: true}
	r.Membership = r.checkpoint("membership", t.MembershipPolicy, claim.MembershipCheckpoint)
	if r.Membership != nil {
		r.step("fresh", fmt.Sprintf("the cosignatures of the membership log are not older than %.0f minutes", MaxAge.Minutes()),
			"enough of them, by the clock of this machine", checkFresh(t.MembershipPolicy, claim.MembershipCheckpoint, now))
	}
	r.Audit = r.checkpoint("audit", t.AuditPolicy, claim.AuditCheckpoint)
	r.replay(claim, t)
	return r
}

// step adds the outcome of one check.
func (r *RootReport) step(name, title, found string, err error) {
	s := verifier.Step{Name: name, Title: title, OK: err == nil, Detail: found}
	if err != nil {
		s.Detail, r.Verified = err.Error(), false
	}
	r.Steps = append(r.Steps, s)
}

// checkpoint holds the checkpoint of one log to its policy.
func (r *RootReport) checkpoint(log string, policy, signed []byte) *verifier.Checkpoint {
	title := fmt.Sprintf("the %s log signed its checkpoint, cosigned as the policy asks", log)
	verified, err := verifyCheckpoint(policy, signed)
	if err != nil {
		r.step(log, title, "", err)
		return nil
	}
	r.step(log, title, fmt.Sprintf("%q at size %d, %d cosignatures counted",
		verified.Checkpoint.Origin, verified.Checkpoint.Size, len(verified.Cosignatures)), nil)
	out := &verifier.Checkpoint{
		Origin:   verified.Checkpoint.Origin,
		Size:     verified.Checkpoint.Size,
		RootHash: verified.Checkpoint.Root.String(),
	}
	for _, c := range verified.Cosignatures {
		out.Cosignatures = append(out.Cosignatures, verifier.Cosignature(c))
	}
	return out
}

func verifyCheckpoint(policy, signed []byte) (*checkpoint.Verified, error) {
	if len(signed) == 0 {
		return nil, errors.New("the server has published no checkpoint yet")
	}
	p, err := checkpoint.ParsePolicy(policy)
	if err != nil {
		return nil, err
	}
	return p.Verify(signed)
}

func checkFresh(policy, signed []byte, now time.Time) error {
	p, err := checkpoint.ParsePolicy(policy)
	if err != nil {
		return err
	}
	_, err = p.VerifyFresh(signed, now, MaxAge)
	return err
}

// replay recomputes the membership from the genesis on.
func (r *RootReport) replay(claim RootClaim, t Trust) {
	const (
		genesisTitle = "the membership log begins with the genesis that you trust"
		lawfulTitle  = "every change since was signed by enough admins"
		rootTitle    = "these changes are what the witnesses saw"
		hashTitle    = "the hashes recomputed here are those that the server names"
		keysTitle    = "the logs sign with keys that the members named"
	)
	if len(claim.Changes) == 0 || !bytes.Equal(claim.Changes[0], t.Genesis) {
		r.step("genesis", genesisTitle, "", errors.New("it begins with another one: this is not the cluster that you trust"))
		return
	}
	r.step("genesis", genesisTitle, "SHA-256 "+digest.Of(t.Genesis).String(), nil)

	history := membership.NewHistory()
	for i, change := range claim.Changes {
		if _, err := history.Append(change); err != nil {
			r.step("changes", lawfulTitle, "", fmt.Errorf("change %d: %w", i, err))
			return
		}
	}
	state := history.Current()
	r.Cluster = clusterOf(state)
	r.step("changes", lawfulTitle, fmt.Sprintf("%d changes; epoch %d; %d of %d admins decide",
		len(claim.Changes), state.Epoch(), state.AdminThreshold(), r.Cluster.Members[string(membership.KindAdmin)]), nil)

	if r.Membership != nil {
		err := r.compareRoot(history)
		found := "root hash " + r.Membership.RootHash
		if err == nil && uint64(r.Membership.Size) < history.Size() {
			r.Cluster.Unwitnessed = history.Size() - uint64(r.Membership.Size)
			found += fmt.Sprintf("; not yet of the last %d", r.Cluster.Unwitnessed)
		}
		r.step("root", rootTitle, found, err)
	}
	if r.Membership != nil && r.Audit != nil {
		r.step("log_keys", keysTitle, "both", checkLogKeys(claim, t, history))
	}
	var err error
	if got := state.MembershipHash().String(); got != claim.MembershipHash {
		err = fmt.Errorf("the membership hash is %s, the server says %q", got, claim.MembershipHash)
	} else if got := state.IdentityHash().String(); got != claim.ClusterIdentityHash {
		err = fmt.Errorf("the cluster identity hash is %s, the server says %q", got, claim.ClusterIdentityHash)
	}
	r.step("hashes", hashTitle, "membership hash and cluster identity hash", err)
}

func clusterOf(s *membership.State) *Cluster {
	c := &Cluster{Name: s.Cluster(), Epoch: s.Epoch(), AdminThreshold: s.AdminThreshold(), NodeQuorum: s.NodeQuorum(),
		Members: make(map[string]int), MembershipHash: s.MembershipHash().String(), IdentityHash: s.IdentityHash().String()}
	for p := range s.Principals() {
		c.Members[string(p.Kind)]++
	}
	return c
}

// checkLogKeys: a policy says whom its owner believes; that this is a log of the
// cluster is for its members to say. Both checkpoints satisfy their policies.
func checkLogKeys(claim RootClaim, t Trust, history *membership.History) error {
	for _, log := range []struct {
		name           membership.LogName
		policy, signed []byte
	}{
		{membership.LogAudit, t.AuditPolicy, claim.AuditCheckpoint},
		{membership.LogMembership, t.MembershipPolicy, claim.MembershipCheckpoint},
	} {
		p, err := checkpoint.ParsePolicy(log.policy)
		if err != nil {
			return err
		}
		if err := verifier.CheckLogKey(history, log.name, p, log.signed); err != nil {
			return err
		}
	}
	return nil
}

// compareRoot holds the changes to the root hash of the checkpoint. The newest
// changes may not be covered yet.
func (r *RootReport) compareRoot(history *membership.History) error {
	if uint64(r.Membership.Size) > history.Size() {
		return fmt.Errorf("the checkpoint covers %d changes, the server showed %d", r.Membership.Size, history.Size())
	}
	root, err := history.Root(uint64(r.Membership.Size))
	if err != nil {
		return err
	}
	if root.String() != r.Membership.RootHash {
		return fmt.Errorf("the changes have root hash %v, the checkpoint %s: the witnesses saw other changes", root, r.Membership.RootHash)
	}
	return nil
}
