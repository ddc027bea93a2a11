package lawful_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/lawful"
)

// unsigned returns a well-formed change that no admin has signed.
func unsigned(t testing.TB, c *testcluster.Cluster, node string) []byte {
	t.Helper()
	payload, err := c.History.Current().Propose(membership.AddPrincipal{Principal: testcluster.NewNode(node)})
	if err != nil {
		t.Fatal(err)
	}
	return c.Envelope(membership.PayloadType, payload, node+"/attestation", node+"/token")
}

// hashes is a consistency proof of the membership log.
func hashes(c *testcluster.Cluster, older, newer int64) []tlog.Hash {
	var out []tlog.Hash
	for _, h := range c.Membership.Consistency(older, newer) {
		out = append(out, tlog.Hash(h))
	}
	return out
}

// evidenceOf takes the first n entries of the membership log, the last of which
// is not lawful, under the checkpoint of a size.
func evidenceOf(c *testcluster.Cluster, n, size int64) *lawful.Evidence {
	return &lawful.Evidence{
		Genesis:    c.Genesis,
		Entries:    c.Membership.Entries[:n:n],
		Checkpoint: c.Membership.Signed(size),
		Hashes:     hashes(c, n, size),
	}
}

// spoiled is a cluster of four lawful changes whose log goes on with one that no
// admin signed, and then with two entries that are anything.
func spoiled(t testing.TB) *testcluster.Cluster {
	c := testcluster.New(t, testcluster.Options{})
	for _, id := range []string{"node-4", "node-5", "node-6"} {
		c.AddNode(id)
	}
	c.Membership.Append(unsigned(t, c, "node-7"), nil)
	c.Membership.Append([]byte("anything"), nil)
	c.Membership.Append(nil, nil)
	return c
}

func TestJudge(t *testing.T) {
	c := spoiled(t)
	for size := int64(5); size <= 7; size++ {
		text, err := evidenceOf(c, 5, size).Format()
		if err != nil {
			t.Fatal(err)
		}
		e, err := lawful.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.Judge(c.Genesis)
		if err != nil {
			t.Fatalf("checkpoint of size %d: %v", size, err)
		}
		if v.Index != 4 || v.Epoch != 5 || v.Code != membership.RefusedThreshold || v.Cluster != c.Name ||
			v.Origin != c.Membership.Origin || v.Checkpoint != c.Membership.Checkpoint(size) || len(v.Signers) != 1 {
			t.Errorf("verdict %+v", v)
		}
	}
}

// TestJudgeEveryRefusal: what membership refuses, whatever the rule, is proven
// by evidence, and named by the same code.
func TestJudgeEveryRefusal(t *testing.T) {
	base := func() *testcluster.Cluster {
		c := testcluster.New(t, testcluster.Options{})
		c.AddNode("node-4")
		return c
	}
	c := base()
	other := testcluster.New(t, testcluster.Options{Name: "other"})
	replayed := c.Membership.Entries[1]
	ahead := base()
	ahead.AddNode("node-5")
	ahead.AddNode("node-6")
	elsewhere := testcluster.New(t, testcluster.Options{})
	elsewhere.AddNode("node-9")
	elsewhere.AddNode("node-5")
	payload, err := c.History.Current().Propose(membership.SetNodeQuorum{Quorum: 2})
	if err != nil {
		t.Fatal(err)
	}
	signed := c.Envelope(membership.PayloadType, payload, testcluster.Admin+"/change")
	for code, entry := range map[membership.RefusalCode][]byte{
		membership.RefusedEnvelope:  []byte("garbage"),
		membership.RefusedSyntax:    c.Envelope(membership.PayloadType, []byte(`{"x":1}`), testcluster.Admin+"/change"),
		membership.RefusedThreshold: unsigned(t, c, "node-7"),
		membership.RefusedReplay:    replayed,
		membership.RefusedGap:       ahead.Membership.Entries[3],
		membership.RefusedPrevious:  elsewhere.Membership.Entries[2],
		membership.RefusedGenesis:   c.Genesis,
		membership.RefusedCluster:   other.Membership.Entries[0],
		membership.RefusedSigner:    c.Envelope(membership.PayloadType, payload, testcluster.Admin+"/change", "stranger"),
		membership.RefusedSignature: bytes.Replace(signed, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1),
	} {
		c := base()
		c.Membership.Append(entry, nil)
		v, err := evidenceOf(c, 3, 3).Judge(c.Genesis)
		if err != nil {
			t.Errorf("%s: %v", code, err)
			continue
		}
		if code == membership.RefusedSignature {
			code = membership.RefusedEnvelope // the signature has another length now
		}
		if v.Code != code || v.Index != 2 {
			t.Errorf("%s: verdict %+v", code, v)
		}
	}
}

// TestJudgeOtherGenesis: a log that begins with another genesis than the pinned
// one, whose keys the pinned one names.
func TestJudgeOtherGenesis(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	other := testcluster.New(t, testcluster.Options{Nodes: 2}) // the same name and keys
	e := evidenceOf(other, 1, 1)
	e.Genesis = c.Genesis
	v, err := e.Judge(c.Genesis)
	if err != nil || v.Code != membership.RefusedGenesis || v.Index != 0 {
		t.Errorf("verdict %+v, %v", v, err)
	}
	e.Entries = c.Membership.Entries[:1]
	if _, err := e.Judge(c.Genesis); !errors.Is(err, lawful.ErrLawful) {
		t.Errorf("the genesis itself: %v", err)
	}
}

// TestJudgeKeys: a key counts from the change that names it on, and one that was
// named once still shows who signed.
func TestJudgeKeys(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	origin := c.Membership.Origin
	vkey, err := checkpoint.Vkey(origin, testcluster.Public("new log key"))
	if err != nil {
		t.Fatal(err)
	}
	c.Change(membership.SetLogKeys{Log: membership.LogMembership, Keys: []string{vkey}})
	c.Membership.Append([]byte("garbage"), nil)
	signer, err := checkpoint.NewSigner(origin, testcluster.Key("new log key"))
	if err != nil {
		t.Fatal(err)
	}
	byNew, err := checkpoint.Sign(c.Membership.Checkpoint(3), signer)
	if err != nil {
		t.Fatal(err)
	}
	e := evidenceOf(c, 3, 3)
	if _, err := e.Judge(c.Genesis); err != nil {
		t.Errorf("signed by the old key: %v", err)
	}
	e.Checkpoint = byNew
	if v, err := e.Judge(c.Genesis); err != nil || !slices.Equal(v.Signers, []string{vkey}) {
		t.Errorf("signed by the new key: %+v, %v", v, err)
	}
	// Before that change nobody has named it.
	early := evidenceOf(c, 1, 3)
	early.Checkpoint, early.Entries = byNew, [][]byte{c.Genesis, []byte("garbage")}
	if _, err := early.Judge(c.Genesis); !errors.Is(err, lawful.ErrNotSigned) {
		t.Errorf("a key that is not named yet: %v", err)
	}
}

// TestJudgeRefuses: whatever is not proven is not believed.
func TestJudgeRefuses(t *testing.T) {
	c := spoiled(t)
	other := testcluster.New(t, testcluster.Options{Name: "other"})
	version := testcluster.New(t, testcluster.Options{})
	payload, err := version.History.Current().Propose(membership.SetNodeQuorum{Quorum: 2})
	if err != nil {
		t.Fatal(err)
	}
	version.Membership.Append(version.Envelope(membership.PayloadType,
		bytes.Replace(payload, []byte(`"protocol_version":"1.0"`), []byte(`"protocol_version":"1.1"`), 1), testcluster.Admin+"/change"), nil)

	good := func() *lawful.Evidence { return evidenceOf(c, 5, 7) }
	edit := func(f func(e *lawful.Evidence)) *lawful.Evidence { e := good(); f(e); return e }
	for name, test := range map[string]struct {
		evidence *lawful.Evidence
		genesis  []byte
		want     error
	}{
		"another genesis":           {good(), other.Genesis, lawful.ErrGenesis},
		"no genesis":                {good(), nil, lawful.ErrGenesis},
		"garbage as genesis":        {edit(func(e *lawful.Evidence) { e.Genesis = []byte("x") }), []byte("x"), lawful.ErrGenesis},
		"no entries":                {edit(func(e *lawful.Evidence) { e.Entries = nil }), c.Genesis, lawful.ErrMalformed},
		"lawful":                    {evidenceOf(c, 4, 7), c.Genesis, lawful.ErrLawful},
		"goes on after the change":  {evidenceOf(c, 6, 7), c.Genesis, lawful.ErrMalformed},
		"entry 0 exchanged":         {edit(func(e *lawful.Evidence) { e.Entries = slices.Concat([][]byte{other.Genesis}, e.Entries[1:]) }), c.Genesis, lawful.ErrMalformed},
		"an entry left out":         {edit(func(e *lawful.Evidence) { e.Entries = slices.Delete(slices.Clone(e.Entries), 3, 4) }), c.Genesis, lawful.ErrNotInLog},
		"last entry made up":        {edit(func(e *lawful.Evidence) { e.Entries = slices.Concat(e.Entries[:4], [][]byte{[]byte("x")}) }), c.Genesis, lawful.ErrNotInLog},
		"no proof":                  {edit(func(e *lawful.Evidence) { e.Hashes = nil }), c.Genesis, lawful.ErrNotInLog},
		"checkpoint too small":      {edit(func(e *lawful.Evidence) { e.Checkpoint, e.Hashes = c.Membership.Signed(4), nil }), c.Genesis, lawful.ErrNotInLog},
		"checkpoint not a note":     {edit(func(e *lawful.Evidence) { e.Checkpoint = []byte("x") }), c.Genesis, lawful.ErrMalformed},
		"note not a checkpoint":     {edit(func(e *lawful.Evidence) { e.Checkpoint = []byte("x\n\n— x AAAAAAA=\n") }), c.Genesis, lawful.ErrMalformed},
		"checkpoint of another log": {edit(func(e *lawful.Evidence) { e.Checkpoint = c.Audit.Signed(1) }), c.Genesis, lawful.ErrNotSigned},
		"signature spoiled":         {edit(func(e *lawful.Evidence) { e.Checkpoint = spoil(e.Checkpoint) }), c.Genesis, lawful.ErrNotSigned},
		"unknown version":           {evidenceOf(version, 2, 2), version.Genesis, lawful.ErrVersion},
	} {
		if v, err := test.evidence.Judge(test.genesis); !errors.Is(err, test.want) {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

// spoil changes the log's signature.
func spoil(signed []byte) []byte {
	head, line, _ := bytes.Cut(signed, []byte("\n\n"))
	i := bytes.IndexByte(line, '\n') - 10
	line = bytes.Clone(line)
	if line[i] == 'A' {
		line[i] = 'B'
	} else {
		line[i] = 'A'
	}
	return slices.Concat(head, []byte("\n\n"), line)
}

func TestParseRefuses(t *testing.T) {
	text, err := evidenceOf(spoiled(t), 5, 7).Format()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) []byte {
		if !bytes.Contains(text, []byte(from)) {
			t.Fatalf("%q is not in the file", from)
		}
		return bytes.Replace(text, []byte(from), []byte(to), 1)
	}
	short, long := evidenceOf(spoiled(t), 5, 7), evidenceOf(spoiled(t), 5, 7)
	short.Entries = nil
	long.Hashes = make([]tlog.Hash, checkpoint.MaxConsistencyHashes+1)
	for name, bad := range map[string][]byte{
		"empty":            nil,
		"not JSON":         []byte("x"),
		"null":             []byte("null"),
		"other version":    replace("evidence v1", "evidence v2"),
		"the other kind":   replace("unlawful change evidence", "checkpoint evidence"),
		"unknown member":   replace("{\n", "{\n  \"x\": 1,\n"),
		"repeated member":  replace("{\n", "{\n  \"genesis\": \"\",\n"),
		"other case":       replace("\"genesis\"", "\"Genesis\""),
		"other indent":     replace("{\n  ", "{\n "),
		"trailing bytes":   append(bytes.Clone(text), "{}"...),
		"null entries":     replace("\"entries\": [", "\"entries\": null, \"x\": ["),
		"hash of 31 bytes": replace("\"consistency_proof\": [\n", "\"consistency_proof\": [\n    \"AAAA\",\n"),
		"line in base64":   replace("\"genesis\": \"eyJw", "\"genesis\": \"ey\\nJw"),
		"no entries":       mustFormat(t, short),
		"65 hashes":        mustFormat(t, long),
		"too large":        append(bytes.Clone(text), bytes.Repeat([]byte(" "), lawful.MaxEvidenceSize)...),
	} {
		if _, err := lawful.Parse(bad); !errors.Is(err, lawful.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := &lawful.Evidence{Genesis: []byte(strings.Repeat("x", lawful.MaxEvidenceSize))}
	if _, err := big.Format(); !errors.Is(err, lawful.ErrMalformed) {
		t.Errorf("too large to be read: %v", err)
	}
}

func mustFormat(t testing.TB, e *lawful.Evidence) []byte {
	t.Helper()
	text, err := e.Format()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// FuzzParse: what parses comes back byte for byte, and nothing but the one
// genuine finding is ever proven.
func FuzzParse(f *testing.F) {
	c := spoiled(f)
	f.Add(mustFormat(f, evidenceOf(c, 5, 7)))
	f.Add(mustFormat(f, &lawful.Evidence{Genesis: c.Genesis, Entries: [][]byte{nil}, Checkpoint: []byte("x")}))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := lawful.Parse(text)
		if err != nil {
			return
		}
		if again := mustFormat(t, e); !bytes.Equal(again, text) {
			t.Fatalf("%q comes back as %q", text, again)
		}
		if v, err := e.Judge(c.Genesis); err == nil && (v.Index != 4 || v.Code != membership.RefusedThreshold) {
			t.Fatalf("verdict %+v", v)
		}
	})
}
