package membership

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/dsse"
)

// seedEnvelopes returns the envelopes of the golden vectors, lawful and not.
func seedEnvelopes(f *testing.F) (envelopes []string) {
	f.Helper()
	read := func(name string, v any) {
		data, err := os.ReadFile("../testdata/membership/" + name)
		if err != nil {
			f.Fatal(err)
		}
		if err := json.Unmarshal(data, v); err != nil {
			f.Fatal(err)
		}
	}
	type entry struct{ Envelope string }
	var chain struct{ Changes []entry }
	var refused struct{ Refused []entry }
	read("chain.json", &chain)
	read("refused.json", &refused)
	for _, e := range append(chain.Changes, refused.Refused...) {
		envelopes = append(envelopes, e.Envelope)
	}
	if len(envelopes) < 50 {
		f.Fatalf("only %d seeds", len(envelopes))
	}
	return envelopes
}

func seedPayloads(f *testing.F) (payloads [][]byte) {
	for _, envelope := range seedEnvelopes(f) {
		if e, err := dsse.Parse([]byte(envelope)); err == nil {
			payloads = append(payloads, e.Payload)
		}
	}
	return payloads
}

func onlyRefusals(t *testing.T, err error) {
	t.Helper()
	var r *RefusalError
	if err != nil && (!errors.As(err, &r) || hints[r.Code] == "") {
		t.Fatalf("%v is not a refusal with a known code", err)
	}
}

// What parses has one canonical form, which parses to the same.
func FuzzParseChange(f *testing.F) {
	for _, p := range seedPayloads(f) {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := ParseChange(payload)
		if err != nil {
			onlyRefusals(t, err)
			return
		}
		canonical, err := c.payload()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseChange(canonical)
		if err != nil {
			t.Fatalf("canonical form of what was accepted: %v", err)
		}
		if twice, err := again.payload(); err != nil || !bytes.Equal(twice, canonical) {
			t.Fatalf("%s became %s (%v)", canonical, twice, err)
		}
		for _, line := range c.Describe() {
			if strings.ContainsFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }) {
				t.Errorf("a signer would be shown %q", line)
			}
		}
	})
}

// Whatever bytes are handed in, they are refused by name or make a state that
// the reference agrees with; the state before is as it was.
func FuzzApply(f *testing.F) {
	for _, e := range seedEnvelopes(f) {
		f.Add([]byte(e))
	}
	s := mustGenesis(f)
	before := s.IdentityHash()
	f.Fuzz(func(t *testing.T, envelope []byte) {
		for _, apply := range []func([]byte) (*State, *ChangeInfo, error){s.Apply, Genesis} {
			next, _, err := apply(envelope)
			onlyRefusals(t, err)
			if err == nil {
				checkState(t, next)
			}
		}
		if s.IdentityHash() != before || s.tree().root() != s.MembershipHash() {
			t.Fatal("the state before has changed")
		}
	})
}

// The same with signatures that verify, so that the rules behind them are met
// by arbitrary payloads too.
func FuzzApplySigned(f *testing.F) {
	for _, p := range seedPayloads(f) {
		f.Add(p)
	}
	s := mustGenesis(f)
	signers := []dsse.Signer{signerOf(f, "alice"), signerOf(f, "bob")}
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := dsse.Sign(PayloadType, payload, signers...)
		if err != nil {
			return
		}
		envelope, err := e.Marshal()
		if err != nil {
			return
		}
		next, _, err := s.Apply(envelope)
		onlyRefusals(t, err)
		if err == nil {
			checkState(t, next)
		}
		// With the hashes set right, only the effect itself can be unlawful.
		c, err := ParseChange(payload)
		if err != nil || c.Effect.Kind() == KindGenesis {
			return
		}
		proposed, err := s.Propose(c.Effect)
		onlyRefusals(t, err)
		if err != nil {
			return
		}
		next, _, err = s.Apply(sign(t, proposed, "alice", "bob"))
		onlyRefusals(t, err)
		if err == nil {
			checkState(t, next)
		}
	})
}

// Leaf data that a root covers is accepted only in its one canonical form.
func FuzzCheckMember(f *testing.F) {
	for p := range mustGenesis(f).Principals() {
		data, err := p.LeafData()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, id := range []string{"alice", "node-0"} {
			p, err := CheckMember(hashLeaf(data), 1, id, Leaf{Data: data})
			if err != nil {
				if !errors.Is(err, ErrProof) {
					t.Fatal(err)
				}
				continue
			}
			if again, err := p.LeafData(); err != nil || !bytes.Equal(again, data) || p.ID != id {
				t.Fatalf("%s was accepted as %s (%v)", data, again, err)
			}
		}
	})
}
