package orchestrator_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// testKey derives the private key that tests use for a name.
func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("tallystick test key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// fault is what the next append meets.
type fault int

const (
	noFault    fault = iota
	pushback         // the queue is full
	lostBefore       // the commit fails, nothing is there; the outcome is reported as unknown
	lostAfter        // the commit succeeds but is reported as failed
)

var errUnknownOutcome = errors.New("fake log: outcome unknown")

// disk is what survives a crash of a fakeLog.
type disk struct {
	data, openings [][]byte
	hashes         []tlog.Hash // tlog's stored hashes
	dedup          map[string]int64
	registers      map[string]uint64
	published      []signed // ascending by size, at most one of each size
}

type signed struct {
	size int64
	note []byte
}

// fakeLog is a log in memory that polices the contract of orchestrator.Log: a
// caller that asks for what it may not ask for fails the test.
type fakeLog struct {
	t        testing.TB
	origin   string
	log      note.Signer
	receipt  note.Signer
	witness  *checkpoint.Cosigner
	policy   *checkpoint.Policy
	mayAllow func(size int64) error // polices AllowWitness

	mu      sync.Mutex
	disk    *disk
	dead    bool          // crashed or closed: everything fails
	stopped error         // after an unknown outcome, until reopened
	held    bool          // publish nothing above allowed
	allowed int64         // largest size that may be published, when held
	manual  bool          // publish only when told
	lonely  bool          // publish although no witness has cosigned
	moved   chan struct{} // closed when something is published
	onFault func(entries []orchestrator.LogEntry) fault
	ahead   func(entries []orchestrator.LogEntry) // called before an append, without the lock
	unread  error                                 // what every read meets
	latest  *signed                               // what was published lonely, until a witnessed one follows
}

func newFakeLog(t testing.TB, origin string, held bool) *fakeLog {
	t.Helper()
	log, err := checkpoint.NewSigner(origin, testKey(origin))
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := checkpoint.NewSigner(origin+"/receipt", testKey(origin+"/receipt"))
	if err != nil {
		t.Fatal(err)
	}
	witness, err := checkpoint.NewEd25519Cosigner("witness.example/w1", testKey("witness"))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := checkpoint.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness w1 %s\nquorum w1\n", vkey(t, origin), witness.Key().Vkey()))
	if err != nil {
		t.Fatal(err)
	}
	return &fakeLog{t: t, origin: origin, log: log, receipt: receipt, witness: witness, policy: policy, held: held,
		disk:  &disk{dedup: map[string]int64{}, registers: map[string]uint64{}},
		moved: make(chan struct{})}
}

func vkey(t testing.TB, name string) string {
	t.Helper()
	v, err := checkpoint.Vkey(name, testKey(name).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// reopen kills the log and returns one with what was on its disk.
func (l *fakeLog) reopen() *fakeLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	next := &fakeLog{t: l.t, origin: l.origin, log: l.log, receipt: l.receipt, witness: l.witness, policy: l.policy,
		mayAllow: l.mayAllow, held: l.held, disk: l.disk, moved: make(chan struct{})}
	if n := len(l.disk.published); n > 0 {
		next.allowed = l.disk.published[n-1].size
	}
	return next
}

func (l *fakeLog) alive() error {
	switch {
	case l.dead:
		return errors.New("fake log: closed")
	case l.stopped != nil:
		return l.stopped
	}
	return nil
}

func (l *fakeLog) size() int64 { return int64(len(l.disk.data)) }

func (l *fakeLog) Append(ctx context.Context, entries ...orchestrator.LogEntry) ([]orchestrator.LogResult, orchestrator.Head, error) {
	l.mu.Lock()
	ahead := l.ahead
	l.mu.Unlock()
	if ahead != nil {
		ahead(entries)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.alive(); err != nil {
		return nil, orchestrator.Head{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, orchestrator.Head{}, err
	}
	if len(entries) == 0 || len(entries) > 4096 {
		l.t.Errorf("append of %d entries", len(entries))
	}
	f := noFault
	if l.onFault != nil {
		f = l.onFault(entries)
	}
	switch f {
	case pushback:
		return nil, orchestrator.Head{}, fmt.Errorf("fake: %w", orchestrator.ErrPushback)
	case lostBefore:
		l.stopped = errUnknownOutcome
		return nil, orchestrator.Head{}, l.stopped
	}
	results := make([]orchestrator.LogResult, len(entries))
	for i := range entries {
		results[i] = l.sequence(&entries[i])
	}
	if f == lostAfter {
		l.stopped = errUnknownOutcome
		return nil, orchestrator.Head{}, l.stopped
	}
	if !l.manual {
		l.publish()
	}
	head, err := l.head()
	return results, head, err
}

func (l *fakeLog) sequence(e *orchestrator.LogEntry) orchestrator.LogResult {
	if len(e.Data) > 65535 || len(e.Opening) > 1<<20 || len(e.Dedup) > 64 || len(e.Guards) > 16 || len(e.Sets) > 16 {
		l.t.Errorf("entry out of bounds: %d, %d, %d bytes", len(e.Data), len(e.Opening), len(e.Dedup))
	}
	if len(e.Dedup) > 0 {
		if index, ok := l.disk.dedup[string(e.Dedup)]; ok {
			return orchestrator.LogResult{Index: index, Duplicate: true}
		}
	}
	for _, g := range e.Guards {
		if got := l.disk.registers[g.Key]; got != g.Value {
			return orchestrator.LogResult{Index: -1, Err: fmt.Errorf("%w: %q is %d, not %d", orchestrator.ErrGuard, g.Key, got, g.Value)}
		}
	}
	index := l.size()
	hashes, err := tlog.StoredHashes(index, e.Data, l.reader())
	if err != nil {
		l.t.Errorf("hashing: %v", err)
	}
	l.disk.hashes = append(l.disk.hashes, hashes...)
	l.disk.data = append(l.disk.data, slices.Clone(e.Data))
	l.disk.openings = append(l.disk.openings, slices.Clone(e.Opening))
	if len(e.Dedup) > 0 {
		l.disk.dedup[string(e.Dedup)] = index
	}
	for _, r := range e.Sets {
		if len(r.Key) == 0 || len(r.Key) > 128 {
			l.t.Errorf("register key of %d bytes", len(r.Key))
		}
		l.disk.registers[r.Key] = r.Value
	}
	return orchestrator.LogResult{Index: index}
}

func (l *fakeLog) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = l.disk.hashes[index]
		}
		return out, nil
	})
}

func (l *fakeLog) at(size int64) (checkpoint.Checkpoint, error) {
	root, err := tlog.TreeHash(size, l.reader())
	return checkpoint.Checkpoint{Origin: l.origin, Size: size, Root: root}, err
}

func (l *fakeLog) head() (orchestrator.Head, error) {
	c, err := l.at(l.size())
	if err != nil || c.Size == 0 {
		return orchestrator.Head{}, err
	}
	n, err := checkpoint.Sign(c, l.receipt)
	return orchestrator.Head{Size: c.Size, Note: n}, err
}

// publish signs, cosigns and publishes as much as may be.
func (l *fakeLog) publish() {
	size := l.size()
	if l.held {
		size = min(size, l.allowed)
	}
	if n := len(l.disk.published); size == 0 || (n > 0 && l.disk.published[n-1].size >= size) {
		return
	}
	c, err := l.at(size)
	if err != nil {
		l.t.Errorf("publishing: %v", err)
		return
	}
	signedNote, err := checkpoint.Sign(c, l.log)
	if err != nil {
		l.t.Errorf("publishing: %v", err)
		return
	}
	sig, err := l.witness.Cosign(c.Body(), time.Now().Unix())
	if err != nil {
		l.t.Errorf("publishing: %v", err)
		return
	}
	if l.lonely {
		l.latest = &signed{size, signedNote}
	} else {
		l.latest = nil
		l.disk.published = append(l.disk.published, signed{size, append(signedNote, sig.Line()...)})
	}
	close(l.moved)
	l.moved = make(chan struct{})
}

// round publishes now, for logs that publish only when told.
func (l *fakeLog) round() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publish()
}

// automatic makes the log publish after every append, or only when told.
func (l *fakeLog) automatic(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.manual = !on
	if on {
		l.publish()
	}
}

// failOpen makes the log publish without witnesses, or with them again.
func (l *fakeLog) failOpen(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lonely = on
}

// faults lets f decide what each append from now on meets.
func (l *fakeLog) faults(f func(entries []orchestrator.LogEntry) fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onFault = f
}

// before lets f run ahead of each append from now on, as a faster caller would.
func (l *fakeLog) before(f func(entries []orchestrator.LogEntry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ahead = f
}

// kindOf returns the kind of the record in an entry for the audit log.
func kindOf(e orchestrator.LogEntry) record.Kind {
	o, err := record.ParseOpening(e.Opening)
	if err != nil {
		return ""
	}
	r, err := record.Parse(o.Record())
	if err != nil {
		return ""
	}
	return record.KindOf(r)
}

// onKind makes a fault hook that meets the first append of a record of a kind.
func onKind(kind record.Kind, f fault) func([]orchestrator.LogEntry) fault {
	done := false
	return func(entries []orchestrator.LogEntry) fault {
		if done || !slices.ContainsFunc(entries, func(e orchestrator.LogEntry) bool { return kindOf(e) == kind }) {
			return noFault
		}
		done = true
		return f
	}
}

// first makes a fault hook that meets the first append, whatever it is.
func first(f fault) func([]orchestrator.LogEntry) fault {
	done := false
	return func([]orchestrator.LogEntry) fault {
		if done {
			return noFault
		}
		done = true
		return f
	}
}

func (l *fakeLog) Register(key string) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.alive(), l.unread); err != nil {
		return 0, err
	}
	return l.disk.registers[key], nil
}

func (l *fakeLog) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size()
}

func (l *fakeLog) Entries(ctx context.Context, start, end int64, visit func(index int64, data, opening []byte) error) error {
	l.mu.Lock()
	if start < 0 || start > end || end > l.size() {
		l.t.Errorf("entries %d to %d of a log of %d", start, end, l.size())
	}
	if err := l.readable(); err != nil {
		l.mu.Unlock()
		return err
	}
	data, openings := slices.Clone(l.disk.data[start:end]), slices.Clone(l.disk.openings[start:end])
	l.mu.Unlock()
	for i := range data {
		if err := ctx.Err(); err != nil {
			return err
		}
		// The slices are valid during the call only: spoil them afterwards.
		d, o := slices.Clone(data[i]), slices.Clone(openings[i])
		if err := visit(start+int64(i), d, o); err != nil {
			return err
		}
		clear(d)
		clear(o)
	}
	return nil
}

func (l *fakeLog) InclusionProof(index, size int64) ([]tlog.Hash, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.readable(); err != nil {
		return nil, err
	}
	if index < 0 || index >= size || size > l.size() {
		l.t.Errorf("inclusion of %d in %d", index, size)
	}
	return tlog.ProveRecord(size, index, l.reader())
}

func (l *fakeLog) ConsistencyProof(old, size int64) ([]tlog.Hash, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.readable(); err != nil {
		return nil, err
	}
	if old < 0 || old > size || size > l.size() {
		l.t.Errorf("consistency of %d and %d", old, size)
	}
	if old == 0 || old == size {
		return nil, nil
	}
	return tlog.ProveTree(size, old, l.reader())
}

// readable is nil unless the log is dead or reads are to fail.
func (l *fakeLog) readable() error {
	if l.dead {
		return errors.New("fake log: closed")
	}
	return l.unread
}

// unreadable makes every read from now on fail, or work again.
func (l *fakeLog) unreadable(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unread = err
}

func (l *fakeLog) Published() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.readable(); err != nil {
		return nil, err
	}
	if l.latest != nil {
		return l.latest.note, nil
	}
	if n := len(l.disk.published); n > 0 {
		return l.disk.published[n-1].note, nil
	}
	return nil, orchestrator.ErrNotYet
}

func (l *fakeLog) FirstPublishedCovering(index int64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.readable(); err != nil {
		return nil, err
	}
	for _, p := range l.disk.published {
		if p.size > index {
			return p.note, nil
		}
	}
	return nil, orchestrator.ErrNotYet
}

func (l *fakeLog) WaitPublished(ctx context.Context, size int64) ([]byte, error) {
	for {
		l.mu.Lock()
		n, moved := len(l.disk.published), l.moved
		if l.latest != nil && l.latest.size >= size {
			defer l.mu.Unlock()
			return l.latest.note, nil
		}
		if n > 0 && l.disk.published[n-1].size >= size {
			defer l.mu.Unlock()
			return l.disk.published[n-1].note, nil
		}
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *fakeLog) AllowWitness(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size > l.size() {
		l.t.Errorf("AllowWitness(%d) of a log of %d", size, l.size())
	}
	if l.mayAllow != nil {
		if err := l.mayAllow(size); err != nil {
			l.t.Errorf("AllowWitness(%d): %v", size, err)
		}
	}
	l.allowed = max(l.allowed, size)
	if !l.manual {
		l.publish()
	}
}
