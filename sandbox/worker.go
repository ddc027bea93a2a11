package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A worker process is this binary under one of these names, without arguments
// and environment. A runner runs jobs; a compiler compiles one program, which
// it leaves in its directory, and never runs any. The first stage of each
// confines itself and becomes the second, whose name has the suffix.
const (
	runnerName     = "tallystick-sandbox-worker"
	compilerName   = "tallystick-sandbox-compiler"
	confinedSuffix = ":confined"
	// filesSuffix follows in the name of a second stage whose first had the system
	// confine it to its files.
	filesSuffix = ":files"
)

// workerNames are the names of all stages.
var workerNames = []string{
	runnerName, runnerName + confinedSuffix, runnerName + confinedSuffix + filesSuffix,
	compilerName, compilerName + confinedSuffix, compilerName + confinedSuffix + filesSuffix,
}

// A role is what the name of a worker's second stage says.
type role struct {
	compiler bool // compiles and never runs
	files    bool // its first stage was confined to its files
}

func roleOf(name string) role {
	name, files := strings.CutSuffix(name, filesSuffix)
	return role{compiler: name == compilerName+confinedSuffix, files: files}
}

// IsWorker reports whether this process was started by a [Pool] as a worker.
// A binary that makes a Pool asks first thing in main, before it reads flags or
// opens anything:
//
//	if sandbox.IsWorker() {
//		sandbox.WorkerMain()
//	}
func IsWorker() bool { return len(os.Args) == 1 && slices.Contains(workerNames, os.Args[0]) }

// WorkerMain serves the pool that started this process and does not return.
// It ends the process when the pool closes its pipe.
func WorkerMain() {
	name := os.Args[0]
	if name == runnerName || name == compilerName {
		if err := confineAndExec(name+confinedSuffix, name == compilerName); err != nil {
			fmt.Fprintln(os.Stderr, "confining:", err)
			os.Exit(3)
		}
	}
	if err := serveWorker(os.Stdin, os.Stdout, roleOf(name), confine); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A worker is the inside of a worker process: one engine, one request at a
// time, all on the goroutine that made it.
type worker struct {
	in       <-chan inbound
	out      io.Writer
	engine   *Engine
	compiler bool   // compiles and never runs
	dir      string // its own
}

// An inbound is a frame from the pool. Its context ends when the pool cancels
// what it asks for, or has gone.
type inbound struct {
	kind    frameKind
	payload []byte
	ctx     context.Context
}

// serveWorker answers requests until in ends between two of them.
func serveWorker(in io.Reader, out io.Writer, r role, confine func(workerConfig, role) Enforcement) error {
	in = bufio.NewReader(in)
	kind, payload, err := readFrame(in)
	if err != nil {
		return err
	}
	if kind != frameConfig {
		return fmt.Errorf("%w: frame %d before the configuration", errProtocol, kind)
	}
	config, err := unpackConfig(payload)
	if err != nil {
		return err
	}
	dir, _ := os.Getwd() // while it may be asked for; without it nothing is cached
	e := confine(config, r)
	cache := dir
	if r.compiler && dir != "" {
		cache = filepath.Join(dir, compiledDir)
	} else if !e.Filesystem {
		cache = ""
	}
	if err := writeFrame(out, frameGreeting, e.pack()); err != nil {
		return err
	}
	engine := NewEngine(config.engine(cache))
	engine.compilers = runtime.GOMAXPROCS(0)
	defer engine.Close()

	frames, readErr := make(chan inbound), make(chan error, 1)
	go func() {
		defer close(frames)
		readErr <- readFrames(in, frames)
	}()
	w := &worker{in: frames, out: out, engine: engine, compiler: r.compiler, dir: dir}
	for frame := range frames {
		if err := w.serve(frame); err != nil {
			return err
		}
	}
	if err := <-readErr; err != io.EOF {
		return err
	}
	return nil
}

// interpreterSlice takes an interpreter about as long as DefaultSlice takes
// compiled code.
const interpreterSlice = DefaultSlice / 100

// engine is the configuration of a worker's engine.
func (c workerConfig) engine(dir string) EngineConfig {
	e := EngineConfig{Interpreter: c.interpreter, CachedModules: int(c.cachedModules), CacheDir: dir}
	if c.interpreter {
		e.Slice = interpreterSlice
	}
	return e
}

// readFrames runs beside the guest, so that a cancel, and the end of the pool,
// is noticed even while a guest computes. A cancel ends the request before it,
// which may have been answered: the pool reads an answer before it asks again.
func readFrames(in io.Reader, frames chan<- inbound) error {
	all, end := context.WithCancel(context.Background())
	defer end()
	var request context.Context
	cancel := func() {}
	for {
		kind, payload, err := readFrame(in)
		if err != nil {
			cancel()
			return err
		}
		switch kind {
		case frameCancel:
			cancel()
			continue
		case frameJob, frameCompile:
			cancel() // releases what the one before held
			request, cancel = context.WithCancel(all)
		}
		frames <- inbound{kind, payload, request}
	}
}

// serve answers one request. An error ends the worker; failures of the request
// are answers.
func (w *worker) serve(frame inbound) error {
	var kind frameKind
	var answer []byte
	var err error
	switch {
	case frame.kind == frameJob && !w.compiler:
		kind, answer, err = w.job(frame)
	case frame.kind == frameCompile:
		kind, answer, err = w.compile(frame)
	default:
		err = fmt.Errorf("%w: frame %d is no request", errProtocol, frame.kind)
	}
	if errors.Is(err, errProtocol) {
		return err
	}
	if err != nil {
		kind, answer = frameFailure, packFailure(err)
	}
	return writeFrame(w.out, kind, answer)
}

func (w *worker) job(frame inbound) (frameKind, []byte, error) {
	job, err := unpackJob(frame.payload)
	if err != nil {
		return 0, nil, err
	}
	if err := job.check(); err != nil {
		return 0, nil, err
	}
	result, err := w.engine.runLoaded(frame.ctx, job, w.load, func() error {
		return writeFrame(w.out, frameRunning, nil)
	})
	if err != nil {
		return 0, nil, err
	}
	return frameResult, packResult(result), nil
}

func (w *worker) compile(frame inbound) (frameKind, []byte, error) {
	q, err := unpackCompile(frame.payload)
	if err != nil {
		return 0, nil, err
	}
	_, err = w.load(frame.ctx, q.key)
	return frameCompiled, nil, err
}

// load returns the program of key, asking the pool for it unless it is warm. The
// pool has admitted and rewritten it.
func (w *worker) load(ctx context.Context, key programKey) (*program, error) {
	if p, err := w.engine.recall(key); p != nil || err != nil {
		return p, err
	}
	a, original, err := w.need(frameNeed, nil, key)
	if err != nil {
		return nil, err
	}
	if w.compiler {
		return w.make(ctx, a, original)
	}
	p, missing := w.engine.keepStored(a)
	if missing == nil {
		return p, nil
	}
	// What was sent whole is asked for again where some native code was placed: so
	// the pool hears that it is of no use, and has it made anew.
	if len(a.outline) > 0 || w.engine.placed() {
		if a, _, err = w.need(frameNeedWhole, []byte(clip(missing.Error())), key); err != nil {
			return nil, err
		}
	}
	return w.engine.keepUnstored(ctx, a)
}

// need asks the pool for a program.
func (w *worker) need(kind frameKind, reason []byte, key programKey) (a *admitted, original []byte, err error) {
	if err := writeFrame(w.out, kind, reason); err != nil {
		return nil, nil, err
	}
	frame, ok := <-w.in
	if !ok || frame.kind != frameModule {
		return nil, nil, fmt.Errorf("%w: no module", errProtocol)
	}
	m, err := unpackModule(frame.payload)
	if err != nil {
		return nil, nil, err
	}
	// The pool knows the rest of the admission, the rewritten module's digest too.
	return &admitted{key: key, admission: &Admission{ModuleDigest: key.module}, code: m.code, outline: m.outline}, m.original, nil
}

// make compiles a program, and has the engine name its outline.
func (w *worker) make(ctx context.Context, a *admitted, original []byte) (*program, error) {
	p, err := w.engine.keepValid(ctx, a, original)
	if err == nil && len(a.outline) > 0 {
		err = w.engine.nameOutline(ctx, a, filepath.Join(w.dir, outlineDir))
	}
	return p, err
}
