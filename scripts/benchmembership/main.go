// Command benchmembership runs the benchmarks of packages membership and witness
// and prints their figures as rows with the floors that a release holds.
// scripts/bench-membership builds what it needs and runs it; docs/benchmarks.md
// says what the rows mean.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	var b bench
	flag.StringVar(&b.binaries.membership, "membership", "", "test binary of package membership")
	flag.StringVar(&b.binaries.witness, "witness", "", "test binary of package witness")
	flag.IntVar(&b.series, "series", 3, "series of each")
	flag.BoolVar(&b.quick, "quick", false, "one short series of each: shows that it works")
	jsonFile := flag.String("json", "", "file to write the rows to as JSON")
	flag.Parse()
	rows, err := b.run(os.Stderr)
	if err == nil {
		err = printTable(os.Stdout, rows)
	}
	if err == nil && *jsonFile != "" {
		err = writeJSON(*jsonFile, rows)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmembership:", err)
		os.Exit(1)
	}
}

// A row is one figure, as scripts/bench-log writes them. Nobody else's program
// does the same work, so peer and ratio are null.
type row struct {
	Name  string   `json:"name"`
	Ours  float64  `json:"ours"`
	Peer  *float64 `json:"peer"`
	Ratio *float64 `json:"ratio"`
	Floor *float64 `json:"floor"`
	Aim   *float64 `json:"aim"`
	Unit  string   `json:"unit"`

	series []float64
	less   bool // less is better
}

// bench says what is run, and how often.
type bench struct {
	binaries struct{ membership, witness string }
	series   int
	quick    bool
}

// figures are what benchmarks reported: the series by name and unit.
type figures map[string][]float64

// run measures everything. Each series of the membership is one process on one
// CPU, each of the witness two: the server on one CPU, and its clients.
func (b *bench) run(progress io.Writer) ([]row, error) {
	series, schedules, changes, requests := max(b.series, 1), "1s", "1s", "12288x"
	if b.quick {
		series, schedules, changes, requests = 1, "50ms", "1x", "4096x"
	}
	all := figures{}
	for range series {
		for _, job := range []struct {
			binary string
			args   []string
		}{
			{b.binaries.membership, []string{"-test.bench", "Schedule", "-test.benchtime", schedules, "-test.cpu", "1"}},
			{b.binaries.membership, []string{"-test.bench", "100k", "-test.benchtime", changes, "-test.cpu", "1"}},
			{b.binaries.witness, []string{"-test.bench", "Serve", "-test.benchtime", requests}},
		} {
			out, err := benchmark(job.binary, job.args)
			if err != nil {
				return nil, err
			}
			fmt.Fprint(progress, out)
			if err := all.add(out); err != nil {
				return nil, err
			}
		}
	}
	return all.rows()
}

// benchmark runs a test binary in a directory of its package's depth, since
// benchmarks read nothing.
func benchmark(binary string, args []string) (string, error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "bench-membership-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command(path, append([]string{"-test.run", "^$", "-test.timeout", "10m"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(path), err, out)
	}
	return string(out), nil
}

// add reads the lines of a benchmark: name, iterations, and figures with units.
func (f figures) add(out string) error {
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(words[0], "Benchmark"), "-")
		for i := 2; i+1 < len(words); i += 2 {
			value, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				return fmt.Errorf("figure %q of %s: %w", words[i], name, err)
			}
			key := name + " " + words[i+1]
			f[key] = append(f[key], value)
		}
	}
	return nil
}

// Bounds are what a release holds; an aim of 0 is none.
const (
	perSecond = "/s"
	millis    = "ms, less is better"
	kibibytes = "KiB, less is better"
)

// rows makes the rows from what was reported.
func (f figures) rows() ([]row, error) {
	var rows []row
	var missing []string
	add := func(name, unit, from string, floor, aim float64, convert func(float64) float64) {
		values := f[from]
		if len(values) == 0 {
			missing = append(missing, from)
			return
		}
		r := row{Name: name, Unit: unit, less: strings.HasSuffix(unit, "less is better")}
		for _, v := range values {
			r.series = append(r.series, convert(v))
		}
		r.Ours = median(r.series)
		if floor != 0 {
			r.Floor = &floor
		}
		if aim != 0 {
			r.Aim = &aim
		}
		rows = append(rows, r)
	}
	rate := func(ns float64) float64 { return 1e9 / ns }
	toMillis := func(ns float64) float64 { return ns / 1e6 }
	same := func(v float64) float64 { return v }
	add("schedules of 1,000 nodes, one core", perSecond, "Schedule1000 ns/op", 5000, 8000, rate)
	add("insert, 100,000 principals", millis, "ApplyAdd100k ns/op", 50, 0, toMillis)
	add("update in place, 100,000 principals", millis, "ApplyUpdate100k ns/op", 5, 0, toMillis)
	add("membership proof, 100,000 principals", millis, "ProveMember100k ns/op", 1, 0, toMillis)
	add("membership proof checked", millis, "CheckMember100k ns/op", 0, 0, toMillis)
	for _, kind := range []struct {
		name, words string
		floor       float64
	}{{"ed25519", "Ed25519", 2000}, {"mldsa", "ML-DSA-44", 0}, {"both", "both", 0}} {
		for _, logs := range []string{"64", "4096"} {
			what := fmt.Sprintf("add-checkpoint, %s, %s logs", kind.words, logs)
			from := fmt.Sprintf("Serve/%s/logs=%s ", kind.name, logs)
			add(what+", one core", perSecond, from+"checkpoints/s", kind.floor, 0, same)
			add(what+", a second of CPU", perSecond, from+"checkpoints/cpu-s", 0, 0, same)
		}
	}
	for _, kind := range []struct{ name, words string }{{"ed25519", "Ed25519"}, {"both", "both keys"}} {
		from := "memory " + kind.name
		f[from] = f.memoryPerLog(kind.name)
		add("witness: memory for a log, "+kind.words, kibibytes, from, 0, 0, same)
	}
	if missing != nil {
		return nil, fmt.Errorf("no benchmark reported %s", strings.Join(missing, ", "))
	}
	return rows, nil
}

// memoryPerLog is by how much the witness grows from 64 logs to 4,096, for each
// log more: of its largest resident size, in which garbage counts.
func (f figures) memoryPerLog(kind string) (series []float64) {
	few, many := f["Serve/"+kind+"/logs=64 MiB"], f["Serve/"+kind+"/logs=4096 MiB"]
	for i := range min(len(few), len(many)) {
		series = append(series, max(0, (many[i]-few[i])*1024/(4096-64)))
	}
	return series
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// verdict says which of its bounds a row holds.
func (r row) verdict() string {
	holds := func(bound *float64) bool {
		return bound != nil && (r.less && r.Ours <= *bound || !r.less && r.Ours >= *bound)
	}
	switch {
	case r.Floor == nil:
		return "reported"
	case !holds(r.Floor):
		return "BELOW"
	case holds(r.Aim):
		return "aim"
	}
	return "floor"
}

func printTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tours\tfloor\taim\tunit\tverdict")
	for _, r := range rows {
		ours := figure(r.Ours)
		if len(r.series) > 1 {
			ours += " (" + figure(slices.Min(r.series)) + "–" + figure(slices.Max(r.series)) + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, ours, bound(r.Floor), bound(r.Aim), r.Unit, r.verdict())
	}
	return t.Flush()
}

func bound(b *float64) string {
	if b == nil {
		return "–"
	}
	return figure(*b)
}

// figure writes a number with three digits that say something.
func figure(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func writeJSON(path string, rows []row) error {
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
