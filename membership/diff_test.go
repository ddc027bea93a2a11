package membership

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// Every kind of change shows as a difference, in the words of what it did.
func TestDiff(t *testing.T) {
	h, _ := vectorHistory(t)
	at := func(epoch uint64) *State {
		s, err := h.StateAt(epoch)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := map[uint64][]string{ // by the epoch that the change makes
		2:  {`+ principal "node-1": node "node-1", 1 key: name "rack 4`, `+ key "node-1": key ` + keyOf("node-1").ID() + " for attestation, token"},
		5:  {`~ description "node-1": no name, trust level 2, label "arch" = "arm64"; was name`},
		6:  {`- key "acme": key ` + keyOf("acme contract").ID(), `+ key "acme": key ` + keyOf("acme contract 2").ID() + " for contract"},
		8:  {`- key "alice": key ` + keyOf("alice").ID()},
		9:  {`~ admin threshold: 3; was 2`},
		10: {`~ node quorum: 2; was 1`},
		11: {`~ limit "gas": 1000000; was 20000000000`, `~ limit "max_assigned": 16; was 64`},
		12: {`~ log "audit": "demo/audit" signed by demo/audit+`},
		13: {`~ log "audit": "demo/audit.2" signed by demo/audit.2+`},
		14: {`- principal "acme": tenant "acme", 2 keys`},
	}
	for epoch := uint64(2); epoch <= h.Size(); epoch++ {
		list := at(epoch - 1).Diff(at(epoch))
		if len(list) == 0 {
			t.Errorf("epoch %d makes no difference", epoch)
		}
		for i, prefix := range want[epoch] {
			if i >= len(list) || !strings.HasPrefix(list[i].String(), prefix) {
				t.Errorf("epoch %d: %v, want %q", epoch, list, prefix)
			}
		}
		if again := at(epoch).Diff(at(epoch)); again != nil {
			t.Errorf("epoch %d differs from itself: %v", epoch, again)
		}
		// Backwards it is the same with before and after exchanged.
		back := at(epoch).Diff(at(epoch - 1))
		if len(back) != len(list) {
			t.Errorf("epoch %d: %d differences, backwards %d", epoch, len(list), len(back))
		}
	}
}

// Two states differ in words exactly if their identity hashes differ.
func TestDiffIsComplete(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	states := []*State{mustGenesis(t)}
	for i := range 60 {
		s := states[len(states)-1]
		var effect Effect
		switch rng.IntN(4) {
		case 0:
			effect = AddPrincipal{nodeOf(fmt.Sprint("n", i))}
		case 1:
			effect = UpdatePrincipal{ID: "node-0", TrustLevel: uint64(rng.IntN(3))}
		case 2:
			effect = SetAdminThreshold{uint64(1 + rng.IntN(3))}
		default:
			effect = RemovePrincipal{fmt.Sprint("n", rng.IntN(i+1))}
		}
		if next, err := unsigned(t, s, effect); err == nil {
			states = append(states, next)
		}
	}
	for _, a := range states {
		for _, b := range states {
			if got, want := len(a.Diff(b)) == 0, a.IdentityHash() == b.IdentityHash(); got != want {
				t.Fatalf("epochs %d and %d: no difference %t, same hash %t", a.Epoch(), b.Epoch(), got, want)
			}
		}
	}
}

// A preview makes the state that applying makes, and refuses what applying
// refuses for another reason than signatures.
func TestPreview(t *testing.T) {
	s := mustGenesis(t)
	payload := mustPropose(t, s, AddPrincipal{nodeOf("node-1")})
	shown, change, err := s.Preview(payload)
	if err != nil || change.Epoch != 2 {
		t.Fatal(err)
	}
	made, _, err := s.Apply(sign(t, payload, "alice", "bob", "node-1"))
	if err != nil {
		t.Fatal(err)
	}
	if shown.IdentityHash() != made.IdentityHash() || shown.PayloadDigest() != made.PayloadDigest() || shown.Epoch() != made.Epoch() {
		t.Error("the state shown is not the one made")
	}
	checkState(t, shown)
	for name, test := range map[string]struct {
		state   *State
		payload []byte
		want    RefusalCode
	}{
		"stale":        {made, payload, RefusedReplay},
		"other branch": {mustApply(t, s, gasLimit(5)), altered(t, payload, func(c *Change) { c.Epoch = 3 }), RefusedPrevious},
		"no JSON":      {s, []byte("x"), RefusedSyntax},
		"lock-out":     {s, altered(t, payload, func(c *Change) { c.Effect = SetAdminThreshold{4} }), RefusedLockOut},
		"no change":    {s, altered(t, payload, func(c *Change) { c.Effect = SetAdminThreshold{2} }), RefusedNoChange},
		"unknown":      {s, altered(t, payload, func(c *Change) { c.Effect = RemovePrincipal{"x"} }), RefusedUnknownPrincipal},
		"other hash":   {s, altered(t, payload, func(c *Change) { c.MembershipHash[0] ^= 1 }), RefusedHash},
		"other effect": {s, altered(t, payload, func(c *Change) { c.Effect = gasLimit(5) }), RefusedHash},
	} {
		next, _, err := test.state.Preview(test.payload)
		if !errors.Is(err, test.want) || next != nil {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}
