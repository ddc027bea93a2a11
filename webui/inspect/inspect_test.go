package inspect

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "bundle", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func golden(t *testing.T) Trust {
	return Trust{
		AuditPolicy:      read(t, "audit.policy"),
		MembershipPolicy: read(t, "membership.policy"),
		Genesis:          read(t, "genesis.json"),
	}
}

func TestSummarize(t *testing.T) {
	trust := golden(t)
	got, err := Summarize(trust)
	if err != nil {
		t.Fatal(err)
	}
	if got.Cluster == "" || len(got.GenesisDigest) != 64 || len(got.Admins) == 0 || len(got.Audit.Witnesses) == 0 ||
		got.Audit.Origin != got.Cluster+"/audit" || got.Membership.Origin != got.Cluster+"/membership" || got.Audit.NoQuorum {
		t.Errorf("Summarize = %+v", got)
	}
	for name, change := range map[string]func(*Trust){
		"genesis":           func(t *Trust) { t.Genesis = []byte("{}") },
		"audit policy":      func(t *Trust) { t.AuditPolicy = []byte("nonsense") },
		"membership policy": func(t *Trust) { t.MembershipPolicy = []byte("quorum none\n") },
	} {
		bad := trust
		change(&bad)
		if _, err := Summarize(bad); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("bad %s: %v", name, err)
		}
	}
}

func TestBundle(t *testing.T) {
	trust, file := golden(t), read(t, "golden.tallyproof")
	report := Bundle(file, trust, "")
	if !report.Verified || report.Execution == nil {
		t.Fatalf("the golden bundle: %+v", report.Failure)
	}
	if got := Bundle(file, trust, strings.Repeat("0", 64)); got.Verified || got.Failure.Code != verifier.CodeOtherExecution {
		t.Errorf("for another execution: %+v", got)
	}
	bent := bytes.Clone(file)
	bent[len(bent)/2] ^= 1
	if got := Bundle(bent, trust, ""); got.Verified || got.Failure.Code != verifier.CodeDamaged {
		t.Errorf("a flipped bit: %+v", got)
	}
	for _, change := range []func(*Trust){
		func(t *Trust) { t.AuditPolicy = nil },
		func(t *Trust) { t.MembershipPolicy = []byte("x") },
	} {
		bad := trust
		change(&bad)
		if got := Bundle(file, bad, ""); got.Verified || got.Failure.Code != verifier.CodeTrust {
			t.Errorf("unreadable trust: %+v", got)
		}
	}
	if _, err := json.Marshal(report); err != nil {
		t.Error(err)
	}
}

// claim is a true claim about the golden cluster.
func claim(t *testing.T) RootClaim {
	t.Helper()
	bundle, err := provenance.ParseBundle(read(t, "golden.tallyproof"))
	if err != nil {
		t.Fatal(err)
	}
	history := membership.NewHistory()
	for _, change := range bundle.GetMembershipChanges() {
		if _, err := history.Append(change); err != nil {
			t.Fatal(err)
		}
	}
	return RootClaim{
		MembershipCheckpoint: bundle.GetMembershipCheckpoint(),
		AuditCheckpoint:      bundle.GetAuditCheckpoint(),
		MembershipHash:       history.Current().MembershipHash().String(),
		ClusterIdentityHash:  history.Current().IdentityHash().String(),
		Changes:              bundle.GetMembershipChanges(),
	}
}

// goldenTime is shortly after the golden bundle was made.
var goldenTime = time.Date(2026, 1, 1, 0, 16, 0, 0, time.UTC)

func TestRootAges(t *testing.T) {
	for name, c := range map[string]struct {
		at   time.Time
		want bool
	}{
		"an hour later":  {goldenTime.Add(time.Hour), false},
		"an hour before": {goldenTime.Add(-time.Hour), false},
		"now":            {goldenTime, true},
	} {
		got := Root(claim(t), golden(t), c.at)
		if got.Verified != c.want || got.Steps[1].Name != "fresh" || got.Steps[1].OK != c.want {
			t.Errorf("%s: %+v", name, got.Steps[1])
		}
	}
}

func TestRoot(t *testing.T) {
	trust := golden(t)
	report := Root(claim(t), trust, goldenTime)
	if !report.Verified || len(report.Steps) != 8 || report.Membership == nil || report.Audit == nil {
		t.Fatalf("a true claim: %+v", report)
	}
	if c := report.Cluster; c == nil || c.Name == "" || c.Epoch != uint64(report.Membership.Size) || c.Unwitnessed != 0 || c.AdminThreshold == 0 ||
		c.NodeQuorum == 0 || c.Members["node"] == 0 || c.MembershipHash != claim(t).MembershipHash || c.IdentityHash != claim(t).ClusterIdentityHash {
		t.Errorf("what the page shows of the cluster: %+v", c)
	}
	zeros := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		change func(*RootClaim, *Trust)
		step   string // the first that fails
	}{
		"no membership checkpoint": {func(c *RootClaim, _ *Trust) { c.MembershipCheckpoint = nil }, "membership"},
		"no audit checkpoint":      {func(c *RootClaim, _ *Trust) { c.AuditCheckpoint = nil }, "audit"},
		"swapped checkpoints":      {func(c *RootClaim, _ *Trust) { c.AuditCheckpoint = c.MembershipCheckpoint }, "audit"},
		"unreadable policy":        {func(_ *RootClaim, t *Trust) { t.AuditPolicy = []byte("x") }, "audit"},
		"cosignatures cut off": {func(c *RootClaim, _ *Trust) {
			lines := strings.SplitAfter(string(c.MembershipCheckpoint), "\n")
			c.MembershipCheckpoint = []byte(strings.Join(lines[:5], ""))
		}, "membership"},
		"no changes":            {func(c *RootClaim, _ *Trust) { c.Changes = nil }, "genesis"},
		"another genesis":       {func(_ *RootClaim, t *Trust) { t.Genesis = []byte("{}") }, "genesis"},
		"an unlawful change":    {func(c *RootClaim, _ *Trust) { c.Changes = append(c.Changes, c.Changes[0]) }, "changes"},
		"another membership":    {func(c *RootClaim, _ *Trust) { c.MembershipHash = zeros }, "hashes"},
		"another identity hash": {func(c *RootClaim, _ *Trust) { c.ClusterIdentityHash = zeros }, "hashes"},
	} {
		lie, relied := claim(t), trust
		c.change(&lie, &relied)
		got := Root(lie, relied, goldenTime)
		if got.Verified {
			t.Errorf("%s: verified", name)
			continue
		}
		for _, s := range got.Steps {
			if !s.OK {
				if s.Name != c.step {
					t.Errorf("%s: step %q fails with %q, want step %q", name, s.Name, s.Detail, c.step)
				}
				break
			}
		}
	}
}

// ofCluster is a true claim about a cluster made for the test, and its trust.
func ofCluster(t *testing.T, c *testcluster.Cluster) (RootClaim, Trust) {
	t.Helper()
	var changes [][]byte
	for epoch := uint64(1); epoch <= c.History.Size(); epoch++ {
		_, envelope, err := c.History.Change(epoch)
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, envelope)
	}
	state := c.History.Current()
	return RootClaim{
			MembershipCheckpoint: c.Membership.Signed(c.Membership.Size()), AuditCheckpoint: c.Audit.Signed(c.Audit.Size()),
			MembershipHash: state.MembershipHash().String(), ClusterIdentityHash: state.IdentityHash().String(), Changes: changes,
		}, Trust{
			AuditPolicy: c.PolicyText.Audit, MembershipPolicy: c.PolicyText.Membership, Genesis: c.Genesis,
		}
}

// signedAt is when the newest cosignature was made.
func signedAt(t *testing.T, policy *checkpoint.Policy, signed []byte) time.Time {
	t.Helper()
	verified, err := policy.Verify(signed)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(verified.Cosignatures[0].Timestamp, 0)
}

// TestRootNotYetWitnessed: changes that no witness has seen are lawful, and are
// told from those that have been seen.
func TestRootNotYetWitnessed(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Nodes: 3})
	signed := c.Membership.Signed(c.Membership.Size())
	c.AddNode("node-x")
	c.AddNode("node-y")
	claim, trust := ofCluster(t, c)
	claim.MembershipCheckpoint = signed
	got := Root(claim, trust, signedAt(t, c.MembershipPolicy, signed))
	if !got.Verified || got.Cluster.Unwitnessed != 2 || got.Cluster.Members["node"] != 5 {
		t.Errorf("%+v %+v", got.Steps, got.Cluster)
	}
	for _, s := range got.Steps {
		if s.Name == "root" && !strings.HasSuffix(s.Detail, "; not yet of the last 2") {
			t.Errorf("step root says %q", s.Detail)
		}
	}
}

// TestRootLogKeys: a log key that the policy accepts, and that no member named, is
// not one of the cluster.
func TestRootLogKeys(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Nodes: 3})
	honest, trust := ofCluster(t, c)
	at := signedAt(t, c.MembershipPolicy, honest.MembershipCheckpoint)
	for _, log := range []struct {
		log    *testcluster.Log
		policy *[]byte
		signed func(*RootClaim) *[]byte
	}{
		{c.Audit, &trust.AuditPolicy, func(c *RootClaim) *[]byte { return &c.AuditCheckpoint }},
		{c.Membership, &trust.MembershipPolicy, func(c *RootClaim) *[]byte { return &c.MembershipCheckpoint }},
	} {
		vkey, err := checkpoint.Vkey(log.log.Origin, testcluster.Public("rogue"))
		if err != nil {
			t.Fatal(err)
		}
		*log.policy = append([]byte("log "+vkey+"\n"), *log.policy...)
		if got := Root(honest, trust, at); !got.Verified {
			t.Fatalf("a policy with a further key: %+v", got.Steps)
		}
		signer, err := checkpoint.NewSigner(log.log.Origin, testcluster.Key("rogue"))
		if err != nil {
			t.Fatal(err)
		}
		rogue, err := checkpoint.Sign(log.log.Checkpoint(log.log.Size()), signer)
		if err != nil {
			t.Fatal(err)
		}
		lie := honest
		_, signatures, _ := bytes.Cut(*log.signed(&lie), []byte("\n\n"))
		_, cosignatures, _ := bytes.Cut(signatures, []byte("\n"))
		*log.signed(&lie) = append(rogue, cosignatures...)
		got := Root(lie, trust, at)
		for _, s := range got.Steps {
			if s.OK == (s.Name == "log_keys") {
				t.Errorf("%s: step %q is %t: %s", log.log.Origin, s.Name, s.OK, s.Detail)
			}
		}
		if got.Verified {
			t.Errorf("%s: verified", log.log.Origin)
		}
	}
}
