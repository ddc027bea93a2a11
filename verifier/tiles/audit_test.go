package tiles

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// server is a log in memory that can be made to lie. Its resources are made
// from the entries by tlog, independently of the code under test.
type server struct {
	origin  string
	entries [][]byte
	hashes  []tlog.Hash
	signed  []byte // what it shows as its checkpoint; nil means the truth

	mu    sync.Mutex
	reads map[string]int
	// answer, if it returns true, replaces the answer to a path. It runs under mu.
	answer func(path string) ([]byte, error, bool)
}

func newServer(n int) *server {
	s := &server{origin: "example/log", reads: map[string]int{}}
	s.grow(n)
	return s
}

func (s *server) grow(n int) {
	for range n {
		s.add(fmt.Appendf(nil, "entry %d", len(s.entries)))
	}
}

func (s *server) add(entry []byte) {
	hashes, err := tlog.StoredHashes(int64(len(s.entries)), entry, tlog.HashReaderFunc(s.read))
	if err != nil {
		panic(err)
	}
	s.hashes = append(s.hashes, hashes...)
	s.entries = append(s.entries, entry)
}

func (s *server) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = s.hashes[index]
	}
	return out, nil
}

func (s *server) checkpoint(t testing.TB, size int64) []byte {
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(s.read))
	if err != nil {
		t.Fatal(err)
	}
	return s.sign(t, checkpoint.Checkpoint{Origin: s.origin, Size: size, Root: root})
}

func (s *server) sign(t testing.TB, c checkpoint.Checkpoint) []byte {
	signer, err := checkpoint.NewSigner(s.origin, testcluster.Key(s.origin))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := checkpoint.Sign(c, signer)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (s *server) audit(t testing.TB) *Audit {
	vkey, err := checkpoint.Vkey(s.origin, testcluster.Public(s.origin))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := checkpoint.ParsePolicy([]byte("log " + vkey + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	return &Audit{Policy: policy, Workers: 3, Fetch: func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reads[path]++
		if s.answer != nil {
			if b, err, ok := s.answer(path); ok {
				return b, err
			}
		}
		return s.resource(t, path)
	}}
}

// resource answers for the tree as it is, full and partial alike.
func (s *server) resource(t testing.TB, path string) ([]byte, error) {
	if path == "checkpoint" {
		if s.signed != nil {
			return s.signed, nil
		}
		return s.checkpoint(t, int64(len(s.entries))), nil
	}
	level, rest, _ := strings.Cut(strings.TrimPrefix(path, "tile/"), "/")
	index, partial, isPartial := strings.Cut(strings.ReplaceAll(rest, "x", ""), ".p/")
	var n, w int64 = 0, width
	fmt.Sscanf(strings.ReplaceAll(index, "/", ""), "%d", &n)
	if isPartial {
		fmt.Sscanf(partial, "%d", &w)
	}
	if level == "entries" {
		if n*width+w > int64(len(s.entries)) {
			return nil, ErrNotFound
		}
		var b []byte
		for _, entry := range s.entries[n*width : n*width+w] {
			b = binary.BigEndian.AppendUint16(b, uint16(len(entry)))
			b = append(b, entry...)
		}
		return b, nil
	}
	var l int
	fmt.Sscanf(level, "%d", &l)
	if (n*width+w)<<(8*l) > int64(len(s.entries)) {
		return nil, ErrNotFound
	}
	b, err := tlog.ReadTileData(tlog.Tile{H: 8, L: l, N: n, W: int(w)}, tlog.HashReaderFunc(s.read))
	return b, err
}

func mustRun(t *testing.T, a *Audit, state *State) (*Report, *State) {
	t.Helper()
	report, state, err := a.Run(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	// What a caller keeps in a file.
	b, err := state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseState(b)
	if err != nil {
		t.Fatal(err)
	}
	return report, again
}

func TestAuditSizes(t *testing.T) {
	for _, n := range []int{0, 1, 2, 255, 256, 257, 511, 512, 700} {
		s := newServer(n)
		var progress []int64
		a := s.audit(t)
		a.Progress = func(done, size int64) { progress = append(progress, done) }
		report, _ := mustRun(t, a, nil)
		if report.Size != int64(n) || report.Entries != int64(n) || report.Remembered != 0 || report.Origin != s.origin {
			t.Errorf("%d entries: %+v", n, report)
		}
		if n > 0 && progress[len(progress)-1] != int64(n) {
			t.Errorf("%d entries: progress %v", n, progress)
		}
	}
}

// Tiles of level 2 exist from 65,536 entries on.
func TestAuditUpperLevels(t *testing.T) {
	s := newServer(65_536 + 300)
	report, state := mustRun(t, s.audit(t), nil)
	for _, path := range []string{"tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/0/256", "tile/0/257.p/44", "tile/entries/257.p/44"} {
		if s.reads[path] != 1 {
			t.Errorf("%s was read %d times", path, s.reads[path])
		}
	}
	if report.Entries != 65_836 {
		t.Errorf("%+v", report)
	}
	clear(s.reads)
	s.grow(1)
	report, _ = mustRun(t, s.audit(t), state)
	if report.Entries != 1 || report.Remembered != 65_836 || len(s.reads) != 5 {
		t.Errorf("one entry more: %+v, %v", report, s.reads)
	}
}

// However the log grows between runs, each takes only what is new and ends at
// the same tree.
func TestAuditIncremental(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	s := newServer(0)
	var state *State
	for range 25 {
		before := int64(len(s.entries))
		s.grow(rng.IntN(400))
		report, next := mustRun(t, s.audit(t), state)
		if report.Entries != report.Size-before || report.Remembered != before && state != nil {
			t.Fatalf("from %d: %+v", before, report)
		}
		state = next
	}
}

func TestAuditFindsLies(t *testing.T) {
	flip := func(path string) func(s *server) {
		return func(s *server) {
			s.answer = func(p string) ([]byte, error, bool) {
				if p != path {
					return nil, nil, false
				}
				b, err := s.resource(nil, p)
				b = bytes.Clone(b)
				b[len(b)-1] ^= 1
				return b, err, true
			}
		}
	}
	say := func(path string, b []byte, err error) func(s *server) {
		return func(s *server) {
			s.answer = func(p string) ([]byte, error, bool) { return b, err, p == path }
		}
	}
	for _, test := range []struct {
		name string
		lie  func(s *server)
		want error
	}{
		{"entry changed", flip("tile/entries/000"), ErrTile},
		{"last entry changed", flip("tile/entries/002.p/188"), ErrTile},
		{"tile changed", flip("tile/0/001"), ErrTile},
		{"upper tile changed", flip("tile/1/000.p/2"), ErrTile},
		{"signature changed", flip("checkpoint"), ErrCheckpoint},
		{"empty tile", say("tile/0/000", nil, nil), ErrMalformed},
		{"bundle cut off", say("tile/entries/000", []byte{0, 9, 1}, nil), ErrMalformed},
		{"half a length", say("tile/entries/000", []byte{0}, nil), ErrMalformed},
		{"bundle too short", say("tile/entries/000", []byte{0, 0}, nil), ErrMalformed},
		{"bundle with an entry too many", say("tile/entries/000", make([]byte, 2*257), nil), ErrMalformed},
		{"bundle too large", say("tile/entries/000", make([]byte, maxBundle+1), nil), ErrMalformed},
		{"tile missing", say("tile/0/000", nil, ErrNotFound), ErrFetch},
		{"checkpoint missing", say("checkpoint", nil, ErrNotFound), ErrFetch},
		{"upper tile missing", func(s *server) {
			s.answer = func(p string) ([]byte, error, bool) { return nil, ErrNotFound, strings.HasPrefix(p, "tile/1/") }
		}, ErrFetch},
		{"checkpoint that is none", say("checkpoint", []byte("nothing"), nil), ErrCheckpoint},
		{"tree hidden behind good tiles", func(s *server) {
			c := checkpoint.Checkpoint{Origin: s.origin, Size: 700}
			s.signed = s.sign(t, c)
		}, ErrRoot},
	} {
		s := newServer(700)
		test.lie(s)
		report, state, err := s.audit(t).Run(t.Context(), nil)
		if !errors.Is(err, test.want) || report != nil || state.Checkpoint != nil {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// The wrong entry and the wrong tile together pass the comparison, not the root.
func TestAuditFindsConsistentLie(t *testing.T) {
	s, liar := newServer(700), newServer(700)
	liar.entries[300] = []byte("another")
	liar.hashes = nil
	entries := liar.entries
	liar.entries = nil
	for _, e := range entries {
		liar.add(e)
	}
	liar.signed = s.checkpoint(t, 700)
	if _, _, err := liar.audit(t).Run(t.Context(), nil); !errors.Is(err, ErrRoot) {
		t.Errorf("%v, want %v", err, ErrRoot)
	}
}

func TestAuditRemembers(t *testing.T) {
	s := newServer(600)
	_, state := mustRun(t, s.audit(t), nil)

	s.signed = s.checkpoint(t, 599)
	if _, after, err := s.audit(t).Run(t.Context(), state); !errors.Is(err, ErrRollback) || !bytes.Equal(after.Checkpoint, state.Checkpoint) {
		t.Errorf("older checkpoint: %v", err)
	}

	fork := newServer(0)
	for i := range 600 {
		fork.add(fmt.Appendf(nil, "another entry %d", i))
	}
	var evidence *ForkError
	if _, _, err := fork.audit(t).Run(t.Context(), state); !errors.As(err, &evidence) || !errors.Is(err, ErrFork) ||
		!bytes.Equal(evidence.Known, state.Checkpoint) {
		t.Errorf("fork of the same size: %v", err)
	}
	fork.grow(100)
	evidence = nil
	if _, after, err := fork.audit(t).Run(t.Context(), state); !errors.As(err, &evidence) || !bytes.Equal(after.Checkpoint, state.Checkpoint) {
		t.Errorf("fork that has grown: %v", err)
	} else {
		policy := fork.audit(t).Policy
		finding, err := evidence.Evidence(policy).Judge(policy.LogKeys(fork.origin))
		if err != nil || finding != checkpoint.Fork {
			t.Errorf("evidence of a fork that has grown: %v, %v", finding, err)
		}
	}

	// New entries that do not belong to the checkpoint are not a fork.
	s.signed = nil
	s.grow(100)
	s.signed = s.checkpoint(t, 700)
	s.entries[650] = []byte("another")
	rebuilt := newServer(0)
	for _, e := range s.entries {
		rebuilt.add(e)
	}
	rebuilt.signed = s.signed
	if _, _, err := rebuilt.audit(t).Run(t.Context(), state); !errors.Is(err, ErrRoot) {
		t.Errorf("wrong new entries: %v, want %v", err, ErrRoot)
	}

	other := newServer(5)
	other.origin = "example/other"
	if _, _, err := other.audit(t).Run(t.Context(), state); !errors.Is(err, ErrState) {
		t.Errorf("state of another log: %v", err)
	}
}

// A run that is interrupted goes on where it stopped.
func TestAuditResumes(t *testing.T) {
	s := newServer(256 * 20)
	s.answer = func(p string) ([]byte, error, bool) {
		return nil, errors.New("connection lost"), p == "tile/entries/010"
	}
	_, state, err := s.audit(t).Run(t.Context(), nil)
	if !errors.Is(err, ErrFetch) || state.Checkpoint != nil {
		t.Fatalf("%v", err)
	}
	b, err := state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if state, err = ParseState(b); err != nil {
		t.Fatal(err)
	}
	s.answer = nil
	clear(s.reads)
	s.grow(10)
	report, state := mustRun(t, s.audit(t), state)
	if report.Entries != 256*10+10 || s.reads["tile/entries/009"] != 0 || s.reads["tile/entries/010"] != 1 {
		t.Errorf("%+v, %v", report, s.reads)
	}

	// What an interrupted run had read may be wrong: the root hash tells, and
	// the next run begins anew.
	state.paused = state.edge.clone()
	state.paused.levels[1][3][0] ^= 1
	s.grow(5)
	report, _ = mustRun(t, s.audit(t), state)
	if report.Size != 256*20+15 {
		t.Errorf("%+v", report)
	}
	// A paused run beyond the tree is of no use.
	state.paused = state.edge.clone()
	state.paused.levels[2] = make([]tlog.Hash, 1)
	mustRun(t, s.audit(t), state)
}

func TestAuditCancelled(t *testing.T) {
	s := newServer(256 * 5)
	ctx, cancel := context.WithCancel(t.Context())
	a := s.audit(t)
	a.Workers = 0
	a.Progress = func(done, size int64) { cancel() }
	_, state, err := a.Run(ctx, nil)
	if !errors.Is(err, context.Canceled) || state.Checkpoint != nil {
		t.Fatalf("%v", err)
	}
	report, _ := mustRun(t, s.audit(t), state)
	if report.Size != 256*5 || report.Entries == 256*5 {
		t.Errorf("%+v", report)
	}
}

// A log may drop a partial tile once the full one is there.
func TestAuditWithoutPartialTiles(t *testing.T) {
	s := newServer(700)
	s.signed = s.checkpoint(t, 600)
	s.grow(100)
	s.answer = func(p string) ([]byte, error, bool) {
		return nil, ErrNotFound, strings.Contains(p, "002.p/88")
	}
	report, _ := mustRun(t, s.audit(t), nil)
	if report.Size != 600 || s.reads["tile/entries/002"] != 1 || s.reads["tile/0/002"] != 1 {
		t.Errorf("%+v, %v", report, s.reads)
	}
}

func TestParseState(t *testing.T) {
	s := newServer(300)
	_, state := mustRun(t, s.audit(t), nil)
	good, err := state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty":              "",
		"not JSON":           "state",
		"something after it": string(good) + "{}",
		"another version":    strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"unknown member":     strings.Replace(string(good), `"edge"`, `"edges"`, 1),
		"no checkpoint":      `{"version":1,"edge":["","","","","","","",""]}`,
		"no tree":            `{"version":1,"checkpoint":"x"}`,
		"too few levels":     `{"version":1,"paused":[""]}`,
		"half a hash":        `{"version":1,"paused":["AAAA","","","","","","",""]}`,
		"too large":          strings.Repeat(" ", MaxStateSize+1),
	} {
		if _, err := ParseState([]byte(bad)); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, bad := range map[string]string{
		"another size":            strings.Replace(string(good), `\n300\n`, `\n301\n`, 1),
		"checkpoint that is none": `{"version":1,"checkpoint":"x","edge":["","","","","","","",""]}`,
	} {
		parsed, err := ParseState([]byte(bad))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, _, err := s.audit(t).Run(t.Context(), parsed); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if parsed, err := ParseState([]byte(`{"version":1}`)); err != nil || parsed.Checkpoint != nil {
		t.Errorf("a state that remembers nothing: %v", err)
	}
}

func TestTilePath(t *testing.T) {
	for want, got := range map[string]string{
		"tile/0/000":                  tilePath("0", 0, 256),
		"tile/0/x001/x234/067":        tilePath("0", 1234067, 256),
		"tile/entries/x001/000.p/5":   tilePath("entries", 1000, 5),
		"tile/7/255.p/1":              tilePath("7", 255, 1),
		"tile/entries/x999/999.p/255": tilePath("entries", 999999, 255),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0}, 2)
	f.Add([]byte{0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 1 || n > width {
			return
		}
		leaves, err := parseBundle(b, n, n)
		if err == nil && len(leaves) != n {
			t.Fatalf("%d leaves, want %d", len(leaves), n)
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"version":1,"paused":["","","","","","","",""]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		if _, err := s.check("example/log"); err == nil {
			s.start(100).root()
		}
	})
}
