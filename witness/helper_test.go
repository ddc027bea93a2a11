package witness

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

const (
	testOrigin  = "example.com/log"
	otherOrigin = "example.com/other"
	witnessName = "example.com/witness"
)

func edKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("witness test key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// testKeys returns the witness's keys, the same in every test.
var testKeys = sync.OnceValue(func() *Keys {
	seed := sha256.Sum256([]byte("witness test key " + witnessName))
	return &Keys{
		Ed25519: must(checkpoint.NewEd25519Cosigner(witnessName, edKey(witnessName))),
		MLDSA44: must(checkpoint.NewMLDSACosigner(witnessName, must(mldsa.NewPrivateKey(mldsa.MLDSA44(), seed[:])))),
	}
})

// testLog is a log whose entry i is "<salt> <i>": two of them with one key are a
// split view.
type testLog struct {
	origin string
	signer note.Signer
	hashes []tlog.Hash
}

func newTestLog(origin, salt string, size int64) *testLog {
	l := &testLog{origin: origin, signer: must(checkpoint.NewSigner(origin, edKey(origin)))}
	for i := range size {
		l.hashes = append(l.hashes, must(tlog.StoredHashes(i, fmt.Appendf(nil, "%s %d", salt, i), l))...)
	}
	return l
}

// fork is a log that shares the first entries with l and then differs.
func (l *testLog) fork(shared, size int64) *testLog {
	f := &testLog{origin: l.origin, signer: l.signer}
	f.hashes = append(f.hashes, l.hashes[:tlog.StoredHashCount(shared)]...)
	for i := shared; i < size; i++ {
		f.hashes = append(f.hashes, must(tlog.StoredHashes(i, fmt.Appendf(nil, "fork %d", i), f))...)
	}
	return f
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = l.hashes[index]
	}
	return out, nil
}

func (l *testLog) checkpoint(size int64) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: l.origin, Size: size, Root: must(tlog.TreeHash(size, l))}
}

func (l *testLog) signed(size int64) []byte {
	return must(checkpoint.Sign(l.checkpoint(size), l.signer))
}

func (l *testLog) proof(old, size int64) []tlog.Hash {
	if old == 0 || old == size {
		return nil
	}
	return must(tlog.ProveTree(size, old, l))
}

// request is a lawful request from one size to another.
func (l *testLog) request(old, size int64) []byte {
	return checkpoint.AddRequest{OldSize: old, Hashes: l.proof(old, size), Checkpoint: l.signed(size)}.Format()
}

// testPolicy lists the test log, with two keys, and another one.
func testPolicy() *checkpoint.Policy {
	var text strings.Builder
	for origin, key := range map[string]string{testOrigin: testOrigin, otherOrigin: otherOrigin} {
		fmt.Fprintf(&text, "log %s\n", must(checkpoint.Vkey(origin, edKey(key).Public().(ed25519.PublicKey))))
	}
	fmt.Fprintf(&text, "log %s\n", must(checkpoint.Vkey(testOrigin, edKey("second").Public().(ed25519.PublicKey))))
	text.WriteString("quorum none\n")
	return must(checkpoint.ParsePolicy([]byte(text.String())))
}

// testClock is a clock that stands until it is set.
type testClock struct{ seconds int64 }

func (c *testClock) now() time.Time { return time.Unix(c.seconds, 0) }

// fixture is a witness in a temporary directory behind an HTTP server.
type fixture struct {
	*Witness
	t     *testing.T
	dir   string
	clock *testClock
	url   string
	close func()
	// lawful is set for a cosigner of lawful membership, and policy where it is not
	// testPolicy.
	lawful *LawfulConfig
	policy *checkpoint.Policy
}

func newFixture(t *testing.T, d disk) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), clock: &testClock{seconds: 1_700_000_000}}
	if err := createStore(f.dir, d); err != nil {
		t.Fatal(err)
	}
	f.open(d)
	return f
}

// open starts the witness, again if there was one.
func (f *fixture) open(d disk) {
	f.t.Helper()
	w, err := f.tryOpen(d)
	if err != nil {
		f.t.Fatal(err)
	}
	server := httptest.NewServer(w.Handler())
	var once sync.Once
	f.close = func() { once.Do(func() { server.Close(); w.Close() }) }
	f.t.Cleanup(f.close)
	f.Witness, f.url = w, server.URL
}

// Close ends the witness and its server; a second time does nothing.
func (f *fixture) Close() { f.close() }

func (f *fixture) tryOpen(d disk) (*Witness, error) {
	policy := f.policy
	if policy == nil {
		policy = testPolicy()
	}
	return open(Config{
		Dir:    f.dir,
		Keys:   testKeys(),
		Policy: policy,
		Lawful: f.lawful,
		Logger: slog.New(slog.NewTextHandler(testWriter{f.t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now:    f.clock.now,
	}, d)
}

// testWriter sends the log to the test's output.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// post sends a request to a submission prefix.
func (f *fixture) post(prefix string, body []byte) (int, http.Header, string) {
	f.t.Helper()
	resp, err := http.Post(f.url+prefix+"/add-checkpoint", "", strings.NewReader(string(body)))
	if err != nil {
		f.t.Fatal(err)
	}
	return f.read(resp)
}

func (f *fixture) get(path string) (int, http.Header, string) {
	f.t.Helper()
	resp, err := http.Get(f.url + path)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.read(resp)
}

func (f *fixture) read(resp *http.Response) (int, http.Header, string) {
	f.t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// mustAdd submits a lawful request and checks that both keys have cosigned.
func (f *fixture) mustAdd(l *testLog, old, size int64) {
	f.t.Helper()
	status, _, body := f.post("", l.request(old, size))
	if status != http.StatusOK {
		f.t.Fatalf("from %d to %d: status %d: %s", old, size, status, body)
	}
	f.checkCosignatures(l.signed(size), body, 2)
}

// checkCosignatures checks that an answer is n good cosignatures of a note.
func (f *fixture) checkCosignatures(signed []byte, answer string, n int) {
	f.t.Helper()
	parsed, err := checkpoint.ParseNote(append(append([]byte(nil), signed...), answer...))
	if err != nil {
		f.t.Fatalf("%v in %q", err, answer)
	}
	good, err := parsed.Verified(testKeys().public())
	if err != nil || len(good) != n || strings.Count(answer, "\n") != n {
		f.t.Fatalf("%d good cosignatures, want %d, error %v, in %q", len(good), n, err, answer)
	}
}

// evidenceFiles reads the evidence directory.
func (f *fixture) evidenceFiles() map[string]*checkpoint.Evidence {
	f.t.Helper()
	out := map[string]*checkpoint.Evidence{}
	for _, entry := range must(os.ReadDir(f.dir + "/evidence")) {
		e, err := checkpoint.ParseEvidence(must(os.ReadFile(f.dir + "/evidence/" + entry.Name())))
		if err != nil {
			f.t.Fatal(err)
		}
		out[entry.Name()] = e
	}
	return out
}
