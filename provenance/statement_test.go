package provenance_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/provenance"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden compares b with a file under testdata/provenance.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("..", "testdata", "provenance", name)
	if *update {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s is\n%s\nnow it would be\n%s", path, want, b)
	}
}

func sampleStatement() *provenance.Statement {
	d := func(s string) digest.Digest { return digest.Of([]byte(s)) }
	rewritten, gas := d("rewritten"), uint64(123_456)
	return &provenance.Statement{
		Cluster: "example", Tenant: "tenant-1", Contract: d("contract"), Submission: d("submission"), Input: d("input"),
		Parents: []digest.Digest{d("parent")}, ParentOutputs: []digest.Digest{d("parent output")}, Execution: d("execution"),
		Node: "node-2", Attempt: 1, Epoch: 3, MembershipHash: d("membership"), ScheduleHash: d("schedule"),
		RequestCheckpoint:    provenance.CheckpointRef{Origin: "example/audit", Size: 42, RootHash: d("audit root")},
		MembershipCheckpoint: provenance.CheckpointRef{Origin: "example/membership", Size: 4, RootHash: d("membership root")},
		Module:               d("module"), RewrittenModule: &rewritten,
		Outcome: contract.Outcome{Kind: contract.OutcomeExit, ExitCode: 3, Gas: &gas, PeakPages: 17, OutputLength: 6,
			OutputDigest: d("output"), DiagnosticsLength: 4, DiagnosticsDigest: d("warn")},
		SoftwareVersion: "v1.0.0",
	}
}

func TestStatementGolden(t *testing.T) {
	s := sampleStatement()
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "statement.json", b)
	if again, err := provenance.ParseStatement(b); err != nil || !reflect.DeepEqual(again, s) {
		t.Errorf("read back as %+v, %v", again, err)
	}
	vector, err := json.MarshalIndent(map[string]string{
		"statement":          string(b),
		"attestation_digest": digest.Of(b).String(),
		"result_digest":      s.Outcome.ResultDigest().String(),
		"execution_proof": provenance.ExecutionProof(s.Execution, s.Contract, s.Input, s.ScheduleHash,
			s.Outcome.ResultDigest()).String(),
		"chain_start":           provenance.ChainStart(s.Execution).String(),
		"chain_after_7_entry_a": provenance.ChainNext(provenance.ChainStart(s.Execution), 7, [32]byte{0xaa}).String(),
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "hashes.json", append(vector, '\n'))
}

// The smallest statement leaves out every optional member.
func TestStatementWithoutOptionalMembers(t *testing.T) {
	s := sampleStatement()
	s.Parents, s.ParentOutputs, s.RewrittenModule, s.SoftwareVersion = nil, nil, nil, ""
	s.Outcome.Gas = nil
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"parent", "rewritten", `"version"`, "gas", "null"} {
		if bytes.Contains(b, []byte(word)) {
			t.Errorf("%s in %s", word, b)
		}
	}
	if again, err := provenance.ParseStatement(b); err != nil || !reflect.DeepEqual(again, s) {
		t.Errorf("read back as %+v, %v", again, err)
	}
}

func TestParseStatementRefuses(t *testing.T) {
	good, err := sampleStatement().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range statementEdits(string(good)) {
		if _, err := provenance.ParseStatement([]byte(text)); !errors.Is(err, provenance.ErrStatement) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := provenance.ParseStatement(append(good, ' ', '{')); !errors.Is(err, provenance.ErrStatement) {
		t.Errorf("trailing bytes: %v", err)
	}
	if _, err := provenance.ParseStatement(bytes.Repeat([]byte(" "), 70_000)); !errors.Is(err, provenance.ErrStatement) {
		t.Errorf("70,000 bytes: %v", err)
	}
}

func TestMarshalRefusesWhatParseWould(t *testing.T) {
	for name, edit := range map[string]func(s *provenance.Statement){
		"outcome": func(s *provenance.Statement) { s.Outcome.Kind = "fine" },
		"epoch":   func(s *provenance.Statement) { s.Epoch = 0 },
		"parents": func(s *provenance.Statement) { s.ParentOutputs = nil },
		"many parents": func(s *provenance.Statement) {
			s.Parents, s.ParentOutputs = make([]digest.Digest, 9), make([]digest.Digest, 9)
		},
		"size":    func(s *provenance.Statement) { s.RequestCheckpoint.Size = 1 << 53 },
		"version": func(s *provenance.Statement) { s.SoftwareVersion = "v1\n" },
		"attempt": func(s *provenance.Statement) { s.Attempt = 1 << 60 },
		"length":  func(s *provenance.Statement) { s.Cluster = strings.Repeat("c", 40_000) },
	} {
		s := sampleStatement()
		edit(s)
		if b, err := s.Marshal(); !errors.Is(err, provenance.ErrStatement) {
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
}

// What parses marshals again to something that parses to the same statement.
func FuzzParseStatement(f *testing.F) {
	good, err := sampleStatement().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := provenance.ParseStatement(b)
		if err != nil {
			return
		}
		canonical, err := s.Marshal()
		if err != nil {
			t.Fatalf("%s parses and does not marshal: %v", b, err)
		}
		if again, err := provenance.ParseStatement(canonical); err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%s became %s: %v", b, canonical, err)
		}
	})
}
