package sandbox

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// workerProtocol is the version of the messages below. Pool and worker are the
// same binary, so it guards only against a binary replaced while running.
const workerProtocol = 5

// A workerConfig is the first message to a worker.
type workerConfig struct {
	memoryBytes   int64  // limit of the worker's own data, 0 for none
	cachedModules uint32 // compiled modules kept warm
	interpreter   bool   // as of EngineConfig
}

func (c workerConfig) pack() []byte {
	var p packer
	p.u32(workerProtocol)
	p.i64(c.memoryBytes)
	p.u32(c.cachedModules)
	p.bool(c.interpreter)
	return p.b
}

func unpackConfig(b []byte) (c workerConfig, err error) {
	u := unpacker{b: b}
	version := u.u32()
	c.memoryBytes, c.cachedModules, c.interpreter = u.i64(), u.u32(), u.bool()
	if err := u.done(); err != nil {
		return c, err
	}
	if version != workerProtocol {
		return c, fmt.Errorf("%w: version %d, this is %d; restart after an upgrade", errProtocol, version, workerProtocol)
	}
	return c, nil
}

func (e Enforcement) pack() []byte {
	var p packer
	p.u32(workerProtocol)
	for _, v := range e.flags() {
		p.bool(*v)
	}
	p.i64(e.MemoryBytes)
	p.text(clip(e.Note))
	return p.b
}

func unpackEnforcement(b []byte) (e Enforcement, err error) {
	u := unpacker{b: b}
	version := u.u32()
	for _, v := range e.flags() {
		*v = u.bool()
	}
	e.MemoryBytes, e.Note = u.i64(), u.text()
	if err := u.done(); err != nil {
		return e, err
	}
	if version != workerProtocol {
		return e, fmt.Errorf("%w: version %d, this is %d; restart after an upgrade", errProtocol, version, workerProtocol)
	}
	return e, nil
}

func (p *packer) limits(l Limits) {
	p.u64(l.Gas)
	p.u64(l.Frames)
	p.u32(l.MemoryPages)
	for _, v := range []int64{l.InputBytes, l.OutputBytes, l.DiagnosticsBytes, int64(l.WallClock)} {
		p.i64(v)
	}
}

func (u *unpacker) limits() (l Limits) {
	l.Gas, l.Frames = u.u64(), u.u64()
	l.MemoryPages = u.u32()
	l.InputBytes, l.OutputBytes, l.DiagnosticsBytes = u.i64(), u.i64(), u.i64()
	l.WallClock = time.Duration(u.i64())
	return l
}

// packJob leaves the module out; the worker asks for it if it is not warm.
func packJob(j *Job) []byte {
	p := packer{b: make([]byte, 0, len(j.Input)+1024)}
	p.raw(j.ModuleDigest[:])
	p.raw(j.Seed[:])
	p.limits(j.Limits)
	p.bool(j.MemoryDigest)
	p.texts(j.Capabilities)
	p.texts(j.Args)
	p.u32(uint32(len(j.Env)))
	for _, kv := range j.Env {
		p.text(kv[0])
		p.text(kv[1])
	}
	p.bytes(j.Input)
	return p.b
}

// unpackJob checks form only; Job.check is for the engine.
func unpackJob(b []byte) (*Job, error) {
	u := unpacker{b: b}
	j := &Job{}
	u.raw(j.ModuleDigest[:])
	u.raw(j.Seed[:])
	j.Limits = u.limits()
	j.MemoryDigest = u.bool()
	j.Capabilities = u.texts(len(capNames))
	j.Args = u.texts(MaxStrings)
	for n := u.u32(); n > 0 && u.err == nil; n-- {
		if len(j.Env) == MaxStrings {
			return nil, fmt.Errorf("%w: environment is too long", errProtocol)
		}
		j.Env = append(j.Env, [2]string{u.text(), u.text()})
	}
	j.Input = u.bytes()
	return j, u.done()
}

// A compileRequest asks for a program to be compiled and kept.
type compileRequest struct{ key programKey }

func (q *compileRequest) pack() []byte {
	var p packer
	p.raw(q.key.module[:])
	p.u8(uint8(q.key.caps))
	p.u32(q.key.pages)
	p.bool(q.key.metered)
	return p.b
}

func unpackCompile(b []byte) (q compileRequest, err error) {
	u := unpacker{b: b}
	u.raw(q.key.module[:])
	q.key.caps, q.key.pages, q.key.metered = capSet(u.u8()), u.u32(), u.bool()
	return q, u.done()
}

// A moduleMessage is a program that was admitted. A runner gets its code, the
// form in which it runs, or its outline if the native code is in its directory; a
// compiler gets both, if there is to be an outline, and the original of a metered
// one, which it validates too.
type moduleMessage struct{ original, code, outline []byte }

func (m *moduleMessage) pack() []byte {
	p := packer{b: make([]byte, 0, len(m.original)+len(m.code)+len(m.outline)+12)}
	p.bytes(m.original)
	p.bytes(m.code)
	p.bytes(m.outline)
	return p.b
}

func unpackModule(b []byte) (m moduleMessage, err error) {
	u := unpacker{b: b}
	m.original, m.code, m.outline = u.bytes(), u.bytes(), u.bytes()
	return m, u.done()
}

// packResult sends bytes, not their digests: the pool computes those itself.
func packResult(r *Result) []byte {
	p := packer{b: make([]byte, 0, len(r.Output)+len(r.Diagnostics)+1024)}
	p.u8(uint8(r.Outcome.Kind))
	p.u32(r.Outcome.ExitCode)
	p.u32(r.Outcome.PeakPages)
	p.bool(r.Outcome.Gas != nil)
	if r.Outcome.Gas != nil {
		p.u64(*r.Outcome.Gas)
	}
	p.bool(r.Outcome.Memory != nil)
	if r.Outcome.Memory != nil {
		p.raw(r.Outcome.Memory[:])
	}
	p.text(r.Engine.Trap)
	p.i64(int64(r.Engine.WallTime))
	p.i64(int64(r.Engine.CompileTime))
	p.bytes(r.Output)
	p.bytes(r.Diagnostics)
	return p.b
}

// unpackResult takes a worker's word only for what the job allows; what it
// sends is suspect until then, since guest code may have taken it over.
func unpackResult(b []byte, job *Job, mode string) (*Result, error) {
	u := unpacker{b: b}
	r := &Result{Engine: engineInfo(mode)}
	o := &r.Outcome
	o.Kind, o.ExitCode, o.PeakPages = Kind(u.u8()), u.u32(), u.u32()
	if u.bool() {
		gas := u.u64()
		o.Gas = &gas
	}
	if u.bool() {
		o.Memory = new([sha256.Size]byte)
		u.raw(o.Memory[:])
	}
	r.Engine.Trap = u.text()
	r.Engine.WallTime, r.Engine.CompileTime = time.Duration(u.i64()), time.Duration(u.i64())
	r.Output, r.Diagnostics = u.bytes(), u.bytes()
	if err := u.done(); err != nil {
		return nil, err
	}
	o.Output, o.Diagnostics = DigestOf(r.Output), DigestOf(r.Diagnostics)
	if err := r.check(job); err != nil {
		return nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	return r, nil
}

// maxTrapText bounds EngineInfo.Trap.
const maxTrapText = 256

// check reports whether a result is one that the job can have.
func (r *Result) check(job *Job) error {
	o, l := &r.Outcome, job.Limits
	switch {
	case !o.Kind.Valid():
		return fmt.Errorf("outcome %v", o.Kind)
	case (o.Gas != nil) != l.metered():
		return fmt.Errorf("gas is present: %t, with a limit of %d", o.Gas != nil, l.Gas)
	case o.Gas == nil && (o.Kind == KindBudgetExhausted || o.Kind == KindStackExhausted):
		return fmt.Errorf("outcome %v of an unmetered run", o.Kind)
	case o.Gas != nil && (*o.Gas > l.Gas || o.Kind == KindBudgetExhausted && *o.Gas != l.Gas):
		return fmt.Errorf("gas %d with outcome %v, limit %d", *o.Gas, o.Kind, l.Gas)
	case (o.ExitCode != 0) != (o.Kind == KindExit):
		return fmt.Errorf("exit code %d with outcome %v", o.ExitCode, o.Kind)
	case o.PeakPages > l.MemoryPages:
		return fmt.Errorf("%d pages of memory, limit %d", o.PeakPages, l.MemoryPages)
	case (o.Memory != nil) != job.MemoryDigest:
		return errors.New("memory digest missing or not asked for")
	case o.Output.Length > l.OutputBytes, o.Diagnostics.Length > l.DiagnosticsBytes:
		return fmt.Errorf("output of %d and diagnostics of %d bytes, limits %d and %d",
			o.Output.Length, o.Diagnostics.Length, l.OutputBytes, l.DiagnosticsBytes)
	case o.Kind == KindOutputTooLarge && o.Output.Length != l.OutputBytes:
		return fmt.Errorf("output of %d bytes is too large, limit %d", o.Output.Length, l.OutputBytes)
	case (r.Engine.Trap != "") != (o.Kind == KindTrap), len(r.Engine.Trap) > maxTrapText:
		return errors.New("trap text without a trap, or too long")
	case r.Engine.WallTime < 0 || r.Engine.CompileTime < 0:
		return errors.New("negative time")
	}
	return nil
}

// Classes of failure, as a worker reports them. Refusals travel field by field.
const (
	failRefusal = 1 + iota
	failInvalidJob
	failStopped
	failEngine
)

var failSentinels = [...]error{failInvalidJob: ErrInvalidJob, failStopped: ErrStopped, failEngine: ErrEngineFault}

// maxFailureText bounds each text of a failure; engines quote modules in theirs.
const maxFailureText = 4 << 10

func clip(s string) string { return s[:min(len(s), maxFailureText)] }

func packFailure(err error) []byte {
	var p packer
	if r := (*Refusal)(nil); errors.As(err, &r) {
		p.u8(failRefusal)
		for _, s := range []string{string(r.Code), r.Item, r.Capability, r.Detail} {
			p.text(clip(s))
		}
		return p.b
	}
	class := slices.IndexFunc(failSentinels[:], func(s error) bool { return s != nil && errors.Is(err, s) })
	if class < 0 {
		class = failEngine
	}
	p.u8(uint8(class))
	p.text(clip(err.Error()))
	return p.b
}

// unpackFailure returns the error that a worker reported as failure, or an
// error about the message as err. A worker that has stopped by itself saw the
// same guard as the pool.
func unpackFailure(b []byte) (failure, err error) {
	u := unpacker{b: b}
	class := u.u8()
	if class == failRefusal {
		r := &Refusal{Code: RefusalCode(u.text()), Item: u.text(), Capability: u.text(), Detail: u.text()}
		return r, u.done()
	}
	text := u.text()
	if err := u.done(); err != nil {
		return nil, err
	}
	if int(class) >= len(failSentinels) || failSentinels[class] == nil {
		return nil, fmt.Errorf("%w: failure class %d", errProtocol, class)
	}
	return &workerError{failSentinels[class], text}, nil
}

// A workerError is an error of a worker, with its text, that wraps the same
// sentinel here.
type workerError struct {
	sentinel error
	text     string
}

func (e *workerError) Error() string { return e.text }
func (e *workerError) Unwrap() error { return e.sentinel }
