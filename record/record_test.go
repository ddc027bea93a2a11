package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden is one vector of testdata/record/records.json.
type golden struct {
	Kind    string          `json:"kind"`
	Message json.RawMessage `json:"message"` // protobuf's JSON form, for reading
	Record  string          `json:"record"`
	Salt    string          `json:"salt"`
	Entry   string          `json:"entry"`
	Dedup   string          `json:"dedup,omitempty"`
}

func TestGoldenVectors(t *testing.T) {
	var got []golden
	for i, r := range samples() {
		b, err := Marshal(r)
		if err != nil {
			t.Fatalf("%s: %v", KindOf(r), err)
		}
		salt := [SaltSize]byte(bytes.Repeat([]byte{0xa0 + byte(i)}, SaltSize))
		opening, err := NewOpening(salt, b)
		if err != nil {
			t.Fatal(err)
		}
		entry := opening.Entry()
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		g := golden{Kind: string(KindOf(r)), Message: compact(t, text), Record: hex.EncodeToString(b),
			Salt: hex.EncodeToString(salt[:]), Entry: hex.EncodeToString(entry[:])}
		if key, ok := DedupKey(r); ok {
			g.Dedup = key.String()
		}
		got = append(got, g)
	}
	out, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, '\n')
	name := filepath.Join("..", "testdata", "record", "records.json")
	if *update {
		if err := os.WriteFile(name, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, want) {
		t.Errorf("records differ from %s; the format is fixed, so this is a bug unless the version changes", name)
	}
}

// compact removes the white space that protojson varies on purpose.
func compact(t *testing.T, b []byte) json.RawMessage {
	var buf bytes.Buffer
	if err := json.Compact(&buf, b); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// The vectors are read back by the bytes alone.
func TestGoldenVectorsParse(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "testdata", "record", "records.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []golden
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 14 {
		t.Fatalf("%d vectors, want one for each of the 14 kinds", len(list))
	}
	for i, want := range samples() {
		raw, _ := hex.DecodeString(list[i].Record)
		salt, _ := hex.DecodeString(list[i].Salt)
		r, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", list[i].Kind, err)
		}
		if !proto.Equal(r, want) {
			t.Errorf("%s: read as %v", list[i].Kind, r)
		}
		o, err := ParseOpening(append(salt, raw...))
		if err != nil {
			t.Fatal(err)
		}
		if entry := o.Entry(); hex.EncodeToString(entry[:]) != list[i].Entry || !bytes.Equal(o.Record(), raw) {
			t.Errorf("%s: entry %x", list[i].Kind, entry)
		}
	}
}

// A fieldCase is a record in canonical form that breaks a rule of its fields.
type fieldCase struct {
	want error
	text string // in the error
	r    *pb.Record
}

func fieldCases() []fieldCase {
	change := func(kind Kind, edit func(r *pb.Record)) *pb.Record {
		for _, r := range samples() {
			if KindOf(r) == kind {
				edit(r)
				return r
			}
		}
		panic(kind)
	}
	short := fill(1)[:31]
	long := strings.Repeat("x", maxText+1)
	return []fieldCase{
		{ErrVersion, `"2.0"`, change(KindEpoch, func(r *pb.Record) { r.ProtocolVersion = "2.0" })},
		{ErrVersion, `""`, &pb.Record{}},
		{ErrField, "cluster", change(KindEpoch, func(r *pb.Record) { r.Cluster = "Example" })},
		{ErrField, "cluster", change(KindEpoch, func(r *pb.Record) { r.Cluster = strings.Repeat("a", 64) })},
		{ErrField, "cluster", change(KindEpoch, func(r *pb.Record) { r.Cluster = "" })},
		{ErrField, "cluster", change(KindEpoch, func(r *pb.Record) { r.Cluster = "a-" })},
		{ErrField, "body", change(KindEpoch, func(r *pb.Record) { r.Body = nil })},
		{ErrField, "actor", change(KindRequest, func(r *pb.Record) { r.Actor = nil })},
		{ErrField, "actor.principal", change(KindRequest, func(r *pb.Record) { r.Actor = &pb.Actor{} })},
		{ErrField, "actor", change(KindProvenance, func(r *pb.Record) { r.Actor = header(KindRequest).Actor })},
		{ErrField, "actor.key_id", change(KindRequest, func(r *pb.Record) { r.Actor.KeyId = "42" })},
		{ErrField, "actor.method", change(KindRequest, func(r *pb.Record) { r.Actor.Method = "" })},
		{ErrField, "actor.method", change(KindRequest, func(r *pb.Record) { r.Actor.Method = "a\x1b[31m" })},
		{ErrField, "actor.token_id", change(KindRequest, func(r *pb.Record) { r.Actor.TokenId = long })},
		{ErrField, "epoch.epoch", change(KindEpoch, func(r *pb.Record) { r.GetEpoch().Epoch = 0 })},
		{ErrField, "epoch.membership_size", change(KindEpoch, func(r *pb.Record) { r.GetEpoch().MembershipSize = 0 })},
		{ErrField, "epoch.membership_root", change(KindEpoch, func(r *pb.Record) { r.GetEpoch().MembershipRoot = short })},
		{ErrField, "contract.contract_hash", change(KindContract, func(r *pb.Record) { r.GetContract().ContractHash = nil })},
		{ErrField, "contract.envelope", change(KindContract, func(r *pb.Record) { r.GetContract().Envelope = nil })},
		{ErrField, "contract.envelope", change(KindContract, func(r *pb.Record) { r.GetContract().Envelope = make([]byte, maxEnvelope+1) })},
		{ErrField, "contract.module_size", change(KindContract, func(r *pb.Record) { r.GetContract().ModuleSize = 0 })},
		{ErrField, "retirement.tenant", change(KindRetirement, func(r *pb.Record) { r.GetRetirement().Tenant = "a b" })},
		{ErrField, "request.execution_id", change(KindRequest, func(r *pb.Record) { r.GetRequest().ExecutionId = short })},
		{ErrField, "cancellation.epoch", change(KindCancellation, func(r *pb.Record) { r.GetCancellation().Epoch = 0 })},
		{ErrField, "reschedule.attempt", change(KindReschedule, func(r *pb.Record) { r.GetReschedule().Attempt = 0 })},
		{ErrField, "attestation.node", change(KindAttestation, func(r *pb.Record) { r.GetAttestation().Node = "-" })},
		{ErrField, "divergence.attestation_digests", change(KindDivergence, func(r *pb.Record) { r.GetDivergence().AttestationDigests = nil })},
		{ErrField, "divergence.attestation_digests", change(KindDivergence, func(r *pb.Record) { r.GetDivergence().AttestationDigests[1] = short })},
		{ErrField, "provenance.nodes", change(KindProvenance, func(r *pb.Record) { r.GetProvenance().Nodes = nil })},
		{ErrField, "provenance.nodes", change(KindProvenance, func(r *pb.Record) { r.GetProvenance().Nodes = []string{"b", "a"} })},
		{ErrField, "provenance.attestation_digests", change(KindProvenance, func(r *pb.Record) { r.GetProvenance().Nodes = []string{"a"} })},
		{ErrField, "provenance.audit_root", change(KindProvenance, func(r *pb.Record) { r.GetProvenance().AuditRoot = nil })},
		{ErrField, "provenance.parents", change(KindProvenance, func(r *pb.Record) { r.GetProvenance().Parents = make([][]byte, 9) })},
		{ErrField, "expired.execution_id", change(KindExpired, func(r *pb.Record) { r.GetExpired().ExecutionId = nil })},
		{ErrField, "operation.code", change(KindOperation, func(r *pb.Record) { r.GetOperation().Code = "Not OK" })},
		{ErrField, "operation.code", change(KindOperation, func(r *pb.Record) { r.GetOperation().Code = "" })},
		{ErrField, "operation.tenant", change(KindOperation, func(r *pb.Record) { r.GetOperation().Tenant = "A" })},
		{ErrField, "operation.object", change(KindOperation, func(r *pb.Record) { r.GetOperation().Object = short })},
		{ErrField, "operation_batch.items", change(KindOperationBatch, func(r *pb.Record) { r.GetOperationBatch().Items = nil })},
		{ErrField, "operation_batch.items.count", change(KindOperationBatch, func(r *pb.Record) { r.GetOperationBatch().Items[1].Count = 0 })},
		{ErrField, "unauthenticated.counts", change(KindUnauthenticated, func(r *pb.Record) { r.GetUnauthenticated().Counts = nil })},
		{ErrField, "unauthenticated.counts.count", change(KindUnauthenticated, func(r *pb.Record) { r.GetUnauthenticated().Counts[0].Count = 0 })},
		{ErrField, "erasure.reason", change(KindErasure, func(r *pb.Record) { r.GetErasure().Reason = "" })},
	}
}

func TestParseRefusesFields(t *testing.T) {
	for _, test := range fieldCases() {
		if _, err := Marshal(test.r); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("Marshal, %s: %v, want %v", test.text, err, test.want)
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(test.r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(b); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("Parse, %s: %v, want %v", test.text, err, test.want)
		}
	}
}

func TestMarshalRefusesWhatHasNoCanonicalForm(t *testing.T) {
	unknown := samples()[0]
	unknown.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 1})
	if _, err := Marshal(unknown); !errors.Is(err, ErrNotCanonical) {
		t.Errorf("unknown field: %v", err)
	}
	big := samples()[11]
	for len(big.GetOperationBatch().Items) < 3000 {
		big.GetOperationBatch().Items = append(big.GetOperationBatch().Items, big.GetOperationBatch().Items[0])
	}
	if _, err := Marshal(big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("record of 300 kB: %v", err)
	}
	text := samples()[0]
	text.Actor = header(KindRequest).Actor
	text.Actor.TokenId = "\xff"
	if _, err := Encode(text, Limits{Bytes: MaxSize, Elements: 1}); !errors.Is(err, ErrNotCanonical) {
		t.Errorf("text that is not UTF-8: %v", err)
	}
}

func TestOpening(t *testing.T) {
	if _, err := ParseOpening(make([]byte, SaltSize)); !errors.Is(err, ErrOpening) {
		t.Errorf("opening without record: %v", err)
	}
	if _, err := ParseOpening(make([]byte, MaxOpeningSize+1)); !errors.Is(err, ErrOpening) {
		t.Errorf("opening over the limit: %v", err)
	}
	// RFC 4231, test case 2, has a shorter key, which HMAC pads with zeros.
	var salt [SaltSize]byte
	copy(salt[:], "Jefe")
	entry := Commit(salt, []byte("what do ya want for nothing?"))
	if got := hex.EncodeToString(entry[:]); got != "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" {
		t.Errorf("commitment %s", got)
	}
	in := append(salt[:], "record"...)
	o, err := ParseOpening(in)
	if err != nil {
		t.Fatal(err)
	}
	in[40-8] ^= 1
	o.Bytes()[33] ^= 1
	o.Record()[0] ^= 1
	if o.Entry() != Commit(salt, []byte("record")) {
		t.Error("an opening shares memory with its caller")
	}
	var zero Opening
	if zero.Record() != nil || zero.Entry() != [EntrySize]byte{} {
		t.Error("the zero opening has content")
	}
}

func TestDedupKeysTellRecordsApart(t *testing.T) {
	seen := map[string]Kind{}
	for _, r := range samples() {
		key, ok := DedupKey(r)
		switch KindOf(r) {
		case KindOperation, KindOperationBatch, KindUnauthenticated:
			if ok {
				t.Errorf("%s has a deduplication key", KindOf(r))
			}
			continue
		}
		if other, dup := seen[key.String()]; dup || !ok {
			t.Errorf("%s and %s share a key (%v)", KindOf(r), other, ok)
		}
		seen[key.String()] = KindOf(r)
	}
	r := samples()[6]
	before, _ := DedupKey(r)
	r.TimeUnixMs++
	if after, _ := DedupKey(r); after != before {
		t.Error("the key depends on the clock")
	}
	r.GetAttestation().Envelope = []byte("{}")
	if _, ok := DedupKey(r); ok {
		t.Error("an unreadable attestation has a key")
	}
	if _, ok := DedupKey(&pb.Record{}); ok || KindOf(&pb.Record{}) != "" {
		t.Error("a record without body has a kind or a key")
	}
}
