package sandbox

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// A worker process is this binary under one of these names, without arguments
// and environment. The first stage confines itself and becomes the second.
const (
	workerName         = "tallystick-sandbox-worker"
	workerNameConfined = "tallystick-sandbox-worker:confined"
)

// IsWorker reports whether this process was started by a [Pool] as a worker.
// A binary that makes a Pool asks first thing in main, before it reads flags or
// opens anything:
//
//	if sandbox.IsWorker() {
//		sandbox.WorkerMain()
//	}
func IsWorker() bool {
	return len(os.Args) == 1 && (os.Args[0] == workerName || os.Args[0] == workerNameConfined)
}

// WorkerMain serves the pool that started this process and does not return.
// It ends the process when the pool closes its pipe.
func WorkerMain() {
	if os.Args[0] == workerName {
		if err := confineAndExec(workerNameConfined); err != nil {
			fmt.Fprintln(os.Stderr, "confining:", err)
			os.Exit(3)
		}
	}
	if err := serveWorker(os.Stdin, os.Stdout, confine); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A worker is the inside of a worker process: one engine, one request at a
// time, all on the goroutine that made it.
type worker struct {
	in     <-chan inbound
	out    io.Writer
	engine *Engine
}

// An inbound is a frame from the pool.
type inbound struct {
	kind    frameKind
	payload []byte
}

// serveWorker answers requests until in ends between two of them.
func serveWorker(in io.Reader, out io.Writer, confine func(workerConfig) Enforcement) error {
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
	if err := writeFrame(out, frameGreeting, confine(config).pack()); err != nil {
		return err
	}
	engine := NewEngine(EngineConfig{CachedModules: int(config.cachedModules), CacheDir: config.cacheDir})
	defer engine.Close()

	// The reader runs beside the guest, so that the end of the pool is noticed
	// even while a guest computes.
	frames, readErr := make(chan inbound), make(chan error, 1)
	go func() {
		defer close(frames)
		for {
			kind, payload, err := readFrame(in)
			if err != nil {
				readErr <- err
				return
			}
			frames <- inbound{kind, payload}
		}
	}()
	w := &worker{in: frames, out: out, engine: engine}
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

// serve answers one request. An error ends the worker; failures of the request
// are answers.
func (w *worker) serve(frame inbound) error {
	var kind frameKind
	var answer []byte
	var err error
	switch frame.kind {
	case frameJob:
		kind, answer, err = w.job(frame.payload)
	case frameAdmit:
		kind, answer, err = w.admit(frame.payload)
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

func (w *worker) job(payload []byte) (frameKind, []byte, error) {
	job, err := unpackJob(payload)
	if err != nil {
		return 0, nil, err
	}
	if err := job.check(); err != nil {
		return 0, nil, err
	}
	if job.Module, err = w.module(job.key()); err != nil {
		return 0, nil, err
	}
	result, err := w.engine.runChecked(context.Background(), job, func() error {
		return writeFrame(w.out, frameRunning, nil)
	})
	if err != nil {
		return 0, nil, err
	}
	return frameResult, packResult(result), nil
}

func (w *worker) admit(payload []byte) (frameKind, []byte, error) {
	request, err := unpackAdmit(payload)
	if err != nil {
		return 0, nil, err
	}
	caps, err := capabilitySet(request.capabilities)
	if err != nil {
		return 0, nil, err
	}
	if err := request.limits.check(); err != nil {
		return 0, nil, err
	}
	key := programKey{request.digest, caps, request.limits.MemoryPages}
	module, err := w.module(key)
	if err != nil {
		return 0, nil, err
	}
	p, err := w.engine.load(context.Background(), module, key)
	if err != nil {
		return 0, nil, err
	}
	return frameAdmission, packAdmission(p.admission), nil
}

// module asks the pool for the module of key, unless it is warm.
func (w *worker) module(key programKey) ([]byte, error) {
	if w.engine.warm(key) {
		return nil, nil
	}
	if err := writeFrame(w.out, frameNeed, nil); err != nil {
		return nil, err
	}
	frame, ok := <-w.in
	if !ok || frame.kind != frameModule {
		return nil, fmt.Errorf("%w: no module", errProtocol)
	}
	if got := sha256.Sum256(frame.payload); got != key.module {
		return nil, invalidJob("module is %x, the job names %x", got[:8], key.module[:8])
	}
	return frame.payload, nil
}
