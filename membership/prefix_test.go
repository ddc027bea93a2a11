package membership

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
)

// A prefix answers every question as the history that was folded from its changes
// alone, and neither is moved by the other.
func TestPrefixEqualsFold(t *testing.T) {
	h := newTestHistory(t)
	tenant := Principal{ID: "acme", Kind: KindTenant, Keys: []Key{keyOf("k1", UseContract), keyOf("k2", UseSubmission)}}
	k3 := keyOf("k3", UseContract)
	appendChange(t, h, AddPrincipal{tenant}, "k1", "k2")
	appendChange(t, h, RotateKey{ID: "acme", Add: &k3, Remove: keyOf("k1").ID()}, "k3")
	appendChange(t, h, RotateKey{ID: "acme", Remove: keyOf("k2").ID()})
	appendChange(t, h, RemovePrincipal{"acme"})
	appendChange(t, h, AddPrincipal{tenant}, "k1", "k2") // the same keys again
	for i := range warmEpochs + 4 {
		appendChange(t, h, gasLimit(uint64(i+2)))
	}

	for size := uint64(0); size <= h.Size(); size++ {
		want := NewHistory()
		for epoch := uint64(1); epoch <= size; epoch++ {
			_, envelope, err := h.Change(epoch)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := want.Append(envelope); err != nil {
				t.Fatal(err)
			}
		}
		got, err := h.Prefix(size)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := answers(got, h.Size()+1), answers(want, h.Size()+1); !reflect.DeepEqual(a, b) {
			t.Fatalf("prefix of %d changes answers\n%v\nwant\n%v", size, a, b)
		}
		if _, err := got.Append(genesisEnvelope(t, testCluster)); !errors.Is(err, errFixed) {
			t.Errorf("a prefix takes a change: %v", err)
		}
	}
	if _, err := h.Prefix(h.Size() + 1); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("more than there is: %v", err)
	}
	// What a prefix derives does not stay in the history.
	old, err := h.Prefix(4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Current().ProveMember("alice"); err != nil {
		t.Fatal(err)
	}
	if h.epochs[3].state.cachedTree.Load() != nil {
		t.Error("a proof for a prefix stays in the history")
	}
	appendChange(t, h, RemovePrincipal{"acme"})
	if whole, err := h.Prefix(h.Size() - 1); err != nil || whole.Revoked(keyOf("k1").ID(), 6, h.Size()) {
		t.Errorf("a prefix knows of a later revocation (%v)", err)
	}
}

// answers are all that a history says of its epochs, of sizes up to one that it
// may not have, and of the keys of the test.
func answers(h *History, most uint64) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	names := []string{"k1", "k2", "k3", "alice"}
	ids := map[string]string{}
	for _, name := range names {
		ids[name] = keyOf(name).ID()
	}
	say("size %d", h.Size())
	for n := range most + 1 {
		root, err := h.Root(n)
		say("root %d: %v %v", n, root, err)
		state, err := h.StateAt(n)
		if err == nil {
			say("state %d: %s %s", n, state.MembershipHash(), state.IdentityHash())
		}
		_, envelope, changeErr := h.Change(n)
		say("change %d: %d bytes, %v, %v", n, len(envelope), err, changeErr)
		for _, name := range names {
			for _, use := range []Use{UseContract, UseSubmission} {
				say("%s %s at %d: %t", name, use, n, h.KeyValidAt("acme", ids[name], use, n))
			}
			for by := n; by <= h.Size(); by++ { // beyond it nobody may ask
				say("%s revoked %d to %d: %t", name, n, by, h.Revoked(ids[name], n, by))
			}
		}
	}
	if s := h.Current(); s != nil {
		say("now %d", s.Epoch())
	}
	return list
}
