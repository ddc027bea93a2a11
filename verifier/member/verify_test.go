package member_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/member"
)

// lastEpoch is where the story ends.
const lastEpoch = 6

// story makes a cluster in which a node is added, described, given another key
// and removed.
func story(t testing.TB) *testcluster.Cluster {
	c := testcluster.New(t, testcluster.Options{}) // 1
	c.AddNode("node-4")                            // 2
	c.Change(membership.UpdatePrincipal{ID: "node-4", Name: "rack 4", TrustLevel: 2, Labels: map[string]string{"arch": "arm64"}})
	key := testcluster.NewKey("node-4/attestation 2", membership.UseAttestation)
	c.Change(membership.RotateKey{ID: "node-4", Add: &key, Remove: testcluster.NewKey("node-4/attestation").ID()}, "node-4/attestation 2")
	c.Change(membership.RemovePrincipal{ID: "node-4"})
	c.Change(membership.SetNodeQuorum{Quorum: 2})
	if c.History.Size() != lastEpoch {
		t.Fatalf("the story has %d epochs", c.History.Size())
	}
	return c
}

func trustOf(c *testcluster.Cluster) member.Trust {
	return member.Trust{Policy: c.MembershipPolicy, Genesis: c.Genesis}
}

func marshal(t testing.TB, p *membership.ProofFile) []byte {
	t.Helper()
	file, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// At every epoch, against every checkpoint that covers it, each principal is
// proven a member with the keys that it had, or proven absent.
func TestEveryPrincipalAtEveryEpoch(t *testing.T) {
	c := story(t)
	for epoch := uint64(1); epoch <= lastEpoch; epoch++ {
		state, err := c.History.StateAt(epoch)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int64{int64(epoch), lastEpoch} {
			for _, id := range []string{"node-1", "node-4", "aaa", "nobody"} {
				file := marshal(t, c.MemberProof(id, epoch, size))
				for _, changes := range [][][]byte{nil, c.Membership.Entries} {
					r, err := member.Verify(file, trustOf(c), member.Question{Principal: id, Epoch: epoch, Changes: changes})
					if err != nil {
						t.Fatalf("%s at %d of %d: %v", id, epoch, size, err)
					}
					want, isMember := state.Principal(id)
					if !r.Verified || r.Member != isMember || r.Epoch != epoch || r.LastEpoch != uint64(size) || r.Lawful != (changes != nil) {
						t.Fatalf("%s at %d of %d: %+v", id, epoch, size, r)
					}
					if !isMember {
						if r.As != nil {
							t.Errorf("%s at %d is absent, and shown as %+v", id, epoch, r.As)
						}
						continue
					}
					got, _ := r.As.LeafData()
					data, _ := want.LeafData()
					if !bytes.Equal(got, data) {
						t.Errorf("%s at %d is shown as %s, want %s", id, epoch, got, data)
					}
				}
			}
		}
	}
}

// refusal is a proof that must not verify: what make returns under trust and
// question, which it may change. Nil means that of node-4 at epoch 3.
type refusal struct {
	name string
	code member.Code
	make func(t testing.TB, c *testcluster.Cluster, p *membership.ProofFile, trust *member.Trust, q *member.Question) *membership.ProofFile
}

// edit is a refusal that only changes the file.
func edit(f func(c *testcluster.Cluster, p *membership.ProofFile)) func(testing.TB, *testcluster.Cluster, *membership.ProofFile, *member.Trust, *member.Question) *membership.ProofFile {
	return func(_ testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, _ *member.Question) *membership.ProofFile {
		f(c, p)
		return p
	}
}

// forge returns a cluster whose membership log has one more entry: a change
// that nobody but a stranger signed, and that makes the stranger a member.
func forge(t testing.TB) (c *testcluster.Cluster, p *membership.ProofFile) {
	c = story(t)
	before := c.History.Current()
	payload, err := before.Propose(membership.AddPrincipal{Principal: testcluster.NewNode("mallory")})
	if err != nil {
		t.Fatal(err)
	}
	entry := c.Envelope(membership.PayloadType, payload, "mallory/attestation", "mallory/token")
	if _, _, err := before.Apply(entry); !errors.Is(err, membership.RefusedThreshold) {
		t.Fatalf("the forged change: %v", err)
	}
	// The state that it makes, as the operator of the log can compute it.
	h := membership.NewHistory()
	for _, e := range c.Membership.Entries {
		if _, err := h.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Append(c.Envelope(membership.PayloadType, payload, "admin-1/change", "mallory/attestation", "mallory/token")); err != nil {
		t.Fatal(err)
	}
	leaf, err := h.Current().ProveMember("mallory")
	if err != nil {
		t.Fatal(err)
	}
	index := c.Membership.Append(entry, nil)
	size := index + 1
	return c, &membership.ProofFile{
		Principal: "mallory", Epoch: uint64(size), Member: true, Leaves: []membership.Leaf{leaf}, Change: entry,
		ChangeProof: c.Membership.Inclusion(index, size), GenesisProof: c.Membership.Inclusion(0, size),
		Checkpoint: c.Membership.Signed(size),
	}
}

var refusals = []refusal{
	{"another principal than asked for", member.CodeOther, func(_ testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, q *member.Question) *membership.ProofFile {
		q.Principal = "node-1"
		return p
	}},
	{"another epoch than asked for", member.CodeOther, func(_ testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, q *member.Question) *membership.ProofFile {
		q.Epoch = 5
		return p
	}},
	{"epoch relabelled", member.CodeChange, func(_ testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, q *member.Question) *membership.ProofFile {
		p.Epoch, q.Epoch = 5, 5
		return p
	}},
	{"epoch beyond the checkpoint", member.CodeChange, func(_ testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, q *member.Question) *membership.ProofFile {
		p.Epoch, q.Epoch = 7, 7
		return p
	}},
	{"one cosignature of two", member.CodeCheckpoint, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.Checkpoint = c.Membership.Sign(c.Membership.Checkpoint(lastEpoch), 1)
	})},
	{"checkpoint of the audit log", member.CodeCheckpoint, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.Checkpoint = c.Audit.Signed(c.Audit.Size())
	})},
	{"no checkpoint to speak of", member.CodeCheckpoint, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.Checkpoint = []byte("x") })},
	{"checkpoint of a fork", member.CodeGenesis, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		fork := c.Membership.Checkpoint(lastEpoch)
		fork.Root[0] ^= 1
		p.Checkpoint = c.Membership.Sign(fork, 3)
	})},
	{"genesis of another cluster", member.CodeGenesis, func(t testing.TB, c *testcluster.Cluster, p *membership.ProofFile, trust *member.Trust, _ *member.Question) *membership.ProofFile {
		trust.Genesis = testcluster.New(t, testcluster.Options{Name: "other"}).Genesis
		return p
	}},
	{"proof of the genesis missing", member.CodeGenesis, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.GenesisProof = nil })},
	{"proof of another entry for the genesis", member.CodeGenesis, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.GenesisProof = p.ChangeProof })},
	{"change of another epoch", member.CodeChange, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.Change = c.Membership.Entries[4] })},
	{"change of another epoch with its proof", member.CodeChange, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.Change, p.ChangeProof = c.Membership.Entries[4], c.Membership.Inclusion(4, lastEpoch)
	})},
	{"a hash of the change's proof altered", member.CodeChange, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.ChangeProof[0][0] ^= 1 })},
	{"a hash of the change's proof too much", member.CodeChange, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.ChangeProof = append(p.ChangeProof, make([]byte, 32))
	})},
	{"leaf of another epoch", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.Leaves = c.MemberProof("node-4", 4, lastEpoch).Leaves
	})},
	{"leaf of another principal", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.Leaves = c.MemberProof("node-3", 3, lastEpoch).Leaves
	})},
	{"leaf data altered", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.Leaves[0].Data = bytes.Replace(p.Leaves[0].Data, []byte("arm64"), []byte("amd64"), 1)
	})},
	{"leaf at another place", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.Leaves[0].Index++ })},
	{"a hash of the leaf's proof missing", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.Leaves[0].Proof = p.Leaves[0].Proof[1:] })},
	{"absence claimed with the member's own leaf", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.Member = false })},
	{"absence claimed with leaves that leave a gap", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		state, _ := c.History.StateAt(3)
		before, _ := state.ProveMember("node-3")
		after, _ := state.ProveMember("tenant-1")
		p.Member, p.Leaves = false, []membership.Leaf{before, after}
	})},
	{"absence claimed with nothing", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) { p.Member, p.Leaves = false, nil })},
	{"absence of a later epoch", member.CodeLeaf, edit(func(c *testcluster.Cluster, p *membership.ProofFile) {
		p.Member, p.Leaves = false, c.MemberProof("node-4", 5, lastEpoch).Leaves
	})},
	{"changes that end too early", member.CodeHistory, func(_ testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, q *member.Question) *membership.ProofFile {
		q.Changes = c.Membership.Entries[:5]
		return p
	}},
	{"a change given twice", member.CodeHistory, func(_ testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, q *member.Question) *membership.ProofFile {
		q.Changes = slices.Insert(slices.Clone(c.Membership.Entries), 2, c.Membership.Entries[1])
		return p
	}},
	{"lawful changes that are not the log's", member.CodeHistory, func(t testing.TB, c *testcluster.Cluster, p *membership.ProofFile, _ *member.Trust, q *member.Question) *membership.ProofFile {
		before, err := c.History.StateAt(5)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := before.Propose(membership.SetNodeQuorum{Quorum: 3})
		if err != nil {
			t.Fatal(err)
		}
		q.Changes = append(slices.Clone(c.Membership.Entries[:5]), c.Envelope(membership.PayloadType, payload, "admin-1/change"))
		return p
	}},
	{"log key that the policy accepts and no change names", member.CodeLogKeys, func(t testing.TB, c *testcluster.Cluster, p *membership.ProofFile, trust *member.Trust, q *member.Question) *membership.ProofFile {
		trust.Policy, p.Checkpoint = rogueKey(t, c, p)
		q.Changes = c.Membership.Entries
		return p
	}},
}

// rogueKey returns a policy that also accepts a key of the membership log that
// the cluster's members never named, and the checkpoint signed by it alone.
func rogueKey(t testing.TB, c *testcluster.Cluster, p *membership.ProofFile) (*checkpoint.Policy, []byte) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	vkey, err := checkpoint.Vkey(c.Membership.Origin, testcluster.Public("rogue"))
	must(err)
	policy, err := checkpoint.ParsePolicy([]byte("log " + vkey + "\n" + string(c.PolicyText.Membership)))
	must(err)
	signer, err := checkpoint.NewSigner(c.Membership.Origin, testcluster.Key("rogue"))
	must(err)
	rogue, err := checkpoint.Sign(c.Membership.Checkpoint(lastEpoch), signer)
	must(err)
	_, signatures, _ := bytes.Cut(p.Checkpoint, []byte("\n\n"))
	_, cosignatures, _ := bytes.Cut(signatures, []byte("\n"))
	return policy, append(rogue, cosignatures...)
}

// run makes the proof of a refusal.
func (r refusal) run(t testing.TB) (c *testcluster.Cluster, file []byte, trust member.Trust, q member.Question) {
	c = story(t)
	trust, q = trustOf(c), member.Question{Principal: "node-4", Epoch: 3}
	return c, marshal(t, r.make(t, c, c.MemberProof("node-4", 3, lastEpoch), &trust, &q)), trust, q
}

func TestRefusals(t *testing.T) {
	seen := map[member.Code]bool{}
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			_, file, trust, q := test.run(t)
			wantRefusal(t, file, trust, q, test.code)
		})
		seen[test.code] = true
	}
	for _, code := range []member.Code{member.CodeOther, member.CodeCheckpoint, member.CodeGenesis, member.CodeChange, member.CodeLeaf,
		member.CodeHistory, member.CodeLogKeys} {
		if !seen[code] {
			t.Errorf("no test of code %q", code)
		}
	}
}

func wantRefusal(t testing.TB, file []byte, trust member.Trust, q member.Question, want member.Code) {
	t.Helper()
	r, err := member.Verify(file, trust, q)
	var refused *member.Error
	if !errors.As(err, &refused) || refused.Code != want || !errors.Is(err, want) || refused.Hint() == "" {
		t.Fatalf("got %v, want code %q", err, want)
	}
	if r == nil || r.Verified || r.Failure == nil || r.Failure.Code != want || r.Proven != nil || r.Steps[len(r.Steps)-1].OK {
		t.Errorf("report of a refusal: %+v", r)
	}
}

func TestTrustThatCannotBeUsed(t *testing.T) {
	c := story(t)
	file, q := marshal(t, c.MemberProof("node-1", 1, lastEpoch)), member.Question{Principal: "node-1", Epoch: 1}
	two, err := checkpoint.ParsePolicy(append([]byte("quorum none\n"), bytes.ReplaceAll(
		bytes.Join([][]byte{logLine(c.PolicyText.Audit), logLine(c.PolicyText.Membership)}, []byte("\n")), []byte("\n\n"), []byte("\n"))...))
	if err != nil {
		t.Fatal(err)
	}
	for name, trust := range map[string]member.Trust{
		"no policy":                 {Genesis: c.Genesis},
		"policy of two logs":        {Policy: two, Genesis: c.Genesis},
		"no genesis":                {Policy: c.MembershipPolicy},
		"genesis that is no change": {Policy: c.MembershipPolicy, Genesis: []byte("{}")},
		"genesis at epoch 2":        {Policy: c.MembershipPolicy, Genesis: c.Membership.Entries[1]},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, file, trust, q, member.CodeTrust) })
	}
}

func logLine(policy []byte) []byte {
	for line := range bytes.Lines(policy) {
		if bytes.HasPrefix(line, []byte("log ")) {
			return line
		}
	}
	return nil
}

// Without the changes a proof shows what the log says, whoever signed it: the
// report says so. With them an unlawful change is found.
func TestUnlawfulChange(t *testing.T) {
	c, p := forge(t)
	q := member.Question{Principal: "mallory", Epoch: lastEpoch + 1}
	r, err := member.Verify(marshal(t, p), trustOf(c), q)
	if err != nil || !r.Member || r.Lawful {
		t.Fatalf("%+v, %v", r, err)
	}
	if text := strings.Join(r.NotProven, "\n"); !strings.Contains(text, "that the changes up to the epoch are lawful") {
		t.Errorf("not proven is only:\n%s", text)
	}
	q.Changes = c.Membership.Entries
	wantRefusal(t, marshal(t, p), trustOf(c), q, member.CodeHistory)
}

// A log key that only the policy names is the policy's word, and said to be.
func TestKeyThatOnlyThePolicyNames(t *testing.T) {
	c := story(t)
	p := c.MemberProof("node-4", 3, lastEpoch)
	trust := trustOf(c)
	trust.Policy, p.Checkpoint = rogueKey(t, c, p)
	r, err := member.Verify(marshal(t, p), trust, member.Question{Principal: "node-4", Epoch: 3})
	if err != nil || !strings.Contains(strings.Join(r.NotProven, "\n"), "that the admins named the log's origin and key") {
		t.Errorf("%+v, %v", r, err)
	}
}

// Whichever byte of a file is changed, it proves nothing else than before.
func TestEveryByteCounts(t *testing.T) {
	c := story(t)
	file := marshal(t, c.MemberProof("node-4", 3, lastEpoch))
	q := member.Question{Principal: "node-4", Epoch: 3}
	const stride = 29 // prime, so that every kind of place is met
	for i := 0; i < len(file); i += stride {
		altered := bytes.Clone(file)
		altered[i] ^= 1
		if r, err := member.Verify(altered, trustOf(c), q); err == nil {
			// A cosignature more than the policy asks for may be spoiled in its name only.
			if got, _ := r.As.LeafData(); !bytes.Equal(got, c.MemberProof("node-4", 3, lastEpoch).Leaves[0].Data) {
				t.Errorf("byte %d: shown as %s", i, got)
			}
		}
	}
}

// An epoch whose entry is no change, or one of another cluster, proves nothing.
func TestEntryThatIsNoChange(t *testing.T) {
	other := testcluster.New(t, testcluster.Options{Name: "other"})
	other.AddNode("node-4")
	for name, entry := range map[string][]byte{
		"not an envelope":     []byte("x"),
		"another type":        other.Envelope("application/x", []byte("{}"), "x"),
		"not a change":        other.Envelope(membership.PayloadType, []byte("{}"), "x"),
		"of another cluster":  other.Membership.Entries[1],
		"of another epoch":    other.Membership.Entries[0],
		"of an epoch 1 again": nil,
	} {
		t.Run(name, func(t *testing.T) {
			c := testcluster.New(t, testcluster.Options{})
			p := c.MemberProof("node-1", 1, 1)
			if entry == nil {
				entry = c.Genesis
			}
			c.Membership.Append(entry, nil)
			p.Epoch, p.Change = 2, entry
			p.ChangeProof, p.GenesisProof, p.Checkpoint = c.Membership.Inclusion(1, 2), c.Membership.Inclusion(0, 2), c.Membership.Signed(2)
			wantRefusal(t, marshal(t, p), trustOf(c), member.Question{Principal: "node-1", Epoch: 2}, member.CodeChange)
		})
	}
}

// What a file says never reaches a terminal as it is.
func TestDetailIsPrintable(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	p := c.MemberProof("node-1", 1, 1)
	p.Checkpoint = bytes.ReplaceAll(p.Checkpoint, []byte("demo/membership"), []byte("\x1b[2J\u202e"))
	_, err := member.Verify(marshal(t, p), trustOf(c), member.Question{Principal: "node-1\x1b", Epoch: 1})
	if err == nil || strings.ContainsAny(fmt.Sprint(err), "\x1b\u202e") {
		t.Errorf("%q", err)
	}
	_, err = member.Verify(marshal(t, p), trustOf(c), member.Question{Principal: "node-1", Epoch: 1})
	if err == nil || strings.ContainsAny(fmt.Sprint(err), "\x1b\u202e") {
		t.Errorf("%q", err)
	}
}
