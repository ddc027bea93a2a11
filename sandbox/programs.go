package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// maxKnownPrograms bounds what a pool remembers of the programs it prepared; one
// that was forgotten is found on disk again.
const maxKnownPrograms = 256

// A preparedProgram is a module that was admitted, rewritten and compiled, and
// may be loaded by any worker.
type preparedProgram struct {
	key       programKey
	admission *Admission
	id        string // its name in the store
	code      []byte // only if it could not be stored
	native    nativeCode
}

// Programs prepares modules for workers. Native code that workers share comes
// from a process that compiled it, ran no guest, and has ended; workers that run
// guests cannot write to it. So a guest that takes its worker over can spoil
// neither another worker nor what a later one loads.
//
// It is safe for concurrent use: mu guards known and underway.
type programs struct {
	pool        *Pool
	store       *store
	maxOutlined int // functions; the constant, but in tests

	mu       sync.Mutex
	known    map[programKey]*preparedProgram
	underway map[programKey]chan struct{} // closed when its preparation has ended
}

func newPrograms(p *Pool) (*programs, error) {
	dir := p.config.CacheDir
	if dir == "" || p.config.Interpreter { // validated programs are of no use to who compiles
		dir = filepath.Join(p.dir.path, "programs")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, engineFault("making the compilation cache: %w", err)
		}
	}
	files := newStore(dir, p.config.CacheBytes)
	files.trim("") // of what a process that crashed left, too
	return &programs{
		pool: p, store: files, maxOutlined: maxOutlined,
		known: map[programKey]*preparedProgram{}, underway: map[programKey]chan struct{}{},
	}, nil
}

// get returns the program of key, preparing module (whose digest the key has)
// if that has not been done. Only one caller does so at a time for each key.
func (s *programs) get(ctx context.Context, key programKey, module []byte) (*preparedProgram, error) {
	for {
		s.mu.Lock()
		if p := s.known[key]; p != nil {
			s.mu.Unlock()
			s.store.touch(p.id)
			return p, nil
		}
		other, busy := s.underway[key]
		if !busy {
			other = make(chan struct{})
			s.underway[key] = other
		}
		s.mu.Unlock()
		if !busy {
			return s.first(ctx, key, module, other)
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w while another compiles: %w", ErrStopped, context.Cause(ctx))
		}
	}
}

// first prepares a program for all who ask for it.
func (s *programs) first(ctx context.Context, key programKey, module []byte, done chan struct{}) (*preparedProgram, error) {
	p, err := s.prepare(ctx, key, module)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		for k := range s.known {
			if len(s.known) < maxKnownPrograms {
				break
			}
			delete(s.known, k)
		}
		s.known[key] = p
	}
	delete(s.underway, key)
	close(done)
	return p, err
}

func (s *programs) prepare(ctx context.Context, key programKey, module []byte) (*preparedProgram, error) {
	if len(module) > MaxModuleBytes {
		return nil, refuse(RefusedSize, "", "%d bytes, at most %d are taken", len(module), MaxModuleBytes)
	}
	if got := sha256.Sum256(module); got != key.module {
		return nil, invalidJob("module is %x, the job names %x", got[:8], key.module[:8])
	}
	p, err := s.store.load(key)
	if err == nil {
		return p, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		s.pool.config.Logger.Warn("compiled program is not usable and is made anew", "error", err)
	}
	a, err := admitRewritten(module, key)
	if err != nil {
		return nil, err
	}
	if key.metered && !s.pool.config.Interpreter && a.admission.Functions <= s.maxOutlined {
		if a.outline, err = outlineOf(a.code); err != nil {
			return nil, err
		}
	}
	native, err := s.compile(ctx, a, module)
	if err != nil {
		return nil, err
	}
	p, err = s.store.save(a, native)
	if err != nil {
		s.pool.config.Logger.Warn("compiled program is not kept", "error", err)
		p = &preparedProgram{key: key, admission: a.admission, code: a.code}
	}
	return p, nil
}

// compile has a process of its own validate and compile what was admitted, and
// returns the native code it left, if it did.
func (s *programs) compile(ctx context.Context, a *admitted, original []byte) (*nativeFile, error) {
	c, err := s.pool.start(ctx, compilerName)
	if err != nil {
		return nil, err
	}
	defer s.pool.end(c)
	m := moduleMessage{code: a.code, outline: a.outline}
	if a.key.metered {
		m.original = original
	}
	q := compileRequest{a.key}
	_, err = c.do(ctx, request{
		kind:           frameCompile,
		payload:        q.pack(),
		module:         func(error) ([]byte, error) { return m.pack(), nil },
		compileTimeout: s.pool.config.CompileTimeout,
		answer:         frameCompiled,
	})
	if err != nil {
		return nil, err
	}
	c.stop()
	return readNative(c.dir, len(a.outline) > 0)
}

// supplyAttempts bounds how many programs supply places: another worker may find
// one of no use, or another program need the room, before it is placed.
const supplyAttempts = 3

// A destination is a worker that asked for a program: as it is loaded at best, or
// whole, since that did not serve.
type destination struct {
	*child
	whole    bool
	unserved error // why the program did not serve; nil of one that it was not given yet
}

// supply is place, but of a program whose files have gone since it was asked for
// (others needed the room, or somebody removed them) it places what it makes anew
// of module. It returns the program that was placed.
func (s *programs) supply(ctx context.Context, p *preparedProgram, module []byte, to destination) (*preparedProgram, []byte, error) {
	for attempt := 1; ; attempt++ {
		message, err := s.place(p, to)
		if err == nil || attempt == supplyAttempts {
			return p, message, err
		}
		s.pool.config.Logger.Warn("compiled program is gone and is made anew", "error", err)
		s.displace(p, to.dir)
		renewed, err := s.get(ctx, p.key, module)
		if err != nil {
			return p, nil, err
		}
		p, to.unserved = renewed, nil
	}
}

// place puts the native code of a program into a worker's directory, and returns
// the message with its outline. A worker that sees no files, and one that found
// no native code there, gets the whole code and compiles. The program that did
// not serve the latter is not usable on this machine any more: another processor
// is one reason.
func (s *programs) place(p *preparedProgram, to destination) ([]byte, error) {
	unusable := error(nil)
	switch {
	case p.native.Name == "" || !to.greeting.Filesystem:
	case to.whole:
		s.displace(p, to.dir)
		unusable = to.unserved
	default:
		m, err := s.placeNative(p, to.dir)
		if err == nil {
			return m.pack(), nil
		}
		unusable = err
	}
	m, err := s.wholeCode(p)
	if unusable != nil {
		s.pool.config.Logger.Warn("compiled program is not usable and is made anew", "error", unusable)
	}
	if unusable != nil || err != nil {
		s.forget(p)
	}
	if err != nil {
		return nil, engineFault("reading a compiled program: %w", err)
	}
	return m.pack(), nil
}

// placeNative places native code and returns what it is loaded with: the outline,
// or the code if there is none.
func (s *programs) placeNative(p *preparedProgram, dir string) (m moduleMessage, err error) {
	placed := make(chan error, 1) // side by side: both are megabytes to be verified
	go func() { placed <- s.store.place(p, dir) }()
	if _, m.outline, err = s.store.read(p.id); err == nil && len(m.outline) == 0 {
		m, err = s.wholeCode(p)
	}
	return m, errors.Join(<-placed, err)
}

func (s *programs) wholeCode(p *preparedProgram) (m moduleMessage, err error) {
	if m.code = p.code; m.code == nil {
		m.code, err = s.store.code(p)
	}
	return m, err
}

// displace takes back what place left.
func (s *programs) displace(p *preparedProgram, dir string) {
	if p.native.Name != "" {
		_ = os.Remove(filepath.Join(dir, p.native.Name)) // often not there; the directory is removed in the end
	}
}

// forget has a program made anew when it is next asked for, unless that has been
// done, or is being done: then its files are no longer those that p found.
func (s *programs) forget(p *preparedProgram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underway[p.key] != nil || s.known[p.key] != nil && s.known[p.key] != p {
		return
	}
	delete(s.known, p.key)
	s.store.remove(p.id)
}
