package lawful_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/lawful"
)

var update = flag.Bool("update", false, "write the golden vectors again")

// vectorFile is testdata/evidence/evidence.json.
type vectorFile struct {
	About   string `json:"about"`
	Genesis string `json:"genesis"`
	// Vkeys are the keys of the log of Checkpoints.
	Vkeys       []string           `json:"log_vkeys"`
	Checkpoints []checkpointVector `json:"checkpoints"`
	Changes     []changeVector     `json:"changes"`
}

// checkpointVector is evidence of two checkpoints, judged by the keys above.
type checkpointVector struct {
	Name string `json:"name"`
	// Finding is "fork" or "unproven", or "nothing" for what is refused.
	Finding string `json:"finding"`
	File    string `json:"file"`
}

// changeVector is evidence of an unlawful change, judged by the genesis above.
type changeVector struct {
	Name string `json:"name"`
	// Index and Code are what is proven; Refused, instead, that nothing is.
	Index   int64                  `json:"index,omitempty"`
	Code    membership.RefusalCode `json:"code,omitempty"`
	Refused string                 `json:"refused,omitempty"`
	File    string                 `json:"file"`
}

// refusals are the names of this package's errors in the vectors.
var refusals = map[string]error{
	"malformed": lawful.ErrMalformed, "genesis": lawful.ErrGenesis, "not_signed": lawful.ErrNotSigned,
	"not_in_log": lawful.ErrNotInLog, "lawful": lawful.ErrLawful, "version": lawful.ErrVersion,
}

// vectors makes the file that the golden one has to be.
func vectors(t *testing.T) vectorFile {
	c, other := spoiled(t), testcluster.New(t, testcluster.Options{})
	other.AddNode("node-9")
	other.AddNode("node-8")
	log := c.Membership
	f := vectorFile{
		About:   "Evidence files, docs/formats/evidence.md, as their exact bytes. The checkpoints are judged by log_vkeys, the changes by genesis.",
		Genesis: string(c.Genesis), Vkeys: c.History.Current().Logs().Membership.Keys,
	}
	sign := func(c checkpoint.Checkpoint) []byte { return log.Sign(c, 0) }
	forked := other.Membership.Checkpoint(2)
	rootAt := log.Checkpoint(2).Root
	for _, v := range []struct {
		name, finding string
		checkpoint.Evidence
	}{
		{"two root hashes for one size", "fork", checkpoint.Evidence{Known: log.Signed(2), Submitted: sign(forked)}},
		{"another root hash at the smaller size, named", "fork",
			checkpoint.Evidence{Known: sign(forked), Submitted: log.Signed(6), RootAt: &rootAt, Hashes: hashes(c, 2, 6)}},
		{"another root hash at the smaller size, made by the proof", "fork",
			checkpoint.Evidence{Known: sign(other.Membership.Checkpoint(3)), Submitted: log.Signed(6), Hashes: hashes(c, 3, 6)}},
		{"no proof", "unproven", checkpoint.Evidence{Known: sign(forked), Submitted: log.Signed(6)}},
		{"consistent", "nothing", checkpoint.Evidence{Known: log.Signed(3), Submitted: log.Signed(6), Hashes: hashes(c, 3, 6)}},
		{"of two logs", "nothing", checkpoint.Evidence{Known: log.Signed(1), Submitted: c.Audit.Signed(1)}},
	} {
		v.Vkeys = f.Vkeys
		text, err := v.Format()
		if err != nil {
			t.Fatal(err)
		}
		f.Checkpoints = append(f.Checkpoints, checkpointVector{v.name, v.finding, string(text)})
	}

	good := func() *lawful.Evidence { return evidenceOf(c, 5, 7) }
	edit := func(f func(e *lawful.Evidence)) *lawful.Evidence { e := good(); f(e); return e }
	begins := evidenceOf(other, 1, 3)
	begins.Genesis = c.Genesis
	begins.Entries = [][]byte{[]byte("no genesis")}
	for _, v := range []struct {
		name     string
		index    int64
		code     membership.RefusalCode
		refused  string
		evidence *lawful.Evidence
	}{
		{"signed by no admin", 4, membership.RefusedThreshold, "", good()},
		{"signed by no admin, checkpoint of just that size", 4, membership.RefusedThreshold, "", evidenceOf(c, 5, 5)},
		{"lawful", 0, "", "lawful", evidenceOf(c, 4, 7)},
		{"entries after the unlawful one", 0, "", "malformed", evidenceOf(c, 6, 7)},
		{"last entry made up", 0, "", "not_in_log", edit(func(e *lawful.Evidence) { e.Entries = append(e.Entries[:4:4], []byte("x")) })},
		{"no proof", 0, "", "not_in_log", edit(func(e *lawful.Evidence) { e.Hashes = nil })},
		{"a proof too long", 0, "", "not_in_log", edit(func(e *lawful.Evidence) { e.Hashes = append(slices.Clone(e.Hashes), tlog.Hash{}) })},
		{"begins otherwise, and no tree shows it", 0, "", "not_in_log", begins},
		{"checkpoint of the audit log", 0, "", "not_signed", edit(func(e *lawful.Evidence) { e.Checkpoint = c.Audit.Signed(1) })},
		{"signature spoiled", 0, "", "not_signed", edit(func(e *lawful.Evidence) { e.Checkpoint = spoil(e.Checkpoint) })},
		{"another genesis", 0, "", "genesis", evidenceOf(testcluster.New(t, testcluster.Options{Nodes: 2}), 1, 1)},
	} {
		f.Changes = append(f.Changes, changeVector{v.name, v.index, v.code, v.refused, string(mustFormat(t, v.evidence))})
	}
	return f
}

// TestVectors holds code and golden file together, and judges every case.
func TestVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "evidence", "evidence.json")
	made := vectors(t)
	text, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(golden, text) {
		t.Errorf("%s is not what the code makes; if that is meant, run the test with -update", path)
	}
	var keys []note.Verifier
	for _, vkey := range made.Vkeys {
		key, err := checkpoint.ParseVkey(vkey)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	for _, v := range made.Checkpoints {
		e, err := checkpoint.ParseEvidence([]byte(v.File))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		finding, err := e.Judge(keys)
		if (err != nil) != (v.Finding == "nothing") || err == nil && finding.String() != v.Finding {
			t.Errorf("%s: %v, %v", v.Name, finding, err)
		}
	}
	for _, v := range made.Changes {
		e, err := lawful.Parse([]byte(v.File))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		verdict, err := e.Judge([]byte(made.Genesis))
		switch {
		case v.Refused != "":
			if !errors.Is(err, refusals[v.Refused]) {
				t.Errorf("%s: %+v, %v", v.Name, verdict, err)
			}
		case err != nil || verdict.Index != v.Index || verdict.Code != v.Code:
			t.Errorf("%s: %+v, %v", v.Name, verdict, err)
		}
	}
}
