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
const workerProtocol = 1

// A workerConfig is the first message to a worker.
type workerConfig struct {
	memoryBytes   int64  // limit of the worker's own data, 0 for none
	cachedModules uint32 // compiled modules kept warm
	cacheDir      string // of compiled code, or empty
}

func (c workerConfig) pack() []byte {
	var p packer
	p.u32(workerProtocol)
	p.i64(c.memoryBytes)
	p.u32(c.cachedModules)
	p.text(c.cacheDir)
	return p.b
}

func unpackConfig(b []byte) (c workerConfig, err error) {
	u := unpacker{b: b}
	version := u.u32()
	c.memoryBytes, c.cachedModules, c.cacheDir = u.i64(), u.u32(), u.text()
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
	p.text(e.Note)
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
	p.u32(l.MemoryPages)
	for _, v := range []int64{l.InputBytes, l.OutputBytes, l.DiagnosticsBytes, int64(l.WallClock)} {
		p.i64(v)
	}
}

func (u *unpacker) limits() (l Limits) {
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

// An admitRequest is what Pool.Admit asks of a worker.
type admitRequest struct {
	digest       [sha256.Size]byte
	capabilities []string
	limits       Limits
}

func (a *admitRequest) pack() []byte {
	var p packer
	p.raw(a.digest[:])
	p.texts(a.capabilities)
	p.limits(a.limits)
	return p.b
}

func unpackAdmit(b []byte) (*admitRequest, error) {
	u := unpacker{b: b}
	a := &admitRequest{}
	u.raw(a.digest[:])
	a.capabilities = u.texts(len(capNames))
	a.limits = u.limits()
	return a, u.done()
}

// packResult sends bytes, not their digests: the pool computes those itself.
func packResult(r *Result) []byte {
	p := packer{b: make([]byte, 0, len(r.Output)+len(r.Diagnostics)+1024)}
	p.u8(uint8(r.Outcome.Kind))
	p.u32(r.Outcome.ExitCode)
	p.u32(r.Outcome.PeakPages)
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
func unpackResult(b []byte, job *Job) (*Result, error) {
	u := unpacker{b: b}
	r := &Result{Engine: compilerInfo()}
	o := &r.Outcome
	o.Kind, o.ExitCode, o.PeakPages = Kind(u.u8()), u.u32(), u.u32()
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
	case o.Kind != KindOK && o.Kind != KindExit && o.Kind != KindTrap && o.Kind != KindOutputTooLarge:
		return fmt.Errorf("outcome %v from rewriter version %d", o.Kind, Rewriter)
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

func packAdmission(a *Admission) []byte {
	var p packer
	p.raw(a.ModuleDigest[:])
	p.u64(a.CompileWork)
	return p.b
}

// checkAdmission holds a worker's admission against the one computed here: the
// static part must be the same, and what the worker adds is that the engine
// compiled the module.
func checkAdmission(b []byte, want *Admission) error {
	u := unpacker{b: b}
	var digest [sha256.Size]byte
	u.raw(digest[:])
	work := u.u64()
	if err := u.done(); err != nil {
		return err
	}
	if digest != want.ModuleDigest || work != want.CompileWork {
		return fmt.Errorf("%w: admission of another module", errProtocol)
	}
	return nil
}
