package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
)

// errno is a WASI preview 1 error number.
type errno uint32

const (
	success         errno = 0
	errBadFD        errno = 8  // EBADF
	errFault        errno = 21 // EFAULT: a pointer outside the memory
	errInvalid      errno = 28 // EINVAL
	errNoSys        errno = 52 // ENOSYS
	errNotDir       errno = 54 // ENOTDIR
	errNotSock      errno = 57 // ENOTSOCK
	errNotSupported errno = 58 // ENOTSUP
	errSeekPipe     errno = 70 // ESPIPE
	errNotCapable   errno = 76 // ENOTCAPABLE
)

// args holds the arguments of a host call; an i32 is zero-extended.
type args []uint64

func (a args) u32(i int) uint32 { return uint32(a[i]) }

// An ending says why the host ended a run from inside a host call.
type ending uint8

const (
	notEnded ending = iota
	endedExit
	endedOutput
	endedBudget
	endedStopped
)

// halt is the panic value by which a host call unwinds the guest. What
// happened is in guest.end; the value itself carries nothing.
type halt struct{}

func (halt) Error() string { return "run ended by the host" }

// A guest is the host's side of one run: everything the module can see or
// change outside its own memory. It belongs to the goroutine of the run.
type guest struct {
	ctx  context.Context // asked at every host call and between slices, so that runs end early
	tank *tank           // nil if the guest is not metered
	args []string
	env  []string

	input   []byte // not yet read
	output  []byte // grows up to maxOutput
	written uint64 // to standard output, counting what did not fit
	diag    []byte // grows up to maxDiag
	maxOutput,
	maxDiag int
	bufs   [][]byte  // of the last list of buffers, see iovecs
	closed [3]bool   // standard streams the guest closed
	flags  [3]uint16 // as set by fd_fdstat_set_flags; kept only to be read back

	elapsed uint64 // logical nanoseconds, see clock.go
	random  *rand.ChaCha8

	end      ending
	exitCode uint32 // with endedExit
}

func newGuest(ctx context.Context, j *Job) *guest {
	return &guest{
		ctx:       ctx,
		args:      j.Args,
		env:       j.environ(),
		input:     j.Input,
		maxOutput: int(j.Limits.OutputBytes),
		maxDiag:   int(j.Limits.DiagnosticsBytes),
		random:    newRandom(j.Seed, sha256.Sum256(j.Input)),
	}
}

// finish ends the run from inside a host call. The first reason stays.
func (g *guest) finish(why ending) {
	if g.end == notEnded {
		g.end = why
	}
	panic(halt{})
}

// span is memory p to p+n, or nil if it is not all inside. No bytes are inside up
// to the end, and never nil: the engine's view of a memory without pages may be
// nil or not, which is no business of a guest's.
func span(mem []byte, p uint32, n uint64) []byte {
	if uint64(p)+n > uint64(len(mem)) {
		return nil
	}
	if n == 0 {
		return []byte{}
	}
	return mem[p : uint64(p)+n : uint64(p)+n]
}

func put32(mem []byte, p, v uint32) errno {
	b := span(mem, p, 4)
	if b == nil {
		return errFault
	}
	binary.LittleEndian.PutUint32(b, v)
	return success
}

func put64(mem []byte, p uint32, v uint64) errno {
	b := span(mem, p, 8)
	if b == nil {
		return errFault
	}
	binary.LittleEndian.PutUint64(b, v)
	return success
}

// answer is a function that always answers e.
func answer(e errno) func(*guest, []byte, args) errno {
	return func(*guest, []byte, args) errno { return e }
}

// onStream is a function whose first argument is a descriptor: e for an open
// standard stream, EBADF for anything else, since nothing else can be open.
func onStream(e errno) func(*guest, []byte, args) errno {
	return func(g *guest, _ []byte, a args) errno {
		if !g.open(a.u32(0)) {
			return errBadFD
		}
		return e
	}
}

// pathSymlink has its descriptor in third place.
func pathSymlink(g *guest, mem []byte, a args) errno {
	return onStream(errNotDir)(g, mem, a[2:])
}

func procExit(g *guest, _ []byte, a args) errno {
	g.exitCode = a.u32(0)
	g.finish(endedExit)
	return success
}

func argsGet(g *guest, mem []byte, a args) errno { return putStrings(g, mem, g.args, a) }

func environGet(g *guest, mem []byte, a args) errno { return putStrings(g, mem, g.env, a) }

func argsSizesGet(g *guest, mem []byte, a args) errno { return putSizes(mem, g.args, a) }

func environSizesGet(g *guest, mem []byte, a args) errno { return putSizes(mem, g.env, a) }

// putStrings writes pointers at a[0] and the strings, zero-terminated, at a[1].
func putStrings(g *guest, mem []byte, list []string, a args) errno {
	at := a.u32(1)
	pointers := span(mem, a.u32(0), 4*uint64(len(list)))
	text := span(mem, at, stringBytes(list))
	if pointers == nil || text == nil {
		return errFault
	}
	g.chargeBytes(uint64(len(pointers) + len(text)))
	for i, s := range list {
		binary.LittleEndian.PutUint32(pointers[4*i:], at)
		n := copy(text, s)
		text[n] = 0
		text, at = text[n+1:], at+uint32(n)+1
	}
	return success
}

func putSizes(mem []byte, list []string, a args) errno {
	if span(mem, a.u32(1), 4) == nil {
		return errFault // before the other is written
	}
	if e := put32(mem, a.u32(0), uint32(len(list))); e != success {
		return e
	}
	return put32(mem, a.u32(1), uint32(stringBytes(list)))
}

func stringBytes(list []string) (n uint64) {
	for _, s := range list {
		n += uint64(len(s)) + 1
	}
	return n
}
