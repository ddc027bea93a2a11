package membership

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// append proposes, signs and appends one change.
func appendChange(t testing.TB, h *History, effect Effect, more ...string) *ChangeInfo {
	t.Helper()
	info, err := h.Append(proposeSigned(t, h.Current(), effect, more...))
	if err != nil {
		t.Fatalf("appending %s: %v", effect.Kind(), err)
	}
	return info
}

func newTestHistory(t testing.TB) *History {
	t.Helper()
	h := NewHistory()
	if _, err := h.Append(genesisEnvelope(t, testCluster)); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHistoryFolds(t *testing.T) {
	h := NewHistory()
	if h.Current() != nil || h.Size() != 0 {
		t.Error("an empty history has a state")
	}
	if _, err := h.Append([]byte("garbage")); !errors.Is(err, RefusedEnvelope) {
		t.Errorf("got %v, want %v", err, RefusedEnvelope)
	}
	h = newTestHistory(t)
	genesis, _, _ := h.Change(1)
	if genesis.Change.Effect.Kind() != KindGenesis {
		t.Errorf("change 1 is %s", genesis.Change.Effect.Kind())
	}
	states := []*State{h.Current()}
	for i := range 40 {
		name := fmt.Sprint("node-", i+1)
		envelope := proposeSigned(t, h.Current(), AddPrincipal{nodeOf(name)}, name)
		if _, err := h.Append(envelope); err != nil {
			t.Fatal(err)
		}
		envelope[0] ^= 1 // the history keeps its own copy
		states = append(states, h.Current())
	}
	_, err := h.Append(genesisEnvelope(t, testCluster))
	wantRefusal(t, err, RefusedGenesis)
	if h.Size() != 41 {
		t.Fatalf("size %d, want 41", h.Size())
	}
	var leaves [][]byte
	for i, want := range states {
		epoch := uint64(i + 1)
		s, err := h.StateAt(epoch)
		if err != nil {
			t.Fatal(err)
		}
		if s.Epoch() != epoch || s.IdentityHash() != want.IdentityHash() || s.Count() != want.Count() {
			t.Errorf("state of epoch %d differs from what it was", epoch)
		}
		checkState(t, s)
		_, envelope, err := h.Change(epoch)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, envelope)
		root, err := h.Root(epoch)
		if err != nil || !bytes.Equal(root[:], refTree(leaves)) {
			t.Errorf("root at size %d is %v (%v), want %x", epoch, root, err, refTree(leaves))
		}
	}
	if root, err := h.Root(0); err != nil || root != tlog.Hash(sha256.Sum256(nil)) {
		t.Errorf("root at size 0 is %v (%v)", root, err)
	}
	for _, epoch := range []uint64{0, 42, 1 << 63} {
		if _, err := h.StateAt(epoch); !errors.Is(err, ErrUnknownEpoch) {
			t.Errorf("state at %d: %v", epoch, err)
		}
		if _, _, err := h.Change(epoch); !errors.Is(err, ErrUnknownEpoch) {
			t.Errorf("change %d: %v", epoch, err)
		}
	}
	if _, err := h.Root(42); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("root at 42: %v", err)
	}
}

// Only the latest states keep what can be derived again.
func TestHistoryKeepsOldStatesLight(t *testing.T) {
	h := newTestHistory(t)
	for i := range 20 {
		appendChange(t, h, gasLimit(uint64(i+2)))
	}
	for i, e := range h.epochs {
		if warm := i >= len(h.epochs)-warmEpochs; (e.state.cachedTree.Load() != nil) != warm {
			t.Errorf("epoch %d of %d: tree kept: %t, want %t", i+1, len(h.epochs), !warm, warm)
		}
	}
	s, err := h.StateAt(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ProveMember("alice"); err != nil {
		t.Fatal(err)
	}
	if h.epochs[2].state.cachedTree.Load() != nil {
		t.Error("a proof for an old epoch stays in the history")
	}
}

func TestKeyValidity(t *testing.T) {
	h := newTestHistory(t) // epoch 1
	tenant := Principal{ID: "acme", Kind: KindTenant, Keys: []Key{keyOf("k1", UseContract), keyOf("k2", UseSubmission)}}
	appendChange(t, h, AddPrincipal{tenant}, "k1", "k2") // 2
	k1, k2 := keyOf("k1").ID(), keyOf("k2").ID()
	k3, k4 := keyOf("k3", UseContract), keyOf("k4", UseSubmission)
	appendChange(t, h, RotateKey{ID: "acme", Add: &k3, Remove: k1}, "k3") // 3: rotation
	appendChange(t, h, RotateKey{ID: "acme", Add: &k4}, "k4")             // 4: addition
	appendChange(t, h, RotateKey{ID: "acme", Remove: k2})                 // 5: revocation
	appendChange(t, h, gasLimit(2))                                       // 6
	appendChange(t, h, RemovePrincipal{"acme"})                           // 7: ends all
	back := Principal{ID: "acme", Kind: KindTenant, Keys: []Key{keyOf("k1", UseContract)}}
	appendChange(t, h, AddPrincipal{back}, "k1") // 8: the same key again
	appendChange(t, h, gasLimit(3))              // 9

	type span struct {
		key        string
		use        Use
		from, last uint64
	}
	for _, s := range []span{{k1, UseContract, 2, 2}, {k1, UseContract, 8, 9}, {k2, UseSubmission, 2, 4}, {k3.ID(), UseContract, 3, 6}, {k4.ID(), UseSubmission, 4, 6}} {
		for _, use := range []Use{UseContract, UseSubmission, UseToken} {
			for _, who := range []string{"acme", "alice"} {
				for epoch := s.from; epoch <= s.last; epoch++ {
					if got, want := h.KeyValidAt(who, s.key, use, epoch), who == "acme" && use == s.use; got != want {
						t.Errorf("%s, %s, %s at %d: valid %t, want %t", who, s.key[:8], use, epoch, got, want)
					}
				}
			}
		}
		if h.KeyValidAt("acme", s.key, s.use, s.from-1) || s.last != 9 && h.KeyValidAt("acme", s.key, s.use, s.last+1) {
			t.Errorf("%s is valid outside %d to %d", s.key[:8], s.from, s.last)
		}
	}
	if h.KeyValidAt("acme", k1, UseContract, 10) || h.KeyValidAt("acme", k1, UseContract, 0) {
		t.Error("a key is valid at an epoch that does not exist")
	}
	for _, test := range []struct {
		key      string
		from, by uint64
		want     bool
	}{
		{k1, 2, 6, false}, // rotated only
		{k1, 2, 7, true},  // its holder was removed
		{k1, 8, 9, false}, // and came back
		{k2, 2, 4, false},
		{k2, 2, 5, true},
		{k2, 4, 9, true},
		{k2, 5, 5, false},
		{k3.ID(), 3, 6, false},
		{k3.ID(), 3, 7, true},
		{k4.ID(), 6, 7, true},
		{k4.ID(), 7, 9, false},
		{keyOf("stranger").ID(), 1, 9, false},
		{keyOf("alice").ID(), 1, 9, false},
	} {
		if got := h.Revoked(test.key, test.from, test.by); got != test.want {
			t.Errorf("%s revoked in (%d, %d]: %t, want %t", test.key[:8], test.from, test.by, got, test.want)
		}
	}
}

// Readers see whole epochs while changes are appended.
func TestHistoryConcurrent(t *testing.T) {
	h := newTestHistory(t)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				size := h.Size()
				s, err := h.StateAt(size)
				if err != nil || s.Epoch() != size {
					t.Errorf("state at %d: %v", size, err)
					return
				}
				leaf, err := s.ProveMember("alice")
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := CheckMember(s.MembershipHash(), s.Count(), "alice", leaf); err != nil {
					t.Error(err)
					return
				}
				if _, err := h.Root(size); err != nil {
					t.Error(err)
				}
				h.Revoked(keyOf("alice").ID(), 1, size)
				s.Eligible(0, nil)
				if p, err := h.Prefix(size); err != nil || p.Current().IdentityHash() != s.IdentityHash() {
					t.Errorf("prefix of %d: %v", size, err)
				}
			}
		})
	}
	for i := range 30 {
		appendChange(t, h, gasLimit(uint64(i+2)))
	}
	close(done)
	readers.Wait()
}

// Thousands of epochs of a thousand principals share what did not change.
func TestHistoryMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("builds thousands of states")
	}
	s := largeState(t, 1000)
	var before, after runtime.MemStats
	const epochs = 1000
	states := make([]*State, 0, epochs)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range epochs {
		s = mustUnsigned(t, s, UpdatePrincipal{ID: fmt.Sprintf("node-%06d", 2*i+1), TrustLevel: 2})
		states = append(states, s.light())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (after.HeapAlloc - before.HeapAlloc) / epochs; each > 8<<10 {
		t.Errorf("an epoch of 1,000 principals takes %d bytes, want at most 8 KiB", each)
	}
	runtime.KeepAlive(states)
}
