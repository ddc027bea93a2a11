package provenance_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

func sampleBundle(t testing.TB) *pb.ProofBundle {
	c := testcluster.New(t, testcluster.Options{})
	id := c.Submit(c.Register(nil), []byte("input"))
	c.Run(id, testcluster.OK("output"))
	return c.Bundle(id)
}

func TestBundleRoundTrip(t *testing.T) {
	b := sampleBundle(t)
	file, err := provenance.FormatBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	line, body, _ := bytes.Cut(file, []byte("\n"))
	if !strings.HasPrefix(string(line), "tallystick-bundle/1.0 sha256:") {
		t.Errorf("first line %q", line)
	}
	if !bytes.Equal(provenance.SealBundle(body), file) {
		t.Error("SealBundle does not give the file back")
	}
	again, err := provenance.ParseBundle(file)
	if err != nil || !proto.Equal(again, b) {
		t.Errorf("read back: %v", err)
	}
}

func TestParseBundleRefusesFiles(t *testing.T) {
	file, err := provenance.FormatBundle(sampleBundle(t))
	if err != nil {
		t.Fatal(err)
	}
	header := bytes.IndexByte(file, '\n') + 1
	replace := func(old, new string) []byte { return bytes.Replace(bytes.Clone(file), []byte(old), []byte(new), 1) }
	upper := append([]byte("tallystick-bundle/1.0 sha256:"+strings.ToUpper(string(file[29:header-1]))), file[header-1:]...)
	for _, test := range []struct {
		name string
		file []byte
		want error
	}{
		{"empty", nil, provenance.ErrBundleHeader},
		{"something else", []byte("PK\x03\x04"), provenance.ErrBundleHeader},
		{"body alone", file[header:], provenance.ErrBundleHeader},
		{"header alone", file[:header], provenance.ErrBundleDigest},
		{"header cut off", file[:header-1], provenance.ErrBundleHeader},
		{"header of another version", replace("bundle/1.0", "bundle/2.0"), provenance.ErrBundleVersion},
		{"digest in upper case", upper, provenance.ErrBundleHeader},
		{"carriage return", replace("\n", "\r\n"), provenance.ErrBundleHeader},
		{"cut off", file[:len(file)-1], provenance.ErrBundleDigest},
		{"longer", append(bytes.Clone(file), 0), provenance.ErrBundleDigest},
		{"too large", make([]byte, provenance.MaxBundleSize+1), record.ErrTooLarge},
		{"not protobuf", provenance.SealBundle([]byte("nonsense")), record.ErrNotCanonical},
		{"not canonical", provenance.SealBundle(append(bytes.Clone(file[header:]), 0x40, 0)), record.ErrNotCanonical},
		{"body version", provenance.SealBundle(bytes.Replace(file[header:], []byte("\x031.0"), []byte("\x032.0"), 1)), provenance.ErrBundleVersion},
	} {
		if _, err := provenance.ParseBundle(test.file); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	for i := 0; i < len(file); i += 1 + i/header*12 { // all of the header, some of the body
		flipped := bytes.Clone(file)
		flipped[i] ^= 1
		if _, err := provenance.ParseBundle(flipped); err == nil {
			t.Errorf("byte %d does not matter", i)
		}
	}
}

func TestBundleFields(t *testing.T) {
	good := sampleBundle(t)
	for name, edit := range map[string]func(b *pb.ProofBundle){
		"cluster":                   func(b *pb.ProofBundle) { b.Cluster = "Demo" },
		"execution id":              func(b *pb.ProofBundle) { b.ExecutionId = b.ExecutionId[1:] },
		"no records":                func(b *pb.ProofBundle) { b.Records = nil },
		"records out of order":      func(b *pb.ProofBundle) { b.Records[0], b.Records[1] = b.Records[1], b.Records[0] },
		"record twice":              func(b *pb.ProofBundle) { b.Records[1] = b.Records[0] },
		"too many records":          func(b *pb.ProofBundle) { b.Records = make([]*pb.ProvenRecord, provenance.MaxBundleRecords+1) },
		"short opening":             func(b *pb.ProofBundle) { b.Records[0].Opening = make([]byte, 32) },
		"long opening":              func(b *pb.ProofBundle) { b.Records[0].Opening = make([]byte, record.MaxOpeningSize+1) },
		"long proof":                func(b *pb.ProofBundle) { b.Records[0].InclusionProof = hashes(65) },
		"short hash":                func(b *pb.ProofBundle) { b.Records[0].InclusionProof = [][]byte{make([]byte, 31)} },
		"long consistency proof":    func(b *pb.ProofBundle) { b.ConsistencyProof = hashes(65) },
		"no audit checkpoint":       func(b *pb.ProofBundle) { b.AuditCheckpoint = nil },
		"long request checkpoint":   func(b *pb.ProofBundle) { b.RequestCheckpoint = make([]byte, 524_289) },
		"no membership checkpoint":  func(b *pb.ProofBundle) { b.MembershipCheckpoint = nil },
		"no changes":                func(b *pb.ProofBundle) { b.MembershipChanges = nil },
		"changes that are external": func(b *pb.ProofBundle) { b.ExternalMembership = true },
		"empty change":              func(b *pb.ProofBundle) { b.MembershipChanges[0] = nil },
		"long change":               func(b *pb.ProofBundle) { b.MembershipChanges[0] = make([]byte, 65_536) },
		"too many changes": func(b *pb.ProofBundle) {
			b.MembershipChanges = make([][]byte, provenance.MaxBundleChanges+1)
		},
	} {
		b := proto.CloneOf(good)
		edit(b)
		if _, err := provenance.FormatBundle(b); !errors.Is(err, provenance.ErrBundleField) {
			t.Errorf("%s, formatting: %v", name, err)
		}
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := provenance.ParseBundle(provenance.SealBundle(body)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	b := proto.CloneOf(good)
	b.MembershipChanges, b.ExternalMembership = nil, true
	if _, err := provenance.FormatBundle(b); err != nil {
		t.Errorf("external membership: %v", err)
	}
	b.ProtocolVersion = "1.1"
	if _, err := provenance.FormatBundle(b); !errors.Is(err, provenance.ErrBundleVersion) {
		t.Errorf("version 1.1: %v", err)
	}
}

func hashes(n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = make([]byte, 32)
	}
	return list
}

// What parses formats again to the same bytes.
func FuzzParseBundle(f *testing.F) {
	file, err := provenance.FormatBundle(sampleBundle(f))
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(file, []byte("\n"))
	f.Add(body)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := provenance.ParseBundle(provenance.SealBundle(body))
		if err != nil {
			return
		}
		again, err := provenance.FormatBundle(b)
		if err != nil || !bytes.Equal(again, provenance.SealBundle(body)) {
			t.Fatalf("formats differently: %v", err)
		}
	})
}

// Ancestors are found once each, and only so many.
func TestFoldAncestors(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	hash := c.Register(nil)
	run := func(parents ...digest.Digest) digest.Digest {
		id := c.Submit(hash, nil, parents...)
		c.Run(id, testcluster.OK("output"))
		return id
	}
	first := run()
	last := run(run(first), run(first))
	if ids, ok := c.Fold.Ancestors(last); !ok || len(ids) != 3 || slices.Contains(ids, last) {
		t.Errorf("%d ancestors, %v", len(ids), ok)
	}
	if ids, ok := c.Fold.Ancestors(first); !ok || len(ids) != 0 {
		t.Errorf("%d ancestors of the first, %v", len(ids), ok)
	}
	last = first
	for range provenance.MaxBundleAncestors {
		last = run(last)
	}
	if ids, ok := c.Fold.Ancestors(last); !ok || len(ids) != provenance.MaxBundleAncestors {
		t.Errorf("%d ancestors, %v", len(ids), ok)
	}
	if _, ok := c.Fold.Ancestors(run(last)); ok {
		t.Error("more ancestors than a bundle may have")
	}
}

// The form of ancestors is held like that of the execution itself.
func TestParseBundleAncestors(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	hash := c.Register(nil)
	first := c.Submit(hash, nil)
	c.Run(first, testcluster.OK("1"))
	second := c.Submit(hash, nil, first)
	c.Run(second, testcluster.OK("2"))
	third := c.Submit(hash, nil, second)
	c.Run(third, testcluster.OK("3"))
	for name, edit := range map[string]func(b *pb.ProofBundle){
		"out of order":    func(b *pb.ProofBundle) { slices.Reverse(b.Ancestors) },
		"twice":           func(b *pb.ProofBundle) { b.Ancestors[1] = b.Ancestors[0] },
		"no records":      func(b *pb.ProofBundle) { b.Ancestors[0].Records = nil },
		"no checkpoint":   func(b *pb.ProofBundle) { b.Ancestors[0].RequestCheckpoint = nil },
		"no id":           func(b *pb.ProofBundle) { b.Ancestors[1].ExecutionId = nil },
		"short hash":      func(b *pb.ProofBundle) { b.Ancestors[1].ConsistencyProof[0] = []byte{1} },
		"records swapped": func(b *pb.ProofBundle) { slices.Reverse(b.Ancestors[1].Records) },
		"too many": func(b *pb.ProofBundle) {
			b.Ancestors = slices.Repeat(b.Ancestors[:1], provenance.MaxBundleAncestors+1)
		},
		"too many records": func(b *pb.ProofBundle) {
			for i := range b.Ancestors {
				r := b.Ancestors[i].Records[0]
				b.Ancestors[i].Records = nil
				for n := range provenance.MaxBundleRecords/2 + i {
					b.Ancestors[i].Records = append(b.Ancestors[i].Records, &pb.ProvenRecord{Index: uint64(n), Opening: r.Opening})
				}
			}
		},
	} {
		b := c.BundleWithAncestors(third)
		edit(b)
		if _, err := provenance.FormatBundle(b); !errors.Is(err, provenance.ErrBundleField) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
