//go:build unix

package sandbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
)

// makeStored compiles a program as a compiler does and puts it into a store.
func makeStored(t *testing.T, s *store, a *admitted) *preparedProgram {
	t.Helper()
	dir := t.TempDir()
	e := NewEngine(EngineConfig{CacheDir: filepath.Join(dir, compiledDir)})
	defer e.Close()
	_, err := e.keep(t.Context(), a)
	if err == nil && len(a.outline) > 0 {
		err = e.nameOutline(t.Context(), a, filepath.Join(dir, outlineDir))
	}
	if err != nil {
		t.Fatal(err)
	}
	native, err := readNative(dir, len(a.outline) > 0)
	if err != nil || native == nil {
		t.Fatalf("native code: %v, %v", native, err)
	}
	p, err := s.save(a, native)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// loadStored has an engine load a job's program as a worker does that finds it
// in a store, unless it is warm.
func loadStored(t *testing.T, e *Engine, job Job) {
	t.Helper()
	if e.warm(job.key()) {
		return
	}
	s := newStore(t.TempDir(), DefaultCacheBytes)
	a := forStore(t, job)
	p := makeStored(t, s, a)
	_, outline, err := s.read(p.id)
	if err == nil {
		err = s.place(p, e.config.CacheDir)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.keepStored(&admitted{key: p.key, admission: p.admission, outline: outline}); err != nil {
		t.Fatal(err)
	}
}

// TestOutline compares an outline with its module: all but the bodies is there,
// byte for byte, after a section that names the module.
func TestOutline(t *testing.T) {
	for _, guest := range []string{"go", "words", "mean", "probe", "start function"} {
		job := metered(newJob(guestModule(t, guest)), 1_000_000, 10)
		job.Capabilities, job.Limits.MemoryPages = allCapabilities, 1024
		a := forStore(t, job)
		whole, err := wasm.Decode(a.code)
		if err != nil {
			t.Fatal(err)
		}
		outline, err := wasm.Decode(a.outline)
		if err != nil {
			t.Fatalf("%s: %v", guest, err)
		}
		if err := outline.Validate(); err != nil || len(outline.Bodies) != len(whole.Bodies) {
			t.Errorf("%s: %d bodies, want %d; %v", guest, len(outline.Bodies), len(whole.Bodies), err)
		}
		// id, size, length of the name, name, digest
		digest := slices.Concat([]byte{0, 51, 18}, []byte("tallystick:outline"), a.admission.RewrittenModule[:])
		rest, ok := bytes.CutPrefix(withoutCode(t, a.outline), digest)
		if !ok || !bytes.Equal(withoutCode(t, a.code), rest) {
			t.Errorf("%s: something else than the bodies differs", guest)
		}
		t.Logf("%s: %d bytes, outline %d", guest, len(a.code), len(a.outline))
	}
}

// withoutCode is a module without its code section.
func withoutCode(t *testing.T, module []byte) []byte {
	t.Helper()
	var rest []byte
	for b := module[len(wasm.Header):]; len(b) > 0; {
		size, n := binary.Uvarint(b[1:])
		if b[0] != wasm.SectionCode {
			rest = append(rest, b[:1+n+int(size)]...)
		}
		b = b[1+n+int(size):]
	}
	return rest
}

// TestOutlinesOfWhat does not come from the rewriter.
func TestOutlinesOfWhat(t *testing.T) {
	for name, module := range map[string][]byte{
		"nothing": nil, "no module": []byte("module"), "not rewritten": counter(3),
	} {
		if o, err := outlineOf(module); !errors.Is(err, ErrEngineFault) {
			t.Errorf("%s: %d bytes, %v", name, len(o), err)
		}
	}
}

// TestOutlinesDiffer runs two programs in turn that differ in what one function
// does, and so would have one outline but for its digest, in one worker that
// keeps one of them warm: each keeps its own gas.
func TestOutlinesDiffer(t *testing.T) {
	p := testPool(t, PoolConfig{CachedModules: 1})
	before := p.pids()
	var outlines [][]byte
	for _, n := range []int32{10, 11, 10, 11} {
		job := metered(newJob(counter(n)), 1_000_000, 10)
		want, err := runDirect(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Run(t.Context(), job)
		if err != nil || got.Outcome.String() != want.Outcome.String() {
			t.Errorf("%d: %v, %v; want %v", n, got, err, want)
		}
		outlines = append(outlines, outlined(t, job))
	}
	if bytes.Equal(outlines[0], outlines[1]) || !bytes.Equal(outlines[0], outlines[2]) {
		t.Error("outlines are not the modules' own")
	}
	const header = 8 + 2 + 1 + 18 + 32
	if !bytes.Equal(outlines[0][header:], outlines[1][header:]) {
		t.Error("the modules differ in more than a body: this shows nothing")
	}
	names := map[string]bool{}
	for _, file := range cacheFiles(t, p.programs.store.dir, programSuffix) {
		h, _, err := p.programs.store.read(strings.TrimSuffix(filepath.Base(file), programSuffix))
		if err != nil {
			t.Fatal(err)
		}
		names[h.Native.Name] = true
	}
	if len(names) != 2 && p.Enforcement().Filesystem {
		t.Errorf("native code of two programs is called %v", names)
	}
	if after := p.pids(); !slices.Equal(before, after) {
		t.Error("the worker was replaced")
	}
}

// TestTooManyToOutline has a pool prepare a module with more functions than it
// outlines: it is stored whole, under the engine's name for that.
func TestTooManyToOutline(t *testing.T) {
	p := testPool(t, PoolConfig{})
	needFiles(t, p)
	p.programs.maxOutlined = 0
	job := metered(newJob(counter(10)), 1_000_000, 10)
	r, err := p.Run(t.Context(), job)
	if err != nil || r.Outcome.Kind != KindOK {
		t.Fatalf("%v, %v", r, err)
	}
	stored, err := p.programs.store.load(job.key())
	if err != nil {
		t.Fatal(err)
	}
	if _, outline, err := p.programs.store.read(stored.id); err != nil || len(outline) > 0 {
		t.Errorf("outline of %d bytes, %v", len(outline), err)
	}
	e := NewEngine(EngineConfig{CacheDir: t.TempDir()})
	defer e.Close()
	if err := p.programs.store.place(stored, e.config.CacheDir); err != nil {
		t.Fatal(err)
	}
	a := forStore(t, job)
	a.outline = nil
	if _, err := e.keepStored(a); err != nil {
		t.Errorf("the native code of the whole: %v", err)
	}
}

// TestOutlineThatRuns compiles outlines and runs them as what they say, in place
// of their programs, as nothing else does: that is a fault of the engine, and
// never an outcome, whatever the budget is.
func TestOutlineThatRuns(t *testing.T) {
	for _, guest := range []string{"words", "mean", "probe", "start function", "trap unreachable"} {
		for _, config := range []EngineConfig{{}, {Interpreter: true}} {
			e := NewEngine(config)
			defer e.Close()
			for _, gas := range []uint64{1, 1_000_000, MaxGas} {
				job := metered(newJob(guestModule(t, guest)), gas, 1)
				job.Capabilities, job.Limits.MemoryPages = allCapabilities, 1024
				p, err := e.compileWith(t.Context(), forStore(t, job).ofOutline(), "")
				if err != nil {
					t.Fatal(err)
				}
				if r, err := e.run(t.Context(), p, &job); !errors.Is(err, ErrEngineFault) {
					t.Errorf("%s, %v: %v, %v", guest, config.Interpreter, r, err)
				}
				p.close()
			}
		}
	}
}

// TestOutlineIsNotCompiled asks an engine for programs whose native code is not
// where it looks, or is damaged so that the engine itself finds out. It never
// compiles the outline, nor leaves anything.
func TestOutlineIsNotCompiled(t *testing.T) {
	job := metered(newJob(guestModule(t, "words")), 1_000_000, 10)
	job.Capabilities, job.Limits.MemoryPages = allCapabilities, 1024
	a := forStore(t, job)
	s := newStore(t.TempDir(), DefaultCacheBytes)
	p := makeStored(t, s, a)
	good, err := os.ReadFile(s.path(p.id, nativeSuffix))
	if err != nil {
		t.Fatal(err)
	}
	crc := bytes.Clone(good)
	crc[len(good)/2] ^= 1
	for name, content := range map[string][]byte{"none": nil, "empty": {}, "short": good[:len(good)/2], "flipped": crc, "other": []byte("WAZEVO of another version")} {
		dir := t.TempDir()
		file := filepath.Join(dir, filepath.FromSlash(p.native.Name))
		if content != nil {
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, content, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		e := NewEngine(EngineConfig{CacheDir: dir})
		if _, err := e.keepStored(a); !errors.Is(err, errNotStored) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(file); err == nil && !bytes.Equal(got, content) {
			t.Errorf("%s: the engine left %d bytes", name, len(got))
		}
		e.Close()
	}
	for _, config := range []EngineConfig{{}, {Interpreter: true, CacheDir: t.TempDir()}} {
		e := NewEngine(config)
		if _, err := e.keepStored(a); !errors.Is(err, errNotStored) {
			t.Errorf("%+v: %v", config, err)
		}
		e.Close()
	}
}

// TestSwappedFiles swaps the files of two programs in a store: none of them is
// placed.
func TestSwappedFiles(t *testing.T) {
	s := newStore(t.TempDir(), DefaultCacheBytes)
	var programs [2]*preparedProgram
	for i := range programs {
		programs[i] = makeStored(t, s, forStore(t, metered(newJob(counter(int32(10+i))), 1_000_000, 10)))
	}
	swap := func(suffix string) {
		a, b, c := s.path(programs[0].id, suffix), s.path(programs[1].id, suffix), filepath.Join(s.dir, "swapped")
		if err := errors.Join(os.Rename(a, c), os.Rename(b, a), os.Rename(c, b)); err != nil {
			t.Fatal(err)
		}
	}
	for _, suffix := range []string{"", codeSuffix, nativeSuffix, programSuffix} { // the last is removed
		if suffix != "" {
			swap(suffix)
		}
		for _, p := range programs {
			loaded, err := s.load(p.key)
			if err == nil {
				_, err = s.code(loaded)
			}
			if err == nil {
				err = s.place(loaded, t.TempDir())
			}
			if (err == nil) != (suffix == "") {
				t.Errorf("%q swapped: %v", suffix, err)
			}
		}
		if suffix != "" && suffix != programSuffix {
			swap(suffix)
		}
	}
}
