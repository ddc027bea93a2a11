package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	ratio := row{relative: true, floor: 2, aim: 3}
	less := row{less: true, floor: 20, aim: 10}
	for _, c := range []struct {
		name string
		row  row
		o    outcome
		s    shape
		want string
	}{
		{"ratio at the aim", ratio, outcome{ours: series{30}, peer: series{10}}, plain, "aim"},
		{"ratio at the floor", ratio, outcome{ours: series{20}, peer: series{10}}, plain, "floor"},
		{"ratio below", ratio, outcome{ours: series{19}, peer: series{10}}, plain, "BELOW"},
		{"medians count", ratio, outcome{ours: series{1, 30, 99}, peer: series{10, 9, 1000}}, plain, "aim"},
		{"ratio without a peer", ratio, outcome{ours: series{30}}, plain, "NOT MEASURED"},
		{"less at the aim", less, outcome{ours: series{10}}, plain, "aim"},
		{"less at the floor", less, outcome{ours: series{10.1}}, plain, "floor"},
		{"less beyond", less, outcome{ours: series{20.1}}, plain, "BELOW"},
		{"no floor", row{relative: true, aim: 3, limited: aimOnly}, outcome{ours: series{1}, peer: series{1}}, plain, "below aim"},
		{"reported", row{limited: reported}, outcome{ours: series{1}}, plain, "reported"},
		{"openings", ratio, outcome{ours: series{1}, peer: series{10}}, withOpening, "reported"},
		{"missing", ratio, outcome{missing: "not available"}, plain, "not available"},
		{"error", ratio, outcome{ours: series{99}, err: errors.New("x")}, plain, "NOT MEASURED"},
	} {
		if got := c.row.verdict(&c.o, c.s); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestRows checks that every row is measured by exactly one group, and that its
// bounds are the right way round.
func TestRows(t *testing.T) {
	var grouped []string
	for _, g := range groups {
		grouped = append(grouped, g.rows...)
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
		if r.limited == both && r.less && r.aim > r.floor || r.limited == both && !r.less && r.aim < r.floor {
			t.Errorf("%s: aim %v is worse than floor %v", r.name, r.aim, r.floor)
		}
		if r.relative && r.peer == "" {
			t.Errorf("%s: a ratio without a peer", r.name)
		}
	}
	slices.Sort(grouped)
	slices.Sort(names)
	if !slices.Equal(grouped, names) {
		t.Errorf("rows of the groups:\n%s\nrows of the table:\n%s", strings.Join(grouped, "\n"), strings.Join(names, "\n"))
	}
	if len(slices.Compact(names)) != len(rows) {
		t.Error("names are not unique")
	}
}

func testBench() *bench {
	b := &bench{only: regexp.MustCompile(""), shape: plain, results: make(map[string]*outcome)}
	b.add(300, []string{rowSingle}, nil)
	b.add(100, nil, []string{rowSingle})
	b.add(5, []string{rowLatency50}, nil)
	b.add(50, nil, []string{rowLatency50})
	b.result(rowAddStream).missing = "not available"
	return b
}

func TestWriteJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.json")
	if err := testBench().writeJSON(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"name": rowSingle, "ours": 300.0, "peer": 100.0, "ratio": 3.0, "floor": 2.2, "aim": 3.5, "unit": "entries/s"},
		{"name": rowAddStream, "ours": nil, "peer": nil, "ratio": nil, "floor": 300000.0, "aim": 450000.0, "unit": "entries/s"},
		{"name": rowLatency50, "ours": 5.0, "peer": 50.0, "ratio": 0.1, "floor": 2.0, "aim": 1.0, "unit": "ms (less is better)"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range want {
		for key, value := range want[i] {
			if got[i][key] != value {
				t.Errorf("row %d: %s is %v, want %v", i, key, got[i][key], value)
			}
		}
		if len(got[i]) != len(want[i]) {
			t.Errorf("row %d has the fields %v", i, got[i])
		}
	}
}

func TestTable(t *testing.T) {
	b := testBench()
	b.result(rowProof).err = errors.New("no such thing")
	var out strings.Builder
	b.table(&out)
	for _, want := range []string{
		`append, single +300 entries/s +100 Tessera, in process +3\.000× +≥ 2\.2× +≥ 3\.5× +floor`,
		`POST /add at 20,000/s, p50 +5 ms +50 Tessera's server at 12,000/s +– +≤ 2 +≤ 1 +BELOW`,
		`POST /add-stream.* – +– +– +≥ 300,000 +≥ 450,000 +not available`,
		`not measured: POST /add with proof: no such thing`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no match of %q in:\n%s", want, out.String())
		}
	}
	if err := b.failed(); err == nil || !strings.Contains(err.Error(), rowProof) {
		t.Errorf("failed: %v", err)
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.125: "0.125", 3: "3", 12.345: "12.3", 999: "999", 1234.5: "1,234", 1234567: "1,234,567"} {
		if got := figure(v); got != want {
			t.Errorf("figure(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestSeries(t *testing.T) {
	for _, c := range []struct {
		s    series
		want float64
	}{{nil, 0}, {series{4}, 4}, {series{1, 3}, 2}, {series{9, 1, 5}, 5}} {
		if got := c.s.median(); got != c.want {
			t.Errorf("median of %v = %v, want %v", c.s, got, c.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(99-i))
	}
	if p50, p99 := percentile(d, 50), percentile(d, 99); p50 != 50 || p99 != 99 {
		t.Errorf("p50 %d, p99 %d", p50, p99)
	}
	if percentile(nil, 50) != 0 {
		t.Error("percentile of nothing")
	}
}

// TestSynced: whoever appends for a row that is wanted is shown to sync.
func TestSynced(t *testing.T) {
	for pattern, want := range map[string][]string{
		"":                  {engineLog, engineTessera, enginePebble, logServer, tesseraServer},
		"^POST /add":        {logServer, tesseraServer},
		"idle log":          {engineLog, engineTessera, enginePebble},
		"at 10 M$":          {engineLog, engineTessera, enginePebble},
		"^full tiles":       nil,
		"proof verificatio": nil,
	} {
		b := &bench{only: regexp.MustCompile(pattern), shape: plain}
		if got := b.synced(); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", pattern, got, want)
		}
	}
}

func TestEnded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace")
	trace := "12 fsync(3) = 0\n123 +++ exited with 0 +++\n12 openat(AT_FDCWD, \"x\", O_RDWR|O_SYNC) = 4\n12 +++ killed by SIGTERM +++\n"
	if err := os.WriteFile(file, []byte(trace), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ended(file, 12)
	if err != nil || got != trace {
		t.Errorf("%q, %v", got, err)
	}
	if calls, files := countSyncs(got); calls != 1 || files != 1 {
		t.Errorf("%d syncs, %d files", calls, files)
	}
	if _, err := ended(file+"-none", 12); err == nil {
		t.Error("no trace is no error")
	}
}
