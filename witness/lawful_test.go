package witness

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	lawfulness "github.com/tallystick/tallystick/verifier/lawful"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// memberLog serves the tiles of a cluster's membership log, made by tlog from
// its entries, and can be told to fail or lie.
type memberLog struct {
	*testcluster.Cluster
	mu    sync.Mutex
	reads int
	// answer, if it returns true, replaces the answer to a path.
	answer func(path string) ([]byte, error, bool)
}

// newMemberLog is a cluster whose membership log has size lawful changes.
func newMemberLog(t testing.TB, size int) *memberLog {
	c := testcluster.New(t, testcluster.Options{Nodes: 1})
	for epoch := 2; epoch <= size; epoch++ {
		trust := uint64(epoch)
		c.Change(membership.UpdatePrincipal{ID: testcluster.NodeID(1), TrustLevel: trust})
	}
	return &memberLog{Cluster: c}
}

var errAway = errors.New("the log is away")

func (l *memberLog) fetch(ctx context.Context, path string, _ int64) ([]byte, error) {
	l.mu.Lock()
	l.reads++
	answer := l.answer
	l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if answer != nil {
		if b, err, ok := answer(path); ok {
			return b, err
		}
	}
	return l.resource(path)
}

// resource makes a tile or bundle; index groups are never needed here.
func (l *memberLog) resource(path string) ([]byte, error) {
	path, partial, _ := strings.Cut(path, ".p/")
	parts := strings.Split(path, "/")
	width := 256
	if partial != "" {
		width, _ = strconv.Atoi(partial)
	}
	index, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return nil, err
	}
	var out []byte
	for i := index * 256; i < index*256+int64(width); i++ {
		if parts[1] == "entries" {
			if i >= l.Membership.Size() {
				return nil, tiles.ErrNotFound
			}
			entry := l.Membership.Entries[i]
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(entry))), entry...)
			continue
		}
		level, _ := strconv.Atoi(parts[1])
		if (i+1)<<(8*level) > l.Membership.Size() {
			return nil, tiles.ErrNotFound
		}
		hashes, err := l.Membership.ReadHashes([]int64{tlog.StoredHashIndex(8*level, i)})
		if err != nil {
			return nil, err
		}
		out = append(out, hashes[0][:]...)
	}
	return out, nil
}

// say sets how the log answers from now on.
func (l *memberLog) say(answer func(path string) ([]byte, error, bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = answer
}

// fetched returns how often the log was read since it was asked last.
func (l *memberLog) fetched() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.reads
	l.reads = 0
	return n
}

// request asks for a cosignature of a size, extending another.
func (l *memberLog) request(old, size int64) []byte {
	var hashes []tlog.Hash
	if old > 0 {
		for _, h := range l.Membership.Consistency(old, size) {
			hashes = append(hashes, tlog.Hash(h))
		}
	}
	return checkpoint.AddRequest{OldSize: old, Hashes: hashes, Checkpoint: l.Membership.Sign(l.Membership.Checkpoint(size), 0)}.Format()
}

// unsigned appends a change that no admin has signed.
func (l *memberLog) unsigned(t testing.TB) {
	payload, err := l.History.Current().Propose(membership.AddPrincipal{Principal: testcluster.NewNode("node-9")})
	if err != nil {
		t.Fatal(err)
	}
	l.Membership.Append(l.Envelope(membership.PayloadType, payload, "node-9/attestation", "node-9/token"), nil)
}

// newCosigner is a cosigner of lawful membership for a log.
func newCosigner(t *testing.T, l *memberLog, d disk) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), clock: &testClock{seconds: 1_700_000_000}, policy: l.MembershipPolicy,
		lawful: &LawfulConfig{Genesis: l.Genesis, Fetch: l.fetch}}
	if err := createStore(f.dir, d); err != nil {
		t.Fatal(err)
	}
	f.open(d)
	return f
}

// ask submits a step of a membership log for the Ed25519 key alone.
func (f *fixture) ask(l *memberLog, old, size int64) error {
	_, err := f.AddCheckpoint(f.t.Context(), Submission{Body: l.request(old, size), Keys: []int{placeEd25519}})
	return err
}

func (f *fixture) mustAsk(l *memberLog, old, size int64) {
	f.t.Helper()
	if err := f.ask(l, old, size); err != nil {
		f.t.Fatalf("from %d to %d: %v", old, size, err)
	}
}

// unlawfulFiles reads the evidence directory.
func (f *fixture) unlawfulFiles() []*lawfulness.Evidence {
	f.t.Helper()
	var out []*lawfulness.Evidence
	for _, entry := range must(os.ReadDir(f.dir + "/evidence")) {
		if strings.Contains(entry.Name(), findingUnlawful) {
			e, err := lawfulness.Parse(must(os.ReadFile(f.dir + "/evidence/" + entry.Name())))
			if err != nil {
				f.t.Fatal(err)
			}
			out = append(out, e)
		}
	}
	return out
}

// TestLawfulCosigns follows a log from birth, over restarts, and reads each
// change once.
func TestLawfulCosigns(t *testing.T) {
	l := newMemberLog(t, 6)
	d := newMemDisk()
	f := newCosigner(t, l, d)
	f.mustAsk(l, 0, 0)
	if n := l.fetched(); n != 0 {
		t.Errorf("%d reads for an empty tree", n)
	}
	f.mustAsk(l, 0, 1)
	f.mustAsk(l, 1, 4)
	f.clock.seconds++
	l.fetched()
	f.mustAsk(l, 4, 4) // refreshing needs no log
	if n := l.fetched(); n != 0 {
		t.Errorf("%d reads for a checkpoint that is known", n)
	}
	f.restart(d)
	l.say(func(string) ([]byte, error, bool) { return nil, errAway, true })
	f.mustAsk(l, 4, 4)
	l.say(nil)
	f.mustAsk(l, 4, 6)
	if n := f.metrics.changes.Load(); n != 6 {
		t.Errorf("%d changes are known", n)
	}
	// What is on file is only a copy.
	f.Close()
	for name, content := range map[string][]byte{
		"gone": nil, "garbage": []byte("garbage"), "cut off": d.content(filepath.Join(f.dir, changesFile))[:40], "zeros": make([]byte, 999),
	} {
		d.put(filepath.Join(f.dir, changesFile), content)
		f.open(d)
		if err := f.ask(l, 6, 6); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}

// TestUnlawful: the cosigner refuses a log with a change that breaks a rule and
// leaves evidence; an ordinary witness cosigns it.
func TestUnlawful(t *testing.T) {
	l := newMemberLog(t, 3)
	f := newCosigner(t, l, osDisk{})
	f.mustAsk(l, 0, 3)
	l.unsigned(t)
	l.Membership.Append([]byte("anything"), nil)
	for _, size := range []int64{4, 5} {
		status, _, body := f.post("/ed25519", l.request(3, size))
		if status != 422 || !strings.Contains(body, "unlawful change: entry 3") || !strings.Contains(body, string(membership.RefusedThreshold)) {
			t.Fatalf("size %d: status %d: %s", size, status, body)
		}
	}
	files := f.unlawfulFiles()
	if len(files) != 1 {
		t.Fatalf("%d evidence files", len(files))
	}
	if v, err := files[0].Judge(l.Genesis); err != nil || v.Index != 3 || v.Code != membership.RefusedThreshold {
		t.Errorf("verdict %+v, %v", v, err)
	}
	if size := f.size(l.Membership.Origin); size != 3 {
		t.Errorf("head of size %d", size)
	}
	f.restart(osDisk{}) // it knows what it has kept
	if err := f.ask(l, 3, 5); !errors.Is(err, ErrUnlawful) || !errors.Is(err, membership.RefusedThreshold) {
		t.Errorf("after a restart: %v", err)
	}
	if files := f.unlawfulFiles(); len(files) != 1 {
		t.Errorf("%d evidence files after a restart", len(files))
	}

	stock := &fixture{t: t, dir: t.TempDir(), clock: f.clock, policy: l.MembershipPolicy}
	if err := createStore(stock.dir, osDisk{}); err != nil {
		t.Fatal(err)
	}
	stock.open(osDisk{})
	stock.mustAsk(l, 0, 5)
}

// TestUnlawfulFromTheStart: another genesis than the pinned one, and an unlawful
// change in the first checkpoint that the cosigner sees.
func TestUnlawfulFromTheStart(t *testing.T) {
	l := newMemberLog(t, 2)
	other := newMemberLog(t, 1)
	other.Cluster = testcluster.New(t, testcluster.Options{Nodes: 2}) // the same name and log keys
	f := newCosigner(t, l, osDisk{})
	f.lawful.Fetch = other.fetch
	f.restart(osDisk{})
	if err := f.ask(other, 0, 1); !errors.Is(err, membership.RefusedGenesis) {
		t.Fatalf("another genesis: %v", err)
	}
	files := f.unlawfulFiles()
	if len(files) != 1 {
		t.Fatalf("%d evidence files", len(files))
	}
	if v, err := files[0].Judge(l.Genesis); err != nil || v.Index != 0 || v.Code != membership.RefusedGenesis {
		t.Errorf("verdict %+v, %v", v, err)
	}
	l.unsigned(t)
	f.lawful.Fetch = l.fetch
	f.restart(osDisk{})
	if err := f.ask(l, 0, 3); !errors.Is(err, membership.RefusedThreshold) {
		t.Errorf("unlawful first checkpoint: %v", err)
	}
}

// TestLawfulUnread: when the changes cannot be read, or are not those of the
// checkpoint, nothing is said of them. What was read meanwhile is kept.
func TestLawfulUnread(t *testing.T) {
	l := newMemberLog(t, 5)
	f := newCosigner(t, l, osDisk{})
	f.mustAsk(l, 0, 2)
	lie := func(path string, b []byte) func(string) ([]byte, error, bool) {
		return func(asked string) ([]byte, error, bool) { return b, nil, strings.HasPrefix(asked, path) }
	}
	for name, answer := range map[string]func(string) ([]byte, error, bool){
		"away":           func(string) ([]byte, error, bool) { return nil, errAway, true },
		"not found":      func(string) ([]byte, error, bool) { return nil, tiles.ErrNotFound, true },
		"empty answers":  lie("tile", nil),
		"garbage":        lie("tile/0", bytes.Repeat([]byte("x"), 5*32)),
		"other entries":  lie("tile/entries", bytes.Repeat([]byte("\x00\x01x"), 5)),
		"a huge answer":  lie("tile/entries", make([]byte, 20<<20)),
		"entries absent": func(p string) ([]byte, error, bool) { return nil, tiles.ErrNotFound, strings.Contains(p, "entries") },
	} {
		l.say(answer)
		status, header, body := f.post("/ed25519", l.request(2, 5))
		if status != 503 || header.Get("Retry-After") == "" || body != ErrUnreadable.Error()+"\n" {
			t.Errorf("%s: status %d: %s", name, status, body)
		}
	}
	if n := len(must(os.ReadDir(f.dir + "/evidence"))); n != 0 {
		t.Errorf("%d evidence files", n)
	}
	l.say(nil)
	f.mustAsk(l, 2, 5)

	// A change of a version that this program does not know may be lawful.
	trust := uint64(99)
	payload := must(l.History.Current().Propose(membership.UpdatePrincipal{ID: testcluster.NodeID(1), TrustLevel: trust}))
	payload = bytes.Replace(payload, []byte(`"protocol_version":"1.0"`), []byte(`"protocol_version":"1.1"`), 1)
	l.Membership.Append(l.Envelope(membership.PayloadType, payload, testcluster.Admin+"/change"), nil)
	if err := f.ask(l, 5, 6); !errors.Is(err, ErrUnreadable) || !errors.Is(err, membership.RefusedVersion) {
		t.Errorf("unknown version: %v", err)
	}
}

// TestLawfulGoesOn: a request that ended early has left what it read to the next.
func TestLawfulGoesOn(t *testing.T) {
	l := newMemberLog(t, 300)
	f := newCosigner(t, l, osDisk{})
	l.say(func(path string) ([]byte, error, bool) {
		return nil, errAway, strings.HasPrefix(path, "tile/entries/001")
	})
	if err := f.ask(l, 0, 300); !errors.Is(err, ErrUnreadable) {
		t.Fatal(err)
	}
	f.restart(osDisk{})
	if n := f.metrics.changes.Load(); n != 256 {
		t.Errorf("%d changes are known", n)
	}
	l.say(func(path string) ([]byte, error, bool) {
		if strings.HasPrefix(path, "tile/entries/000") {
			t.Error("read again")
		}
		return nil, nil, false
	})
	f.mustAsk(l, 0, 300)
	// A request that has no time left does not wait for its turn.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Witness.lawful.turn <- struct{}{}
	if _, err := f.AddCheckpoint(ctx, Submission{Body: l.request(300, 300)}); !errors.Is(err, ErrUnreadable) {
		t.Errorf("without time: %v", err)
	}
	<-f.Witness.lawful.turn
}

// TestLawfulOrder: what can be answered without the log is answered without it.
func TestLawfulOrder(t *testing.T) {
	l := newMemberLog(t, 4)
	f := newCosigner(t, l, osDisk{})
	f.mustAsk(l, 0, 2)
	l.fetched()
	unsigned := checkpoint.AddRequest{OldSize: 2, Checkpoint: append(l.Membership.Checkpoint(4).Body(), '\n')}.Format()
	audit := checkpoint.AddRequest{Checkpoint: l.Audit.Signed(1)}.Format()
	for name, test := range map[string]struct {
		body   []byte
		status int
	}{
		"malformed":      {[]byte("x"), 400},
		"another log":    {audit, 404},
		"unsigned":       {unsigned, 403},
		"conflict":       {l.request(1, 4), 409},
		"no proof":       {checkpoint.AddRequest{OldSize: 2, Checkpoint: l.Membership.Signed(4)}.Format(), 422},
		"another tree":   {checkpoint.AddRequest{OldSize: 2, Checkpoint: l.Membership.Sign(checkpoint.Checkpoint{Origin: l.Membership.Origin, Size: 2, Root: tlog.Hash{1}}, 0)}.Format(), 422},
		"old size large": {checkpoint.AddRequest{OldSize: 5, Checkpoint: l.Membership.Signed(4)}.Format(), 400},
	} {
		if status, _, body := f.post("", test.body); status != test.status {
			t.Errorf("%s: status %d: %s", name, status, body)
		}
	}
	if n := l.fetched(); n != 0 {
		t.Errorf("%d reads", n)
	}
}

// TestLawfulKeys: a key counts when genesis or a lawful change names it, and not
// because a policy does.
func TestLawfulKeys(t *testing.T) {
	l := newMemberLog(t, 2)
	origin := l.Membership.Origin
	vkey := must(checkpoint.Vkey(origin, testcluster.Public("new log key")))
	signer := must(checkpoint.NewSigner(origin, testcluster.Key("new log key")))
	byNew := func(old, size int64) []byte {
		_, rest, _ := strings.Cut(string(l.request(old, size)), "\n\n")
		head := strings.TrimSuffix(string(l.request(old, size)), rest)
		return append([]byte(head), must(checkpoint.Sign(l.Membership.Checkpoint(size), signer))...)
	}
	f := newCosigner(t, l, osDisk{})
	f.mustAsk(l, 0, 2)
	policy := must(checkpoint.ParsePolicy(fmt.Appendf(nil, "%slog %s\n", l.PolicyText.Membership, vkey)))
	if status, _, _ := f.post("", byNew(2, 2)); status != 403 {
		t.Errorf("a key that neither names: status %d", status)
	}
	if err := f.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	if status, _, body := f.post("", byNew(2, 2)); status != 403 || !strings.Contains(body, "membership does not name") {
		t.Errorf("a key that only the policy names: status %d: %s", status, body)
	}
	l.Change(membership.SetLogKeys{Log: membership.LogMembership, Keys: []string{vkey}})
	if status, _, body := f.post("", byNew(2, 3)); status != 200 {
		t.Errorf("a key that the checkpoint's own changes name: status %d: %s", status, body)
	}
}

// TestLawfulFork: changes beyond what was cosigned bind nobody; those that were
// cosigned do.
func TestLawfulFork(t *testing.T) {
	a, b := newMemberLog(t, 2), newMemberLog(t, 2)
	a.AddNode("node-a")
	a.AddNode("node-a2")
	b.AddNode("node-b")
	b.AddNode("node-b2")
	d := newMemDisk()
	f := newCosigner(t, a, d)
	f.mustAsk(a, 0, 2)
	d.set(func(op, name string) fault { // the head cannot be stored, the changes can
		if strings.HasPrefix(filepath.Base(name), headsFile) {
			return notDone
		}
		return works
	})
	if err := f.ask(a, 2, 4); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	d.set(nil)
	f.lawful.Fetch = b.fetch
	f.restart(d)
	if n := f.metrics.changes.Load(); n != 4 {
		t.Errorf("%d changes are known", n)
	}
	f.mustAsk(b, 2, 3)
	f.mustAsk(b, 3, 4)
	if err := f.ask(a, 4, 4); !errors.Is(err, ErrInconsistent) {
		t.Errorf("the other branch: %v", err)
	}
	f.restart(d)
	l := f.Witness.lawful
	if root, err := l.history.Root(4); err != nil || root != b.Membership.Checkpoint(4).Root {
		t.Errorf("after a restart the changes make %v, %v", root, err)
	}
	// Changes on file that are not those of the head, as if files had been mixed up.
	f.Close()
	var frames []byte
	for _, e := range a.Membership.Entries[1:] {
		frames = appendFrame(frames, e)
	}
	d.put(filepath.Join(f.dir, changesFile), frames)
	f.open(d)
	b.AddNode("node-b3")
	f.mustAsk(b, 4, 5)
}

// TestLawfulRace: while one request reads the log, another one is cosigned; the
// first is then checked against that, and rolls nothing back.
func TestLawfulRace(t *testing.T) {
	l := newMemberLog(t, 8)
	f := newCosigner(t, l, newMemDisk())
	f.mustAsk(l, 0, 2)
	reached, proceed := make(chan bool), make(chan bool)
	f.beforeSwap = func(c checkpoint.Checkpoint) {
		if c.Size == 5 {
			reached <- true
			<-proceed
		}
	}
	answer := make(chan error)
	go func() { answer <- f.ask(l, 2, 5) }()
	<-reached
	f.mustAsk(l, 2, 8)
	proceed <- true
	var conflict *ConflictError
	if err := <-answer; !errors.As(err, &conflict) || conflict.Size != 8 {
		t.Errorf("the slow request is answered %v", err)
	}
}

// TestLawfulConcurrent sends every step from many goroutines at once.
func TestLawfulConcurrent(t *testing.T) {
	l := newMemberLog(t, 12)
	var bodies [13][]byte
	for size := range int64(12) {
		bodies[size+1] = l.request(size, size+1)
	}
	f := newCosigner(t, l, newMemDisk())
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for size := int64(1); size <= 12; size++ {
				_, err := f.AddCheckpoint(t.Context(), Submission{Body: bodies[size], Keys: []int{placeEd25519}})
				var conflict *ConflictError
				if err != nil && !errors.As(err, &conflict) {
					t.Errorf("size %d: %v", size, err)
				}
			}
		})
	}
	wg.Wait()
	if size := f.size(l.Membership.Origin); size != 12 {
		t.Errorf("head of size %d", size)
	}
}

// TestLawfulEveryOperationFails fails each operation on the disk while two
// steps of a log are cosigned, and goes on after each end of a power cut. What
// was answered is there, and the log can go on.
func TestLawfulEveryOperationFails(t *testing.T) { lawfulEveryOperationFails(t, false) }

func lawfulEveryOperationFails(t *testing.T, thorough bool) {
	l := newMemberLog(t, 6)
	faults, cuts := []fault{halfDone}, []afterCut{cutTorn}
	if thorough {
		faults, cuts = []fault{notDone, doneAnyway, halfDone}, afterCuts
	}
	for _, how := range faults {
		for _, cut := range cuts {
			for n := 0; ; n++ {
				d := newMemDisk()
				f := newCosigner(t, l, d)
				f.mustAsk(l, 0, 2)
				next, failed := failNth(n, how)
				d.set(next)
				answered := int64(2)
				for _, size := range []int64{3, 5} {
					old := f.size(l.Membership.Origin)
					if err := f.ask(l, old, size); err == nil {
						answered = size
					} else if !errors.Is(err, ErrUnavailable) {
						t.Fatalf("%s %v: %v", *failed, how, err)
					}
				}
				if *failed == "" {
					break
				}
				d.powerCut(cut)
				f.restart(d)
				size := f.size(l.Membership.Origin)
				if size < answered {
					t.Fatalf("%s %v: size %d is left of %d", *failed, how, size, answered)
				}
				f.mustAsk(l, size, 6)
				f.Close()
			}
		}
	}
}

// TestLawfulDirectory: a directory is an ordinary witness's or a cosigner's of
// one genesis, for ever.
func TestLawfulDirectory(t *testing.T) {
	l, other := newMemberLog(t, 2), newMemberLog(t, 1)
	other.Cluster = testcluster.New(t, testcluster.Options{Name: "other"})
	d := newMemDisk()
	f := newCosigner(t, l, d)
	f.Close()
	refused := func(why string, lawful *LawfulConfig, policy *checkpoint.Policy) {
		t.Helper()
		f.lawful, f.policy = lawful, policy
		if w, err := f.tryOpen(d); err == nil {
			w.Close()
			t.Errorf("opened as %s", why)
		}
	}
	refused("an ordinary witness", nil, l.MembershipPolicy)
	refused("another cluster's", &LawfulConfig{Genesis: other.Genesis, Fetch: l.fetch}, l.MembershipPolicy)
	both := must(checkpoint.ParsePolicy(slices.Concat(l.PolicyText.Membership, []byte("log "+l.auditVkey(t)+"\n"))))
	refused("a cosigner for two logs", &LawfulConfig{Genesis: l.Genesis, Fetch: l.fetch}, both)
	f.lawful, f.policy = &LawfulConfig{Genesis: l.Genesis, Fetch: l.fetch}, l.MembershipPolicy
	f.open(d)
	if err := f.SetPolicy(both); err == nil {
		t.Error("took a policy with two logs")
	}

	d = newMemDisk()
	f = newCosigner(t, l, d)
	f.Close()
	d = newMemDisk()
	if err := createStore(f.dir, d); err != nil {
		t.Fatal(err)
	}
	f.lawful = nil
	f.open(d)
	f.mustAsk(l, 0, 1)
	f.Close()
	refused("a cosigner after it was an ordinary witness", &LawfulConfig{Genesis: l.Genesis, Fetch: l.fetch}, l.MembershipPolicy)

	// Making one: each failure leaves nothing that is in the way.
	for n := range 16 {
		d := newMemDisk()
		if err := createStore(f.dir, d); err != nil {
			t.Fatal(err)
		}
		f.lawful = &LawfulConfig{Genesis: l.Genesis, Fetch: l.fetch}
		next, _ := failNth(n, notDone)
		d.set(next)
		if w, err := f.tryOpen(d); err == nil {
			w.Close()
		}
		d.powerCut(cutTorn)
		f.open(d)
		f.mustAsk(l, 0, 2)
		f.Close()
	}
	refused("a cosigner of garbage", &LawfulConfig{Genesis: []byte("garbage"), Fetch: l.fetch}, l.MembershipPolicy)
}

func (l *memberLog) auditVkey(t *testing.T) string {
	t.Helper()
	return l.History.Current().Logs().Audit.Keys[0]
}

// TestLogReader: a log is read at the configured address only.
func TestLogReader(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("read from elsewhere") }))
	defer elsewhere.Close()
	var paths []string
	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		http.Redirect(w, r, elsewhere.URL, http.StatusFound)
	}))
	defer log.Close()
	fetch := must(LogReader(log.URL + "/membership/"))
	if _, err := fetch(t.Context(), "tile/0/000", 8192); err == nil {
		t.Error("followed a redirect")
	}
	if !slices.Equal(paths, []string{"/membership/tile/0/000"}) {
		t.Errorf("read %q", paths)
	}
	for _, bad := range []string{"", "file:///etc/passwd", "http://", "http://user@host/", "http://host/?q", "gopher://host/"} {
		if _, err := LogReader(bad); err == nil {
			t.Errorf("%q is taken for an address", bad)
		}
	}
}
