package compare

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

const origin = "example.com/log"

// history is one of the trees that a log with a single key can show.
type history struct {
	t       testing.TB
	entries [][]byte
	hashes  []tlog.Hash
}

func newHistory(t testing.TB, size int) *history {
	h := &history{t: t}
	h.grow(size, "")
	return h
}

// grow adds entries, of a flavour, up to a size.
func (h *history) grow(size int, flavour string) *history {
	for i := len(h.entries); i < size; i++ {
		entry := fmt.Appendf(nil, "entry %d %s", i, flavour)
		hashes, err := tlog.StoredHashes(int64(i), entry, h)
		if err != nil {
			h.t.Fatal(err)
		}
		h.entries, h.hashes = append(h.entries, entry), append(h.hashes, hashes...)
	}
	return h
}

// fork returns a history that shares the first at entries and is of a flavour
// from there to size.
func (h *history) fork(at, size int, flavour string) *history {
	f := &history{t: h.t, entries: slices.Clone(h.entries[:at]), hashes: slices.Clone(h.hashes[:tlog.StoredHashCount(int64(at))])}
	return f.grow(size, flavour)
}

func (h *history) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(h.hashes)) {
			return nil, fmt.Errorf("%w: hash %d", tiles.ErrNotFound, index)
		}
		out[i] = h.hashes[index]
	}
	return out, nil
}

func (h *history) checkpoint(size int) checkpoint.Checkpoint {
	root, err := tlog.TreeHash(int64(size), h)
	if err != nil {
		h.t.Fatal(err)
	}
	return checkpoint.Checkpoint{Origin: origin, Size: int64(size), Root: root}
}

// signed is the log's checkpoint at a size, with cosignatures.
func (h *history) signed(size int, witnesses ...string) []byte {
	return sign(h.t, h.checkpoint(size), origin, witnesses...)
}

func sign(t testing.TB, c checkpoint.Checkpoint, key string, witnesses ...string) []byte {
	t.Helper()
	log, err := checkpoint.NewSigner(c.Origin, testcluster.Key(key))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := checkpoint.Sign(c, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range witnesses {
		sig, err := cosigner(t, w).Cosign(c.Body(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		signed = append(signed, sig.Line()...)
	}
	return signed
}

func cosigner(t testing.TB, name string) *checkpoint.Cosigner {
	t.Helper()
	c, err := checkpoint.NewEd25519Cosigner("witness.example/"+name, testcluster.Key(name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// policy has one log and the witnesses w1, w2 and w3, of which two must cosign.
func policy(t testing.TB) *checkpoint.Policy {
	t.Helper()
	vkey, err := checkpoint.Vkey(origin, testcluster.Public(origin))
	if err != nil {
		t.Fatal(err)
	}
	text := "log " + vkey + "\n"
	for _, w := range []string{"w1", "w2", "w3"} {
		text += "witness " + w + " " + cosigner(t, w).Key().Vkey() + "\n"
	}
	p, err := checkpoint.ParsePolicy([]byte(text + "group both 2 w1 w2 w3\nquorum both\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fetch serves a signed checkpoint and the tiles of a history.
func (h *history) fetch(signed []byte) tiles.Fetch {
	return func(_ context.Context, path string, limit int64) ([]byte, error) {
		if path == "checkpoint" {
			return signed, nil
		}
		level, rest, _ := strings.Cut(strings.TrimPrefix(path, "tile/"), "/")
		rest, partial, isPartial := strings.Cut(rest, ".p/")
		width := 256
		if isPartial {
			width, _ = strconv.Atoi(partial)
		}
		n, err := strconv.Atoi(strings.ReplaceAll(strings.ReplaceAll(rest, "/", ""), "x", ""))
		if err != nil {
			return nil, err
		}
		if level == "entries" {
			var b []byte
			for _, e := range h.entries[n*256 : n*256+width] {
				b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
			}
			return b, nil
		}
		l, err := strconv.Atoi(level)
		if err != nil {
			return nil, err
		}
		return tlog.ReadTileData(tlog.Tile{H: 8, L: l, N: int64(n), W: width}, h)
	}
}

// log is a source that shows a history at a size.
func (h *history) log(name string, size int, witnesses ...string) Source {
	return Source{Name: name, Kind: KindLog, Fetch: h.fetch(h.signed(size, witnesses...))}
}

func (h *history) mirror(name string, size int) Source {
	s := h.log(name, size)
	s.Kind = KindMirror
	return s
}

// witness is a source that shows what it has cosigned.
func (h *history) witness(name string, size int) Source { return shows(name, h.signed(size, name)) }

// shows is a witness that shows any bytes.
func shows(name string, signed []byte) Source {
	want := fmt.Sprintf("%x/checkpoint", sha256.Sum256([]byte(origin)))
	return Source{Name: name, Kind: KindWitness, Witness: name,
		Fetch: func(_ context.Context, path string, _ int64) ([]byte, error) {
			if path != want || signed == nil {
				return nil, fmt.Errorf("%w: %q", tiles.ErrNotFound, path)
			}
			return signed, nil
		}}
}

// run compares once and checks what holds for every report.
func run(t *testing.T, state *State, sources ...Source) (*Report, *State) {
	t.Helper()
	c := &Comparison{Policy: policy(t), Sources: sources}
	r, next, err := c.Run(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	checkReport(t, c, r)
	text, err := next.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if next, err = ParseState(text); err != nil {
		t.Fatalf("state: %v\n%s", err, text)
	}
	return r, next
}

// checkReport holds what is true of every report: each split is proven by what a
// stranger can check, and the verdict goes with the views.
func checkReport(t *testing.T, c *Comparison, r *Report) {
	t.Helper()
	if (r.Verdict == VerdictSplit) != (len(r.Splits) > 0) {
		t.Errorf("verdict %s with %d splits", r.Verdict, len(r.Splits))
	}
	for _, split := range r.Splits {
		if split.Evidence == nil {
			t.Errorf("split without evidence: %s", split.Problem)
			continue
		}
		text, err := split.Evidence.Format()
		if err != nil {
			t.Fatal(err)
		}
		e, err := checkpoint.ParseEvidence(text)
		if err != nil {
			t.Fatal(err)
		}
		if finding, err := e.Judge(c.Policy.LogKeys(origin)); err != nil || finding != checkpoint.Fork {
			t.Errorf("evidence is judged %v, %v", finding, err)
		}
	}
	for _, v := range r.Views {
		if strings.Contains(v.Problem, "\n") {
			t.Errorf("%s: a problem of several lines: %q", v.Source, v.Problem)
		}
	}
}

// want compares verdict and statuses, in the order of the views.
func want(t *testing.T, r *Report, verdict Verdict, statuses ...Status) {
	t.Helper()
	var have []Status
	for _, v := range r.Views {
		have = append(have, v.Status)
	}
	if r.Verdict != verdict || !slices.Equal(have, statuses) {
		t.Errorf("have %s %v, want %s %v\n%+v", r.Verdict, have, verdict, statuses, r.Views)
	}
}
