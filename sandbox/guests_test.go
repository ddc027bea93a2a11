//go:build unix

package sandbox

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// guestDir has programs in Go, Rust and C, and goldenOutcomes how each of them
// ends: on every machine, in every mode, however its gas is handed out. A
// change of the file is a new version of the host interface, the rewriter or
// the cost table.
const (
	guestDir       = "testdata/guests"
	goldenOutcomes = "testdata/golden/outcomes.txt"
)

// A guestCase is a program with the job it gets.
type guestCase struct {
	guest string // "go", the name of a committed module, or a key of assembled
	arg   string // the words after the program's name
	input string
	kind  Kind
	code  uint32
	slow  bool // in the interpreter: left to the slow tests
}

func (c *guestCase) name() string { return strings.TrimSpace(c.guest + " " + c.arg) }

// guestCases are programs as tenants write them, all that differs from run to
// run elsewhere, and all ways in which a run can end.
var guestCases = []guestCase{
	{guest: "go", arg: "normalise", input: jsonText(40), kind: KindOK, slow: true},
	{guest: "words", input: plainText(5000), kind: KindOK},
	{guest: "mean", input: plainText(5000), kind: KindOK},

	{guest: "go", arg: "clock", kind: KindOK, slow: true},
	{guest: "go", arg: "sleep", kind: KindOK, slow: true},
	{guest: "go", arg: "random", kind: KindOK, slow: true},
	{guest: "go", arg: "maps", kind: KindOK, slow: true},
	{guest: "go", arg: "goroutines", kind: KindOK, slow: true},
	{guest: "go", arg: "environ", kind: KindOK, slow: true},
	{guest: "go", arg: "stdin", input: plainText(1000), kind: KindOK, slow: true},
	{guest: "go", arg: "stderr", kind: KindOK, slow: true},
	{guest: "go", arg: "files", kind: KindOK, slow: true},
	{guest: "words", arg: "chance", kind: KindOK},
	{guest: "probe", arg: "clock", kind: KindOK},
	{guest: "probe", arg: "random", kind: KindOK},
	{guest: "probe", arg: "nan", kind: KindOK},
	{guest: "probe", arg: "grow", kind: KindOK, slow: true},
	{guest: "probe", arg: "environ", kind: KindOK},
	{guest: "probe", arg: "files", kind: KindOK},
	{guest: "probe", arg: "stderr", kind: KindOK},
	{guest: "mean", input: "", kind: KindOK},

	{guest: "go", kind: KindExit, code: 64, slow: true},
	{guest: "go", arg: "normalise", input: "{not JSON", kind: KindExit, code: 1, slow: true},
	{guest: "go", arg: "exit 7", kind: KindExit, code: 7, slow: true},
	{guest: "go", arg: "panic", kind: KindExit, code: 2, slow: true},
	{guest: "go", arg: "allocate", kind: KindExit, code: 2, slow: true},
	{guest: "words", arg: "exit", kind: KindExit, code: 7},
	{guest: "probe", arg: "exit 255", kind: KindExit, code: 255},
	{guest: "probe", arg: "exit 0", kind: KindOK},
	{guest: "probe", arg: "allocate", kind: KindOK, slow: true},
	{guest: "words", arg: "panic", kind: KindTrap},
	{guest: "words", arg: "index", kind: KindTrap},
	{guest: "words", arg: "allocate", kind: KindTrap, slow: true},
	{guest: "probe", arg: "abort", kind: KindTrap},
	{guest: "probe", arg: "divide", kind: KindTrap},
	{guest: "probe", arg: "pointer", kind: KindTrap},
	{guest: "go", arg: "recurse", kind: KindStackExhausted, slow: true},
	{guest: "words", arg: "recurse", kind: KindStackExhausted},
	{guest: "probe", arg: "recurse", kind: KindStackExhausted},
	{guest: "go", arg: "spin", kind: KindBudgetExhausted, slow: true},
	{guest: "words", arg: "spin", kind: KindBudgetExhausted, slow: true},
	{guest: "probe", arg: "spin", kind: KindBudgetExhausted, slow: true},
	{guest: "NaNs", kind: KindOK},
	{guest: "remainders", kind: KindOK},
	{guest: "start function", kind: KindOK},
	{guest: "go", arg: "flood", kind: KindOutputTooLarge, slow: true},
	{guest: "words", arg: "flood", kind: KindOutputTooLarge, slow: true},
	{guest: "probe", arg: "flood", kind: KindOutputTooLarge, slow: true},
}

func init() {
	for name := range assembled {
		if strings.HasPrefix(name, "trap ") {
			guestCases = append(guestCases, guestCase{guest: name, kind: KindTrap})
		}
	}
	slices.SortFunc(guestCases, func(a, b guestCase) int { return strings.Compare(a.guest, b.guest) })
}

// makeJob is the job of a case: with little memory, so that who takes all of it is
// soon done, and gas for what it does.
func (c *guestCase) makeJob(t testing.TB) Job {
	module := guestModule(t, c.guest)
	job := Job{
		Module:       module,
		ModuleDigest: sha256.Sum256(module),
		Input:        []byte(c.input),
		Args:         strings.Fields(c.guest + " " + c.arg),
		Env:          [][2]string{{"HOME", "/nowhere"}, {"LANG", "C"}},
		Seed:         [32]byte{31: 5},
		Capabilities: allCapabilities,
		Limits:       DefaultLimits(),
		MemoryDigest: true,
	}
	job.Limits.MemoryPages, job.Limits.OutputBytes, job.Limits.DiagnosticsBytes = 160, 64<<10, 4<<10
	job.Limits.Gas = 200_000_000
	if c.kind == KindBudgetExhausted {
		job.Limits.Gas = 30_000_000
	}
	return job
}

// plainText is n bytes of words.
func plainText(n int) string {
	var b strings.Builder
	for i := uint32(1); b.Len() < n; i = i*1664525 + 1013904223 {
		fmt.Fprintf(&b, "w%d ", i>>24%97)
	}
	return b.String()[:n]
}

// jsonText is a document with n members.
func jsonText(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",\n  \"key %d\": [%d, %g, \"text \\u00e9 %d\", {\"b\": null, \"a\": true}]", n-i, i, float64(i)/7, i)
	}
	return "{" + b.String()[1:] + "}\n"
}

// guestModule is the module of a guest: one that is committed or assembled, or
// the Go program, which is built.
func guestModule(t testing.TB, name string) []byte {
	t.Helper()
	if assemble := assembled[name]; assemble != nil {
		return assemble()
	}
	if name == "go" {
		module, err := goGuest()
		if err != nil {
			t.Fatal(err)
		}
		return module
	}
	module, err := os.ReadFile(filepath.Join(guestDir, name+".wasm"))
	if err != nil {
		t.Fatal(err)
	}
	return module
}

// goGuest builds the Go program, once.
var goGuest = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "guest.wasm")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, ".")
	build.Dir = filepath.Join(guestDir, "go")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the Go guest: %v\n%s", err, out)
	}
	return os.ReadFile(path)
})

// A goldenFile is the outcomes of the file, by guest and budget.
type goldenFile struct {
	outcomes map[string]string
	modules  map[string]string // digest of each guest's module
}

func readGolden(t testing.TB) goldenFile {
	g := goldenFile{map[string]string{}, map[string]string{}}
	b, err := os.ReadFile(goldenOutcomes)
	if err != nil {
		t.Fatalf("%v; make it with go test -update", err)
	}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " | ")
		if name, isModule := strings.CutPrefix(key, "module "); isModule {
			g.modules[name] = value
		} else if ok {
			g.outcomes[key] = value
		}
	}
	return g
}

// TestGuestOutcomes runs every guest with its budget, with exactly what it used,
// with less by one, and with a third, and compares with the golden file: in the
// compiler with two sizes of slices, as stored programs, and in the interpreter
// what is small.
func TestGuestOutcomes(t *testing.T) { guestOutcomes(t, false) }

func guestOutcomes(t *testing.T, slowToo bool) {
	cache := t.TempDir()
	engines := []*Engine{
		NewEngine(EngineConfig{CacheDir: cache}),
		NewEngine(EngineConfig{CacheDir: cache, Slice: 77_777}),
		NewEngine(EngineConfig{Interpreter: true, Slice: 1_000_003}),
		NewEngine(EngineConfig{CacheDir: t.TempDir()}),
	}
	for _, e := range engines {
		defer e.Close()
	}
	golden, found := goldenFile{}, goldenFile{map[string]string{}, map[string]string{}}
	if !*update {
		golden = readGolden(t)
	}
	for _, c := range guestCases {
		t.Run(c.name(), func(t *testing.T) {
			job := c.makeJob(t)
			// Another version of Go makes another module: no outcome of it is pinned.
			digest := fmt.Sprintf("%x", job.ModuleDigest)
			found.modules[c.guest] = digest
			pinned := !*update && (c.guest != "go" || golden.modules[c.guest] == digest)
			if pinned && golden.modules[c.guest] != digest {
				t.Errorf("module is %s, want %s; build it anew, or make the file with go test -update", digest, golden.modules[c.guest])
			}
			for i, try := range c.tries(t, engines[0], job) {
				job.Limits.Gas = try.gas
				key := fmt.Sprintf("%s <%d> gas %d", c.name(), len(c.input), try.gas)
				want := golden.outcomes[key]
				for j, e := range engines {
					// Who is slow is left to the slow tests, but for the first try.
					if c.slow && !slowToo && (j == 1 && i > 0 || j == 2 || j == 3 && i > 1) || j == 2 && i > 1 {
						continue
					}
					if j == 3 {
						loadStored(t, e, job)
					}
					r, err := e.Run(t.Context(), job)
					if err != nil {
						t.Fatalf("%s: %v", key, err)
					}
					got := r.Outcome.String()
					if want == "" && !pinned {
						want = got
					}
					if got != want || r.Outcome.Kind != try.kind || *r.Outcome.Gas > try.gas {
						t.Errorf("%s, slices of %d, %s: outcome is\n%s\nwant %v:\n%s\noutput %.300q\ndiagnostics %.300q",
							key, e.config.Slice, r.Engine.Mode, got, try.kind, want, r.Output, r.Diagnostics)
					}
				}
				found.outcomes[key] = want
			}
		})
	}
	if *update {
		found.write(t)
	}
}

// TestRemainderFault shows on arm64 why the rewriter moves remainders into
// functions of their own. If it fails there, the engine no longer needs that.
func TestRemainderFault(t *testing.T) {
	job := newJob(remainderGuest())
	job.Limits.OutputBytes = 4 << 10
	outcome := func(config EngineConfig) string {
		e := NewEngine(config)
		defer e.Close()
		r, err := e.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return r.Outcome.String()
	}
	same := outcome(EngineConfig{}) == outcome(EngineConfig{Interpreter: true})
	if arm := runtime.GOARCH == "arm64"; same == arm {
		t.Errorf("unmetered, on %s: the compiler computes what the interpreter does: %v", runtime.GOARCH, same)
	}
}

// A try is a budget and how a run with it ends.
type try struct {
	gas  uint64
	kind Kind
}

// tries runs a case with its own budget, checks how it ends, and returns that
// and the budgets around what it used.
func (c *guestCase) tries(t *testing.T, e *Engine, job Job) []try {
	t.Helper()
	r, err := e.Run(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome.Kind != c.kind || r.Outcome.ExitCode != c.code {
		t.Fatalf("outcome is %v, want %v(%d)\noutput %.300q\ndiagnostics %.300q", r.Outcome, c.kind, c.code, r.Output, r.Diagnostics)
	}
	used := *r.Outcome.Gas
	list := []try{{job.Limits.Gas, c.kind}, {used / 3, KindBudgetExhausted}}
	if used < job.Limits.Gas {
		list = append(list, try{used, c.kind}, try{used - 1, KindBudgetExhausted})
	}
	return list
}

func (g goldenFile) write(t *testing.T) {
	var b strings.Builder
	b.WriteString("# How the guests end: name, length of the input and budget, then the outcome. Written by go test -update.\n")
	for _, part := range []struct {
		prefix string
		list   map[string]string
	}{{"module ", g.modules}, {"", g.outcomes}} {
		var keys []string
		for key := range part.list {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			fmt.Fprintf(&b, "%s%s | %s\n", part.prefix, key, part.list[key])
		}
	}
	if err := os.WriteFile(goldenOutcomes, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
