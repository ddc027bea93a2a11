package contract

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
)

func mustParse(t testing.TB, payload string) *Contract {
	t.Helper()
	c, err := ParseContract([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func acme(tenant string) []ed25519.PublicKey {
	if tenant != "acme" {
		return nil
	}
	return []ed25519.PublicKey{seededKey("globex").Public().(ed25519.PublicKey), seededKey("acme").Public().(ed25519.PublicKey)}
}

func TestSignThenOpen(t *testing.T) {
	c := mustParse(t, contractPayload)
	env, hash, err := Sign(c, seededKey("acme"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenContract(env, Authority{Cluster: vectorCluster, Keys: acme})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s.Value, c) || s.Hash != hash || hash != digest.Of([]byte(contractPayload)) || !s.Key.Equal(seededKey("acme").Public()) {
		t.Errorf("opened %+v", s)
	}
	// Each kind has a payload type of its own, so no envelope passes for another.
	a := Authority{Cluster: vectorCluster, Keys: acme}
	_, asRetirement := OpenRetirement(env, a)
	_, asSubmission := OpenSubmission(env, a)
	_, asCancellation := OpenCancellation(env, a)
	for _, err := range []error{asRetirement, asSubmission, asCancellation} {
		if !errors.Is(err, RefusedEnvelope) {
			t.Errorf("contract opened as another kind: %v", err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	c := mustParse(t, contractPayload)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Sign(c, p256); !errors.Is(err, RefusedSigner) || !errors.Is(err, dsse.ErrKey) {
		t.Errorf("key of another algorithm: got %v", err)
	}
	c.Agreement = 0
	if _, _, err := Sign(c, seededKey("acme")); !errors.Is(err, RefusedScheduling) {
		t.Errorf("invalid contract: got %v", err)
	}
	c = mustParse(t, contractPayload)
	c.Environment[1][1] = "\xff"
	if _, err := c.Marshal(); !errors.Is(err, RefusedSyntax) || !errors.Is(err, strictjson.ErrValue) {
		t.Errorf("value that is not UTF-8: got %v", err)
	}
	// Escapes make the payload up to six times as long as the arguments.
	c = mustParse(t, contractPayload)
	c.Argv = []string{strings.Repeat("\x01", MaxArgumentBytes-100)}
	if _, err := c.Marshal(); !errors.Is(err, RefusedSyntax) {
		t.Errorf("payload above its bound: got %v", err)
	}
	s := &Submission{ProtocolVersion: "1.0", Cluster: "c", Tenant: "t", Nonce: make(Nonce, 16), LastEpoch: maxInteger + 1}
	if _, err := s.Marshal(); !errors.Is(err, RefusedValue) {
		t.Errorf("last epoch above 2^53 - 1: got %v", err)
	}
}

func TestArgs(t *testing.T) {
	c := mustParse(t, contractPayload)
	if got := c.Args(); !slices.Equal(got, []string{"inventory", "--json"}) {
		t.Errorf("got %q", got)
	}
	c.Argv = nil
	if got := c.Args(); !slices.Equal(got, []string{"inventory"}) {
		t.Errorf("without argv: got %q", got)
	}
}

// A contract at exactly the cluster's limits is within them; lowering any one
// limit by 1 puts it outside, and the error names that limit.
func TestWithin(t *testing.T) {
	c := mustParse(t, meteredPayload)
	c.Argv = []string{"abc"}
	exact := ClusterLimits{ArgumentBytes: 3, DiagnosticsBytes: 1, Frames: 1000, Gas: 1e9, InputBytes: 1, MaxAssigned: 1, MemoryPages: 1, ModuleBytes: 9, OutputBytes: 1}
	if err := c.Within(exact); err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[ClusterLimits]().NumField() {
		name := reflect.TypeFor[ClusterLimits]().Field(i).Tag.Get("json")
		l := exact
		f := reflect.ValueOf(&l).Elem().Field(i)
		f.SetUint(f.Uint() - 1)
		err := c.Within(l)
		if name == "module_bytes" {
			if err := c.CheckModule(make([]byte, 9), l); !errors.Is(err, RefusedLimits) {
				t.Errorf("module above the limit: got %v", err)
			}
			continue
		}
		if !errors.Is(err, RefusedLimits) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s lowered: got %v", name, err)
		}
	}
}

func TestCheckModule(t *testing.T) {
	c := mustParse(t, contractPayload)
	if err := c.CheckModule([]byte("x"), DefaultClusterLimits()); !errors.Is(err, RefusedModule) {
		t.Errorf("another module: got %v", err)
	}
	c.Module = digest.Of([]byte("x"))
	if err := c.CheckModule([]byte("x"), DefaultClusterLimits()); err != nil {
		t.Error(err)
	}
}

// The execution id, field by field as docs/formats/contract.md lists them.
func TestExecutionIDIsAsDocumented(t *testing.T) {
	s, err := ParseSubmission([]byte(submissionPayload))
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	want := digest.New("tallystick/v1/execution-id").Text("1.0").Text("c1.example").Text("acme").Digest(digest.Digest{}).
		Digest(digest.Digest{}).Uint(2).Digest(digest.Digest{0x10}).Digest(digest.Digest{31: 2}).Bytes(nonce).Uint(9).Sum()
	if got := s.ExecutionID(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// No member can change without changing the id.
func TestExecutionIDBindsEveryMember(t *testing.T) {
	base, err := ParseSubmission([]byte(submissionPayload))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(s *Submission){
		"cluster":          func(s *Submission) { s.Cluster += "x" },
		"contract":         func(s *Submission) { s.Contract[0]++ },
		"input":            func(s *Submission) { s.Input[0]++ },
		"last_epoch":       func(s *Submission) { s.LastEpoch++ },
		"nonce":            func(s *Submission) { s.Nonce = append(Nonce{1}, s.Nonce...) },
		"parents":          func(s *Submission) { s.Parents = s.Parents[:1] },
		"protocol_version": func(s *Submission) { s.ProtocolVersion = "1.1" },
		"tenant":           func(s *Submission) { s.Tenant += "x" },
	} {
		s := *base
		change(&s)
		if s.ExecutionID() == base.ExecutionID() {
			t.Errorf("%s does not change the execution id", name)
		}
	}
	if n := reflect.TypeFor[Submission]().NumField(); n != 8 {
		t.Errorf("a submission has %d members, this test knows 8", n)
	}
}

func TestValidIdentifier(t *testing.T) {
	for _, s := range []string{"a", "0", "a-b", "a.b_c", strings.Repeat("a", 63)} {
		if !ValidIdentifier(s) {
			t.Errorf("%q refused", s)
		}
	}
	for _, s := range []string{"", "-", "a-", "-a", ".a", "a.", "A", "a b", "a/b", "é", "a\x00", strings.Repeat("a", 64)} {
		if ValidIdentifier(s) {
			t.Errorf("%q accepted", s)
		}
	}
}

func TestRefusalErrorText(t *testing.T) {
	_, err := ParseContract([]byte(`{}`))
	if !strings.Contains(err.Error(), "syntax") || !strings.Contains(err.Error(), "agreement") {
		t.Errorf("error %q does not name code and member", err)
	}
	if got := RefusedLimits.Error(); got != "refused: limits" {
		t.Errorf("got %q", got)
	}
	if e := refuse(RefusedLimits, "x"); len(e.Unwrap()) != 1 {
		t.Errorf("a refusal without cause unwraps to %v", e.Unwrap())
	}
}

// fuzzPayload: what parses is valid, re-encodes canonically and parses to the
// same value; what does not is refused with a code.
func fuzzPayload[T any, P statement[T]](f *testing.F, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := parse[T, P](payload)
		if err != nil {
			var refusal *RefusalError
			if !errors.As(err, &refusal) {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		canonical, err := marshal[T](P(v))
		if err != nil {
			t.Fatalf("valid payload does not encode: %v", err)
		}
		again, err := parse[T, P](canonical)
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("canonical form reads as %+v, %v; want %+v", again, err, v)
		}
	})
}

func FuzzParseContract(f *testing.F) {
	fuzzPayload[Contract](f, contractPayload, meteredPayload, `{"protocol_version":"2.0"}`)
}

func FuzzParseSubmission(f *testing.F) { fuzzPayload[Submission](f, submissionPayload) }

func FuzzParseRetirement(f *testing.F) {
	fuzzPayload[Retirement](f, `{"cluster":"c","contract":"`+zeros+`","protocol_version":"1.0","tenant":"t"}`)
}

func FuzzParseCancellation(f *testing.F) {
	fuzzPayload[Cancellation](f, `{"cluster":"c","execution":"`+zeros+`","protocol_version":"1.0","tenant":"t"}`)
}
