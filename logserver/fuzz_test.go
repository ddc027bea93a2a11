package logserver

import (
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// FuzzTilePath: every path that is accepted is canonical, and tile paths mean
// what they mean to x/mod/sumdb/tlog.
func FuzzTilePath(f *testing.F) {
	f.Fuzz(func(t *testing.T, path string) {
		p, ok := parseTilePath(path)
		rest, isTile := strings.CutPrefix(path, "tile/")
		ref, err := tlog.ParseTilePath("tile/8/" + rest)
		known := isTile && err == nil && 0 <= ref.L && ref.L <= 63 && !strings.HasPrefix(rest, "data/")
		if !ok {
			if known {
				t.Fatalf("refused %q, which is %+v", path, ref)
			}
			return
		}
		if p.String() != path || p.width < 1 || p.width > TileWidth || p.level < 0 || p.level > 63 || p.number < 0 {
			t.Fatalf("%q parsed to %+v, %q", path, p, p)
		}
		if !p.entries && (!known || ref.L != p.level || ref.N != p.number || ref.W != p.width) {
			t.Fatalf("%q parsed to %+v, x/mod says %+v, %v", path, p, ref, err)
		}
		if p.within(p.number) && p.level >= maxLevels {
			t.Fatalf("%q exists in a tree of size %d", path, p.number)
		}
	})
}

// FuzzFrames: what /add-batch accepts is exactly what it frames to.
func FuzzFrames(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		entries, err := parseFrames(nil, body)
		if err != nil {
			if outcomeOf(err) == &unknownOutcome || entries != nil {
				t.Fatalf("refused %d entries with %v", len(entries), err)
			}
			return
		}
		var again []string
		for _, e := range entries {
			again = append(again, string(e.Data))
		}
		if frame(again...) != string(body) || len(entries) > MaxBatch {
			t.Fatalf("%q parsed to %d entries", body, len(entries))
		}
	})
}

// FuzzFrameEnds: stored runs are framed the same way, with empty entries too,
// and nothing in them makes a reader panic.
func FuzzFrameEnds(f *testing.F) {
	f.Fuzz(func(t *testing.T, run []byte) {
		ends, err := frameEnds(run)
		if err != nil {
			return
		}
		var again []string
		for i := range ends {
			again = append(again, string(lastFrame(run, i)))
		}
		if len(ends) > TileWidth || frame(again...) != string(run) {
			t.Fatalf("%q has ends %v", run, ends)
		}
	})
}
