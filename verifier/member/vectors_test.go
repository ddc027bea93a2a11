package member_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/member"
)

var update = flag.Bool("update", false, "write the golden files again")

// vectorFile is testdata/membership-proof/proofs.json.
type vectorFile struct {
	About   string   `json:"about"`
	Policy  string   `json:"policy"`
	Genesis string   `json:"genesis"`
	Changes []string `json:"changes"` // entries of the membership log
	Proven  []proven `json:"proven"`
	Refused []vector `json:"refused"`
}

// vector is a file, what is asked of it, and what it is checked with where that
// differs from what the top of the page says.
type vector struct {
	Name      string      `json:"name"`
	Principal string      `json:"principal"`
	Epoch     uint64      `json:"epoch"`
	Policy    string      `json:"policy,omitempty"`
	Genesis   string      `json:"genesis,omitempty"`
	Changes   []string    `json:"changes,omitempty"` // none are given when left out
	Code      member.Code `json:"code,omitempty"`
	File      string      `json:"file"`
}

type proven struct {
	vector
	Member    bool   `json:"member"`
	LastEpoch uint64 `json:"last_epoch"`
	As        string `json:"as,omitempty"` // leaf data
}

func texts(list [][]byte) (out []string) {
	for _, b := range list {
		out = append(out, string(b))
	}
	return out
}

func TestVectors(t *testing.T) {
	c := story(t)
	file := vectorFile{
		About: "Membership proofs against the log of changes, docs/formats/membership-proof.md. Each file is its exact bytes as text. " +
			"Where a case has changes, they are given to the verifier beside the file; policy and genesis are those above unless it has its own.",
		Policy: string(c.PolicyText.Membership), Genesis: string(c.Genesis), Changes: texts(c.Membership.Entries),
	}
	for _, p := range []struct {
		name, id string
		epoch    uint64
		size     int64
		changes  bool
	}{
		{"a member of the genesis, checkpoint of size 1", "node-1", 1, 1, false},
		{"a member at a past epoch", "node-4", 3, lastEpoch, false},
		{"a member after its key was rotated", "node-4", 4, lastEpoch, true},
		{"removed: absent between two neighbours", "node-4", 5, lastEpoch, true},
		{"absent before the first", "aaa", 2, 4, false},
		{"absent after the last", "zzz", lastEpoch, lastEpoch, false},
		{"a tenant at the last epoch", "tenant-1", lastEpoch, lastEpoch, true},
	} {
		v := proven{vector: vector{Name: p.name, Principal: p.id, Epoch: p.epoch, File: string(marshal(t, c.MemberProof(p.id, p.epoch, p.size)))}}
		q := member.Question{Principal: p.id, Epoch: p.epoch}
		if p.changes {
			q.Changes, v.Changes = c.Membership.Entries, file.Changes
		}
		r, err := member.Verify([]byte(v.File), trustOf(c), q)
		if err != nil {
			t.Fatal(err)
		}
		v.Member, v.LastEpoch = r.Member, r.LastEpoch
		if r.As != nil {
			leaf, err := r.As.LeafData()
			if err != nil {
				t.Fatal(err)
			}
			v.As = string(leaf)
		}
		file.Proven = append(file.Proven, v)
	}
	for _, test := range refusals {
		c, proof, trust, q := test.run(t)
		v := vector{Name: test.name, Principal: q.Principal, Epoch: q.Epoch, Code: test.code, Changes: texts(q.Changes), File: string(proof)}
		if !bytes.Equal(trust.Genesis, c.Genesis) {
			v.Genesis = string(trust.Genesis)
		}
		if trust.Policy != c.MembershipPolicy {
			v.Policy = "log " + trust.Policy.Logs()[0].Vkey + "\n" + string(c.PolicyText.Membership)
		}
		file.Refused = append(file.Refused, v)
	}
	forged, p := forge(t)
	file.Refused = append(file.Refused, vector{Name: "a change that no admin signed", Principal: p.Principal, Epoch: p.Epoch,
		Code: member.CodeHistory, Changes: texts(forged.Membership.Entries), File: string(marshal(t, p))})
	good := file.Proven[1].File
	for _, bad := range []struct{ name, old, new string }{
		{"no newline at the end", "}\n", "}"},
		{"not in canonical form", `{"change"`, `{ "change"`},
		{"an unknown member", `{"change"`, `{"a":1,"change"`},
		{"of another type", "membership-proof", "membership"},
		{"two leaves of a member", `"leaves":[`, `"leaves":[{"data":"eA==","inclusion_proof":[],"index":0},`},
		{"a hash of 31 bytes", `"genesis_proof":["`, `"genesis_proof":["` + strings.Repeat("A", 41) + `A==","`},
		{"a member is left out", `"epoch":3,`, ``},
		{"base64 with a space", `"genesis_proof":["`, `"genesis_proof":[" `},
	} {
		if !strings.Contains(good, bad.old) {
			t.Fatalf("the file has no %s", bad.old)
		}
		file.Refused = append(file.Refused, vector{Name: bad.name, Principal: "node-4", Epoch: 3, Code: member.CodeFormat,
			File: strings.Replace(good, bad.old, bad.new, 1)})
	}
	file.Refused = append(file.Refused, vector{Name: "another protocol version", Principal: "node-4", Epoch: 3, Code: member.CodeVersion,
		File: strings.Replace(good, `"protocol_version":"1.0"`, `"protocol_version":"2.0"`, 1)})
	for _, v := range file.Refused {
		checkRefused(t, &file, v)
	}
	compare(t, filepath.Join("..", "..", "testdata", "membership-proof", "proofs.json"), file)
}

// checkRefused refuses a vector as a reader of the page would.
func checkRefused(t *testing.T, file *vectorFile, v vector) {
	t.Helper()
	if v.Policy == "" {
		v.Policy = file.Policy
	}
	if v.Genesis == "" {
		v.Genesis = file.Genesis
	}
	policy, err := checkpoint.ParsePolicy([]byte(v.Policy))
	if err != nil {
		t.Fatal(err)
	}
	q := member.Question{Principal: v.Principal, Epoch: v.Epoch}
	for _, change := range v.Changes {
		q.Changes = append(q.Changes, []byte(change))
	}
	wantRefusal(t, []byte(v.File), member.Trust{Policy: policy, Genesis: []byte(v.Genesis)}, q, v.Code)
}

func compare(t *testing.T, path string, v any) {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%s differs from what is made now", path)
	}
}
