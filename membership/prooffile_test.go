package membership

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

func proofFile(t testing.TB) ProofFile {
	t.Helper()
	s := mustGenesis(t)
	leaf, err := s.ProveMember("node-0")
	if err != nil {
		t.Fatal(err)
	}
	hash := bytes.Repeat([]byte{7}, 32)
	return ProofFile{
		Principal: "node-0", Epoch: 2, Member: true, Leaves: []Leaf{leaf}, Change: []byte("change"),
		ChangeProof: [][]byte{hash}, GenesisProof: [][]byte{hash}, Checkpoint: []byte("checkpoint\n"),
	}
}

func TestProofFileRoundTrip(t *testing.T) {
	p := proofFile(t)
	for range 2 {
		file, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseProofFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := again.Marshal(); err != nil || !bytes.Equal(twice, file) {
			t.Errorf("%s became %s (%v)", file, twice, err)
		}
		// The same as an absence from an empty state under a log of one entry.
		p.Member, p.Leaves, p.ChangeProof, p.GenesisProof = false, nil, nil, nil
	}
}

// A file has one form, and every member its bounds.
func TestProofFileRefusals(t *testing.T) {
	good, err := proofFile(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("the file has no %s", old)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	for name, file := range map[string][]byte{
		"empty":              nil,
		"newline":            []byte("\n"),
		"no JSON":            []byte("x\n"),
		"no newline":         good[:len(good)-1],
		"two newlines":       append(bytes.Clone(good), '\n'),
		"space":              replace(`{"change"`, `{ "change"`),
		"another type":       replace(`tallystick.membership-proof`, `tallystick.membership`),
		"no type":            replace(`"type"`, `"kind"`),
		"unknown member":     replace(`{"change"`, `{"a":1,"change"`),
		"member twice":       replace(`"epoch":2`, `"epoch":2,"epoch":2`),
		"member missing":     replace(`"epoch":2,`, ``),
		"escape for nothing": replace(`"principal":"node-0"`, `"principal":"n\u006fde-0"`),
		"no identifier":      replace(`"principal":"node-0"`, `"principal":"Node"`),
		"epoch 0":            replace(`"epoch":2`, `"epoch":0`),
		"negative index":     replace(`"index":3`, `"index":-3`),
		"too large":          bytes.Repeat([]byte(" "), MaxProofFile+1),
	} {
		if _, err := ParseProofFile(file); !errors.Is(err, ErrProofFile) {
			t.Errorf("%s: got %v, want %v", name, err, ErrProofFile)
		}
	}
	for name, file := range map[string][]byte{
		"another version":                    replace(`"protocol_version":"1.0"`, `"protocol_version":"1.1"`),
		"another version with other members": replace(`"protocol_version":"1.0"`, `"parts":[1],"protocol_version":"2.0"`),
	} {
		if _, err := ParseProofFile(file); !errors.Is(err, ErrProofVersion) {
			t.Errorf("%s: got %v, want %v", name, err, ErrProofVersion)
		}
	}
	for name, change := range map[string]func(p *ProofFile){
		"no change":             func(p *ProofFile) { p.Change = nil },
		"change too large":      func(p *ProofFile) { p.Change = make([]byte, MaxChangeEnvelope+1) },
		"no checkpoint":         func(p *ProofFile) { p.Checkpoint = nil },
		"checkpoint too large":  func(p *ProofFile) { p.Checkpoint = make([]byte, maxNote+1) },
		"member without a leaf": func(p *ProofFile) { p.Leaves = nil },
		"member with two":       func(p *ProofFile) { p.Leaves = append(p.Leaves, p.Leaves[0]) },
		"absent with three":     func(p *ProofFile) { p.Member, p.Leaves = false, append(p.Leaves, p.Leaves[0], p.Leaves[0]) },
		"no leaf data":          func(p *ProofFile) { p.Leaves[0].Data = nil },
		"leaf data too large":   func(p *ProofFile) { p.Leaves[0].Data = make([]byte, maxLeafData+1) },
		"a long proof":          func(p *ProofFile) { p.ChangeProof = make([][]byte, maxProofHashes+1) },
		"a short hash":          func(p *ProofFile) { p.GenesisProof = [][]byte{make([]byte, 31)} },
		"a long hash":           func(p *ProofFile) { p.Leaves[0].Proof[0] = make([]byte, 33) },
		"index too large":       func(p *ProofFile) { p.Leaves[0].Index = 1 << 53 },
	} {
		p := proofFile(t)
		change(&p)
		if _, err := p.Marshal(); !errors.Is(err, ErrProofFile) {
			t.Errorf("%s: got %v, want %v", name, err, ErrProofFile)
		}
	}
	if !strings.HasSuffix(string(good), "}\n") {
		t.Errorf("the file ends with %q", good[len(good)-2:])
	}
}

func TestLogFile(t *testing.T) {
	for _, entries := range [][][]byte{nil, {[]byte("one")}, {[]byte("one"), {}, bytes.Repeat([]byte("x"), MaxChangeEnvelope)}} {
		got, err := ParseLogFile(FormatLogFile(entries))
		if err != nil || len(got) != len(entries) {
			t.Fatalf("%d entries became %d (%v)", len(entries), len(got), err)
		}
		for i := range got {
			if !bytes.Equal(got[i], entries[i]) {
				t.Errorf("entry %d differs", i)
			}
		}
	}
	for _, cut := range []string{"\x00", "\x00\x01", "\x00\x02x", "\x00\x00\xff\xff"} {
		if _, err := ParseLogFile([]byte(cut)); !errors.Is(err, ErrLogFile) {
			t.Errorf("%q: %v", cut, err)
		}
	}
}

// Whatever parses is written the same again.
func FuzzParseProofFile(f *testing.F) {
	var vectors struct {
		Proven, Refused []struct{ File string }
	}
	data, err := os.ReadFile("../testdata/membership-proof/proofs.json")
	if err != nil {
		f.Fatal(err)
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		f.Fatal(err)
	}
	for _, v := range append(vectors.Proven, vectors.Refused...) {
		f.Add([]byte(v.File))
	}
	if len(vectors.Proven) < 4 || len(vectors.Refused) < 20 {
		f.Fatalf("only %d and %d seeds", len(vectors.Proven), len(vectors.Refused))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := ParseProofFile(file)
		if err != nil {
			if !errors.Is(err, ErrProofFile) && !errors.Is(err, ErrProofVersion) {
				t.Fatal(err)
			}
			return
		}
		if again, err := p.Marshal(); err != nil || !bytes.Equal(again, file) {
			t.Fatalf("%s became %s (%v)", file, again, err)
		}
	})
}
