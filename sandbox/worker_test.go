package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A peer is the pool's end of a worker that runs in this process.
type peer struct {
	t    *testing.T
	in   *io.PipeWriter
	out  *io.PipeReader
	done chan error
}

// startPeer serves a worker and greets it.
func startPeer(t *testing.T, compiler bool) *peer {
	t.Helper()
	t.Chdir(t.TempDir()) // where a compiler leaves its files
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	p := &peer{t, inW, outR, make(chan error, 1)}
	go func() {
		err := serveWorker(inR, outW, role{compiler: compiler}, func(workerConfig, role) Enforcement { return Enforcement{} })
		outW.Close()
		inR.Close()
		p.done <- err
	}()
	p.send(frameConfig, workerConfig{cachedModules: 2}.pack())
	p.want(frameGreeting)
	return p
}

func (p *peer) send(kind frameKind, payload []byte) {
	p.t.Helper()
	if err := writeFrame(p.in, kind, payload); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) want(kind frameKind) []byte {
	p.t.Helper()
	got, payload, err := readFrame(p.out)
	if err != nil || got != kind {
		p.t.Fatalf("frame %d, %v; want %d (payload %q)", got, err, kind, payload)
	}
	return payload
}

func (p *peer) end() error {
	p.in.Close()
	return <-p.done
}

// rewritten is the message with a metered job's code.
func rewritten(t *testing.T, job Job, original bool) []byte {
	t.Helper()
	r, err := rewrite.Rewrite(job.Module, rewrite.Config{MemoryPages: job.Limits.MemoryPages})
	if err != nil {
		t.Fatal(err)
	}
	m := moduleMessage{code: r.Bytes}
	if original {
		m.original = job.Module
	}
	return m.pack()
}

// outlined is the outline of a metered job's program.
func outlined(t *testing.T, job Job) []byte {
	t.Helper()
	return forStore(t, job).outline
}

// forStore is a metered job's program, to be compiled and stored.
func forStore(t *testing.T, job Job) *admitted {
	t.Helper()
	a, err := admitRewritten(job.Module, job.key())
	if err == nil {
		a.outline, err = outlineOf(a.code)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestWorkerConversation speaks with a worker as a pool does: a program is sent
// once, a run is cancelled in its midst, a cancel that comes too late is nothing.
func TestWorkerConversation(t *testing.T) {
	p := startPeer(t, false)
	job := metered(newJob(counter(10)), 1_000_000, 10)
	for i := range 2 {
		p.send(frameJob, packJob(&job))
		if i == 0 {
			p.want(frameNeed)
			p.send(frameModule, rewritten(t, job, false))
		}
		p.want(frameRunning)
		r, err := unpackResult(p.want(frameResult), &job, "compiler")
		if err != nil || r.Outcome.Kind != KindOK {
			t.Fatalf("run %d: %+v, %v", i, r, err)
		}
		p.send(frameCancel, nil)
	}
	spin := metered(newJob(spinner()), MaxGas, 10)
	p.send(frameJob, packJob(&spin))
	p.want(frameNeed)
	p.send(frameModule, (&moduleMessage{outline: outlined(t, spin)}).pack())
	if reason := p.want(frameNeedWhole); !bytes.HasPrefix(reason, []byte(errNotStored.Error())) {
		t.Errorf("the whole is needed because of %q", reason)
	}
	p.send(frameModule, rewritten(t, spin, false))
	p.want(frameRunning)
	p.send(frameCancel, nil)
	if failure, err := unpackFailure(p.want(frameFailure)); err != nil || !errors.Is(failure, ErrStopped) {
		t.Errorf("cancelled: %v, %v", failure, err)
	}
	bad := job
	bad.Limits.MemoryPages = 0
	p.send(frameJob, packJob(&bad))
	if failure, err := unpackFailure(p.want(frameFailure)); err != nil || !errors.Is(failure, ErrInvalidJob) {
		t.Errorf("bad limits: %v, %v", failure, err)
	}
	if err := p.end(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
}

// A counted context counts how often it is asked: an engine with several
// compilers derives a context from it for each compilation. It has the cache
// directory vanish then, where an engine could not keep what it makes.
type counted struct {
	context.Context
	cache string
	asked int
}

func (c *counted) Done() <-chan struct{} {
	c.asked++
	os.RemoveAll(c.cache)
	return nil
}

// TestRunnersCompileOnce has a runner ask for programs whose native code is not
// in its directory, to which it cannot write.
func TestRunnersCompileOnce(t *testing.T) {
	for name, job := range map[string]Job{
		"metered": metered(newJob(counter(10)), 1_000_000, 10), "unmetered": newJob(counter(10)),
	} {
		ctx := &counted{Context: t.Context(), cache: filepath.Join(t.TempDir(), "cache")}
		e := NewEngine(EngineConfig{CacheDir: ctx.cache})
		defer e.Close()
		e.compilers = 2
		once := &counted{Context: t.Context()}
		p, err := e.keepUnstored(once, &admitted{key: job.key(), code: job.Module})
		if err != nil || once.asked == 0 {
			t.Fatalf("%s: asked %d times, %v", name, once.asked, err)
		}
		e.programs = nil
		p.close()
		frames := make(chan inbound, 2)
		if job.Limits.metered() {
			frames <- inbound{kind: frameModule, payload: (&moduleMessage{outline: outlined(t, job)}).pack()}
			frames <- inbound{kind: frameModule, payload: rewritten(t, job, false)}
		} else {
			frames <- inbound{kind: frameModule, payload: (&moduleMessage{code: job.Module}).pack()} // once: no native code is placed
		}
		close(frames)
		w := &worker{in: frames, out: io.Discard, engine: e}
		if _, err := w.load(ctx, job.key()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if ctx.asked != once.asked || len(frames) > 0 {
			t.Errorf("%s: asked %d times, for one compilation %d; %d messages left", name, ctx.asked, once.asked, len(frames))
		}
		if kept, err := filepath.Glob(filepath.Join(ctx.cache, "*", "*")); err != nil || len(kept) > 0 {
			t.Errorf("%s: the runner left %q, %v", name, kept, err)
		}
	}
}

// TestCompilerConversation has a compiler validate and compile.
func TestCompilerConversation(t *testing.T) {
	p := startPeer(t, true)
	good := metered(newJob(counter(10)), 1_000_000, 10)
	q := compileRequest{good.key()}
	p.send(frameCompile, q.pack())
	p.want(frameNeed)
	p.send(frameModule, rewritten(t, good, true))
	p.want(frameCompiled)

	// What the rewriter made of another module does not excuse an invalid original.
	bad := metered(newJob(printer(func(uint32) []byte { return wasmtest.Op(0x43, 0, 0, 0, 0, 0x45, 0x1a) })), 1_000_000, 10)
	q = compileRequest{bad.key()}
	p.send(frameCompile, q.pack())
	p.want(frameNeed)
	m := moduleMessage{original: bad.Module}
	if r, err := rewrite.Rewrite(good.Module, rewrite.Config{MemoryPages: 16}); err == nil {
		m.code = r.Bytes
	}
	p.send(frameModule, m.pack())
	failure, err := unpackFailure(p.want(frameFailure))
	if r := (*Refusal)(nil); err != nil || !errors.As(failure, &r) || r.Code != RefusedInvalid {
		t.Errorf("an invalid original: %v, %v", failure, err)
	}

	// Code that does not validate though the original does is a fault of ours.
	q.key.module[0]++
	p.send(frameCompile, q.pack())
	p.want(frameNeed)
	m = moduleMessage{original: good.Module, code: bad.Module}
	p.send(frameModule, m.pack())
	if failure, err := unpackFailure(p.want(frameFailure)); err != nil || !errors.Is(failure, ErrEngineFault) || !strings.Contains(failure.Error(), "does not validate") {
		t.Errorf("invalid code: %v, %v", failure, err)
	}

	// So is an outline.
	bad = metered(newJob(counter(11)), 1_000_000, 10)
	q = compileRequest{bad.key()}
	p.send(frameCompile, q.pack())
	p.want(frameNeed)
	m = moduleMessage{original: bad.Module, outline: append(outlined(t, bad), 1)}
	if r, err := rewrite.Rewrite(bad.Module, rewrite.Config{MemoryPages: 16}); err == nil {
		m.code = r.Bytes
	}
	p.send(frameModule, m.pack())
	if failure, err := unpackFailure(p.want(frameFailure)); err != nil || !errors.Is(failure, ErrEngineFault) || !strings.Contains(failure.Error(), "outline") {
		t.Errorf("an invalid outline: %v, %v", failure, err)
	}
	if err := p.end(); err != nil {
		t.Errorf("the compiler ended with %v", err)
	}
}

// TestWorkerEnds sends what a pool does not: the worker gives it up.
func TestWorkerEnds(t *testing.T) {
	job := metered(newJob(counter(10)), 1_000_000, 10)
	for name, talk := range map[string]func(*peer){
		"no request":    func(p *peer) { p.send(frameResult, nil) },
		"garbage":       func(p *peer) { p.in.Write([]byte("GET / HTTP/1.1\r\n")) },
		"short job":     func(p *peer) { p.send(frameJob, []byte{1}) },
		"short request": func(p *peer) { p.send(frameCompile, []byte{1}) },
		"no module":     func(p *peer) { p.send(frameJob, packJob(&job)); p.want(frameNeed); p.send(frameJob, packJob(&job)) },
		"no whole module": func(p *peer) {
			p.send(frameJob, packJob(&job))
			p.want(frameNeed)
			p.send(frameModule, (&moduleMessage{outline: outlined(t, job)}).pack())
			p.want(frameNeedWhole)
			p.send(frameJob, packJob(&job))
		},
		"malformed module": func(p *peer) { p.send(frameJob, packJob(&job)); p.want(frameNeed); p.send(frameModule, []byte{9}) },
	} {
		p := startPeer(t, false)
		talk(p)
		if err := p.end(); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := startPeer(t, true)
	p.send(frameJob, packJob(&job))
	if err := p.end(); !errors.Is(err, errProtocol) {
		t.Errorf("a job for a compiler: %v", err)
	}
	for name, first := range map[string][]byte{
		"nothing":                  nil,
		"no configuration":         {byte(frameJob), 0, 0, 0, 0},
		"malformed configuration":  {byte(frameConfig), 0, 0, 0, 0},
		"configuration of another": append([]byte{byte(frameConfig), 0, 0, 0, 16}, make([]byte, 16)...),
	} {
		err := serveWorker(bytes.NewReader(first), io.Discard, role{}, func(workerConfig, role) Enforcement { return Enforcement{} })
		if err == nil {
			t.Errorf("%s: served", name)
		}
	}
}

// TestInvalidModules has an engine without a usable cache admit modules, metered
// and not.
func TestInvalidModules(t *testing.T) {
	e := NewEngine(EngineConfig{CacheDir: "/dev/null/cache", CachedModules: 1}) // of no use, and no harm
	defer e.Close()
	bad := printer(func(uint32) []byte { return wasmtest.Op(0x43, 0, 0, 0, 0, 0x45, 0x1a) })
	for _, gas := range []uint64{0, 1000} {
		job := metered(newJob(bad), gas, min(gas, 10))
		_, err := e.Admit(t.Context(), bad, job.Capabilities, job.Limits)
		if r := (*Refusal)(nil); !errors.As(err, &r) || r.Code != RefusedInvalid {
			t.Errorf("gas %d: %v", gas, err)
		}
		good := metered(newJob(counter(3)), gas*100, min(gas, 10))
		a, err := e.Admit(t.Context(), good.Module, good.Capabilities, good.Limits)
		if err != nil || a.ModuleDigest != sha256.Sum256(good.Module) || (a.RewrittenModule != nil) != (gas > 0) {
			t.Errorf("gas %d: %+v, %v", gas, a, err)
		}
	}
	if _, err := e.Admit(t.Context(), bad, []string{"x"}, Limits{}); !errors.Is(err, ErrInvalidJob) {
		t.Errorf("unknown capability: %v", err)
	}
	if _, err := e.Admit(t.Context(), bad, nil, Limits{}); !errors.Is(err, ErrInvalidJob) {
		t.Errorf("no limits: %v", err)
	}
}
