//go:build unix

package sandbox

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// cacheFiles returns the files of a compilation cache by their suffix.
func cacheFiles(t *testing.T, dir, suffix string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestCacheSurvivesRestarts compiles in one pool and loads in the next, which
// needs the module no more than to check its digest.
func TestCacheSurvivesRestarts(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	job := metered(newJob(counter(10)), 1_000_000, 10)
	var outcome string
	var made []os.FileInfo
	for range 2 {
		p := testPool(t, PoolConfig{CacheDir: dir})
		r, err := p.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		a, err := p.Admit(t.Context(), job.Module, job.Capabilities, job.Limits)
		if err != nil || r.RewrittenModule == nil || *a.RewrittenModule != *r.RewrittenModule || a.CompileWork == 0 {
			t.Fatalf("admission %+v, %v; result of %x", a, err, r.RewrittenModule)
		}
		native := cacheFiles(t, dir, nativeSuffix)
		if len(native) != 1 || len(cacheFiles(t, dir, programSuffix)) != 1 {
			t.Fatalf("the cache has %q", native)
		}
		info, err := os.Stat(native[0])
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, info)
		if outcome != "" && outcome != r.Outcome.String() {
			t.Errorf("outcome is %v, was %s", r.Outcome, outcome)
		}
		outcome = r.Outcome.String()
	}
	if !os.SameFile(made[0], made[1]) {
		t.Error("the module was compiled again")
	}
}

// needFiles skips a test on machines where workers see no files, and so compile
// for themselves.
func needFiles(t *testing.T, p *Pool) {
	t.Helper()
	if !p.Enforcement().Filesystem {
		t.Skipf("workers see no files: %s", p.Enforcement().Note)
	}
}

// TestWorkersLoadOutlines takes the code of a stored program away: a fresh worker
// does without.
func TestWorkersLoadOutlines(t *testing.T) {
	p := testPool(t, PoolConfig{})
	needFiles(t, p)
	job := metered(newJob(counter(10)), 1_000_000, 10)
	if _, err := p.Admit(t.Context(), job.Module, job.Capabilities, job.Limits); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(cacheFile(p.programs.store.dir, job, codeSuffix)); err != nil {
		t.Fatal(err)
	}
	r, err := p.Run(t.Context(), job)
	if err != nil || r.Outcome.Kind != KindOK {
		t.Errorf("%v, %v", r, err)
	}
	if n := len(cacheFiles(t, p.programs.store.dir, codeSuffix)); n != 0 {
		t.Error("the program was made anew")
	}
}

// TestStoresThatCannotBeLinked keeps programs where the system does not link: on
// another file system than the workers' directories. Their native code is copied,
// verified, and loaded as if it were linked.
func TestStoresThatCannotBeLinked(t *testing.T) {
	p := testPool(t, PoolConfig{})
	needFiles(t, p)
	s, attempts := p.programs.store, 0
	s.link = func(from, to string) error {
		attempts++
		return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EXDEV}
	}
	job := metered(newJob(counter(10)), 1_000_000, 10)
	if _, err := p.Admit(t.Context(), job.Module, job.Capabilities, job.Limits); err != nil {
		t.Fatal(err)
	}
	program, err := s.load(job.key())
	if err != nil {
		t.Fatal(err)
	}
	file := cacheFile(s.dir, job, nativeSuffix)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	placed := filepath.Join(dir, filepath.FromSlash(program.native.Name))
	for range 2 { // the second takes the place of the first
		if err := s.place(program, dir); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(placed)
		if err != nil || !bytes.Equal(got, good) {
			t.Errorf("%d bytes were placed, want %d; %v", len(got), len(good), err)
		}
		info, err := os.Stat(placed)
		if err != nil || info.Mode() != 0o400 {
			t.Errorf("mode %v, %v", info, err)
		}
	}
	// A worker that loads it needs no code; one that compiled would.
	if err := os.Remove(cacheFile(s.dir, job, codeSuffix)); err != nil {
		t.Fatal(err)
	}
	if r, err := p.Run(t.Context(), job); err != nil || r.Outcome.Kind != KindOK {
		t.Errorf("%v, %v", r, err)
	}
	if n := len(cacheFiles(t, s.dir, codeSuffix)); n != 0 || attempts != 3 {
		t.Errorf("made anew: %t; %d links were attempted", n != 0, attempts)
	}
	for name, bad := range map[string][]byte{
		"short": good[:len(good)-1], "flipped": append([]byte{good[0] ^ 1}, good[1:]...), "empty": {},
	} {
		replace(t, file, bad)
		if err := s.place(program, dir); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(placed); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: what does not verify is still there: %v", name, err)
		}
	}
}

// TestStoredUnmetered stores a module that was not rewritten, and so has no
// outline.
func TestStoredUnmetered(t *testing.T) {
	p := testPool(t, PoolConfig{})
	job := newJob(counter(10))
	if _, err := p.Admit(t.Context(), job.Module, job.Capabilities, job.Limits); err != nil {
		t.Fatal(err)
	}
	if _, outline, err := p.programs.store.read(programID(job.key())); err != nil || len(outline) > 0 {
		t.Fatalf("%d bytes of outline, %v", len(outline), err)
	}
	if r, err := p.Run(t.Context(), job); err != nil || r.Outcome.Kind != KindOK {
		t.Errorf("%v, %v", r, err)
	}
}

// TestNativeCodeOfAnotherMachine has the store keep native code under a name for
// which no engine here looks, as that of another processor has. The worker then
// compiles, and the program is made anew; the log says why. So it is with a module
// of so many functions that it has no outline.
func TestNativeCodeOfAnotherMachine(t *testing.T) {
	t.Run("outlined", func(t *testing.T) { nativeCodeOfAnotherMachine(t, true) })
	t.Run("whole", func(t *testing.T) { nativeCodeOfAnotherMachine(t, false) })
}

func nativeCodeOfAnotherMachine(t *testing.T, outlined bool) {
	var log bytes.Buffer
	p := testPool(t, PoolConfig{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	needFiles(t, p)
	job := metered(newJob(counter(10)), 1_000_000, 10)
	if !outlined {
		p.programs.maxOutlined = 0
	}
	makeForAnother(t, p, job)
	for i := range 2 {
		before := p.pids()
		r, err := p.Run(t.Context(), job)
		if err != nil || r.Outcome.Kind != KindOK {
			t.Errorf("run %d: %v, %v", i, r, err)
		}
		if after := p.pids(); !slices.Equal(before, after) {
			t.Error("the worker was replaced")
		}
		if n := len(cacheFiles(t, p.programs.store.dir, programSuffix)); n != i {
			t.Errorf("run %d: %d programs are stored", i, n)
		}
	}
	p.Close() // nobody writes to the log any more
	if !strings.Contains(log.String(), "under the name that the engine has for it on this processor") {
		t.Errorf("the log says %q", log.String())
	}
}

// makeForAnother has a pool know a stored program with native code for another
// processor.
func makeForAnother(t *testing.T, p *Pool, job Job) {
	t.Helper()
	a := forStore(t, job)
	if p.programs.maxOutlined == 0 {
		a.outline = nil
	}
	other := makeStored(t, p.programs.store, a)
	other.native.Name = other.native.Name[:len(other.native.Name)-64] + strings.Repeat("0", 64)
	p.programs.known[job.key()] = other
}

// TestNativeCodeOfAnotherMachineAlone does so where the code is gone or damaged
// too. The program is made anew at once, and then stays: what is new was not
// tried in vain.
func TestNativeCodeOfAnotherMachineAlone(t *testing.T) {
	for name, spoil := range map[string]func(string){
		"gone":    func(file string) { os.Remove(file) },
		"damaged": func(file string) { replace(t, file, []byte("code")) },
	} {
		p := testPool(t, PoolConfig{})
		needFiles(t, p)
		job := metered(newJob(counter(10)), 1_000_000, 10)
		makeForAnother(t, p, job)
		spoil(cacheFile(p.programs.store.dir, job, codeSuffix))
		for i := range 2 {
			if r, err := p.Run(t.Context(), job); err != nil || r.Outcome.Kind != KindOK {
				t.Errorf("%s, run %d: %v, %v", name, i, r, err)
			}
			for _, suffix := range []string{programSuffix, codeSuffix, nativeSuffix} {
				if n := len(cacheFiles(t, p.programs.store.dir, suffix)); n != 1 {
					t.Errorf("%s, run %d: %d files %s", name, i, n, suffix)
				}
			}
		}
		p.mu.Lock()
		started := p.started
		p.mu.Unlock()
		if started != 2 { // a worker, a compiler
			t.Errorf("%s: %d processes were started", name, started)
		}
	}
}

// TestDamagedCache damages each file of a cache in many places: a pool that
// finds them gives the right outcome and replaces what is damaged.
func TestDamagedCache(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	job := metered(newJob(counter(10)), 1_000_000, 10)
	p := testPool(t, PoolConfig{CacheDir: dir})
	want, err := p.Run(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{programSuffix, codeSuffix, nativeSuffix} {
		name := cacheFiles(t, dir, suffix)[0]
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(programMagic) + 3, len(good) / 2, len(good) - 1} {
			bad := append([]byte(nil), good...)
			bad[at] ^= 1
			if at == len(good)-1 {
				bad = bad[:at]
			}
			replace(t, name, bad)
			s := newStore(dir, DefaultCacheBytes)
			loaded, err := s.load(job.key())
			if err == nil {
				_, err = s.code(loaded)
			}
			if err == nil {
				err = s.place(loaded, t.TempDir())
			}
			if err == nil {
				t.Errorf("%s damaged at %d is taken", suffix, at)
			}
			// A fresh key per round would be another module: forget this one instead.
			p.programs.mu.Lock()
			clear(p.programs.known)
			p.programs.mu.Unlock()
			r, err := p.Run(t.Context(), job)
			if err != nil || r.Outcome.String() != want.Outcome.String() {
				t.Fatalf("%s damaged at %d: %v, %v", suffix, at, r, err)
			}
			replace(t, cacheFile(dir, job, suffix), good)
		}
	}
}

// replace puts another file in the place of one that cannot be written to.
func replace(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(name), os.WriteFile(name, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func cacheFile(dir string, job Job, suffix string) string {
	return filepath.Join(dir, programID(job.key())+suffix)
}

// TestCacheIsBounded fills a cache beyond its bound.
func TestCacheIsBounded(t *testing.T) {
	s := newStore(t.TempDir(), 50_000)
	code := func(i byte) []byte { return bytes.Repeat([]byte{i}, 10_000) }
	for i := range byte(8) {
		sum := sha256.Sum256(code(i))
		a := &admitted{key: programKey{module: sum}, admission: &Admission{ModuleDigest: sum}, code: code(i)}
		p, err := s.save(a, &nativeFile{"wazero-v0/" + strings.Repeat("0", 64), make([]byte, 10_000)})
		if err != nil {
			t.Fatal(err)
		}
		if code, err := s.code(p); err != nil || len(code) != 10_000 {
			t.Errorf("what was just saved: %d bytes, %v", len(code), err)
		}
	}
	if n := len(cacheFiles(t, s.dir, programSuffix)); n < 1 || n > 2 {
		t.Errorf("%d programs of 20 KB are kept in 50 KB", n)
	}
	if _, err := s.load(programKey{module: sha256.Sum256(code(0))}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the oldest: %v", err)
	}
}

// TestCacheThatCannotBeWritten runs all the same.
func TestCacheThatCannotBeWritten(t *testing.T) {
	p := testPool(t, PoolConfig{})
	p.programs.store.dir = filepath.Join(t.TempDir(), "missing")
	r, err := p.Run(t.Context(), metered(newJob(counter(10)), 1_000_000, 10))
	if err != nil || r.Outcome.Kind != KindOK {
		t.Errorf("%v, %v", r, err)
	}
}

// TestSidesOfOneModule asks for one module from many sides at once: it is
// compiled once.
func TestSidesOfOneModule(t *testing.T) {
	p := testPool(t, PoolConfig{Workers: 2})
	job := metered(newJob(counter(10)), 1_000_000, 10)
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			_, err := p.Run(t.Context(), job)
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := len(cacheFiles(t, p.programs.store.dir, programSuffix)); n != 1 {
		t.Errorf("%d programs", n)
	}
	p.mu.Lock()
	started := p.started
	p.mu.Unlock()
	if started != 3 { // two workers, one compiler
		t.Errorf("%d processes were started", started)
	}
}

// TestPoolCancelsMeteredRuns stops metered runs without losing their worker.
func TestPoolCancelsMeteredRuns(t *testing.T) {
	p := testPool(t, PoolConfig{})
	before := p.pids()
	_, result := runSpinnerWith(t, p, func(job *Job) { *job = metered(*job, MaxGas, 10) })
	result.cancel()
	if err := <-result.err; !errors.Is(err, ErrStopped) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := p.Run(t.Context(), newJob(printer(func(uint32) []byte { return wasmtest.Op() }))); err != nil {
		t.Errorf("after that: %v", err)
	}
	if after := p.pids(); len(after) != 1 || after[0] != before[0] {
		t.Errorf("the worker was replaced: %v, %v", before, after)
	}
}

// TestFilesThatVanish removes the files of a program that the pool remembers,
// and has a fresh worker ask for it: what is missing is made anew, and neither
// the job nor the worker fails.
func TestFilesThatVanish(t *testing.T) {
	p := testPool(t, PoolConfig{})
	job := metered(newJob(counter(10)), 1_000_000, 10)
	want, err := p.Run(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	for _, suffixes := range [][]string{{nativeSuffix}, {programSuffix}, {programSuffix, nativeSuffix}, {codeSuffix, nativeSuffix}} {
		if _, err := p.Admit(t.Context(), job.Module, job.Capabilities, job.Limits); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range suffixes {
			if err := os.Remove(cacheFile(p.programs.store.dir, job, suffix)); err != nil {
				t.Fatal(err)
			}
		}
		p.idle[0].busy = retireAfter + 1 // so that the worker after the next run is fresh
		var fresh []int
		for i := range 3 {
			r, err := p.Run(t.Context(), job)
			if err != nil || r.Outcome.String() != want.Outcome.String() || *r.RewrittenModule != *want.RewrittenModule {
				t.Errorf("%q, run %d: %v, %v", suffixes, i, r, err)
			}
			if pids := p.pids(); i == 1 {
				fresh = pids
			} else if i == 2 && !slices.Equal(pids, fresh) {
				t.Errorf("%q: the worker was replaced", suffixes)
			}
		}
	}
}

// TestHotProgramsStay has the pool use a program that it remembers: of the files
// in its store it is then the last to leave.
func TestHotProgramsStay(t *testing.T) {
	p := testPool(t, PoolConfig{})
	hot, cold := metered(newJob(counter(10)), 1_000_000, 10), metered(newJob(counter(11)), 1_000_000, 10)
	s := p.programs.store
	for _, job := range []Job{hot, cold} {
		if _, err := p.Run(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(cacheFile(s.dir, job, programSuffix), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Run(t.Context(), hot); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, name := range cacheFiles(t, s.dir, "") {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	newStore(s.dir, total-1).trim("") // one has to go
	if _, err := os.Stat(cacheFile(s.dir, hot, programSuffix)); err != nil {
		t.Errorf("the program in use: %v", err)
	}
	if _, err := os.Stat(cacheFile(s.dir, cold, programSuffix)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other: %v", err)
	}
}

// TestAbandonedFiles opens a store in which a process has crashed. What another
// may be writing stays, and so does what is nobody's.
func TestAbandonedFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	files := map[string]struct {
		age   time.Duration
		stays bool
	}{
		"new-1":             {2 * abandonedAfter, false},
		"new-2":             {0, true},
		"aa" + nativeSuffix: {2 * abandonedAfter, false},
		"bb" + nativeSuffix: {0, true},
		"cc" + codeSuffix:   {2 * abandonedAfter, false},
		"dd" + codeSuffix:   {0, true}, // made anew, and native code is about to be
		"dd" + nativeSuffix: {2 * abandonedAfter, true},
		"notes.txt":         {2 * abandonedAfter, true},
	}
	for name, f := range files {
		path, at := filepath.Join(dir, name), time.Now().Add(-f.age)
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	testPool(t, PoolConfig{CacheDir: dir})
	for name, f := range files {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != f.stays {
			t.Errorf("%s: %v, stays is %t", name, err, f.stays)
		}
	}
}
