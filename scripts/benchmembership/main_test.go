package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// said is what the benchmarks print, twice.
func said(schedule string) string {
	out := "goos: linux\npkg: example\nBenchmarkSchedule1000 \t 100\t" + schedule + " ns/op\nBenchmarkApplyAdd100k-2 3 4000000 ns/op\n" +
		"BenchmarkApplyUpdate100k 3 9000000 ns/op\nBenchmarkProveMember100k 3 20000 ns/op\nBenchmarkCheckMember100k 3 30000 ns/op\n"
	for _, kind := range []string{"ed25519", "mldsa", "both"} {
		out += "BenchmarkServe/" + kind + "/logs=64-2 10 50.00 MiB 2500 checkpoints/cpu-s 2600 checkpoints/s\n" +
			"BenchmarkServe/" + kind + "/logs=4096-2 10 65.75 MiB 2400 checkpoints/cpu-s 2200 checkpoints/s\n"
	}
	return out + "PASS\n"
}

func TestRows(t *testing.T) {
	f := figures{}
	for _, schedule := range []string{"100000", "125000", "250000"} {
		if err := f.add(said(schedule)); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := f.rows()
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]string{}
	for _, r := range rows {
		verdicts[r.Name] = figure(r.Ours) + " " + r.verdict()
	}
	for name, want := range map[string]string{
		"schedules of 1,000 nodes, one core":           "8000 aim",
		"insert, 100,000 principals":                   "4 floor",
		"update in place, 100,000 principals":          "9 BELOW",
		"membership proof, 100,000 principals":         "0.02 floor",
		"add-checkpoint, Ed25519, 64 logs, one core":   "2600 floor",
		"add-checkpoint, ML-DSA-44, 64 logs, one core": "2600 reported",
		"witness: memory for a log, both keys":         "4 reported",
	} {
		if verdicts[name] != want {
			t.Errorf("%s: %q, want %q", name, verdicts[name], want)
		}
	}
	var table bytes.Buffer
	if err := printTable(&table, rows); err != nil || !strings.Contains(table.String(), "8000 (4000–10000)") {
		t.Errorf("table, %v:\n%s", err, table.String())
	}

	// The JSON has the members of bench-log's rows, and no others.
	path := filepath.Join(t.TempDir(), "rows.json")
	if err := writeJSON(path, rows); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	if err := json.Unmarshal(data, &list); err != nil || len(list) != len(rows) {
		t.Fatalf("%d rows, %v", len(list), err)
	}
	if names := slices.Sorted(maps.Keys(list[0])); !slices.Equal(names, []string{"aim", "floor", "name", "ours", "peer", "ratio", "unit"}) {
		t.Errorf("members are %q", names)
	}
}

func TestIncomplete(t *testing.T) {
	f := figures{}
	if err := f.add("BenchmarkSchedule1000 100 12x ns/op\n"); err == nil {
		t.Error("a figure that is no number was taken")
	}
	if err := f.add(strings.ReplaceAll(said("1"), "ApplyAdd", "Nothing")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.rows(); err == nil || !strings.Contains(err.Error(), "ApplyAdd100k ns/op") {
		t.Errorf("a row that was not measured: %v", err)
	}
	if _, err := (&bench{}).run(&bytes.Buffer{}); err == nil {
		t.Error("no binary was run")
	}
}
