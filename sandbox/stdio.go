package sandbox

import (
	"encoding/binary"
	"math"
)

// The standard streams, the only descriptors there are.
const (
	fdStdin  = 0
	fdStdout = 1
	fdStderr = 2
)

// maxIovecs bounds the buffers of one read or write, as IOV_MAX does on Linux.
const (
	maxIovecs = 1024
	iovecSize = 8
)

const (
	rightRead  = 1 << 1 // fd_read
	rightWrite = 1 << 6 // fd_write
	rightPoll  = 1 << 27

	fdFlagsMask = 0x1f // append, dsync, nonblock, rsync, sync
)

func (g *guest) open(fd uint32) bool { return fd <= fdStderr && !g.closed[fd] }

func fdClose(g *guest, _ []byte, a args) errno {
	if !g.open(a.u32(0)) {
		return errBadFD
	}
	g.closed[a.u32(0)] = true
	return success
}

// fdStatGet describes a stream as being of unknown type, like a pipe: a
// character device would make C programs flush every line.
func fdStatGet(g *guest, mem []byte, a args) errno {
	fd := a.u32(0)
	if !g.open(fd) {
		return errBadFD
	}
	b := span(mem, a.u32(1), 24)
	if b == nil {
		return errFault
	}
	clear(b)
	binary.LittleEndian.PutUint16(b[2:], g.flags[fd])
	rights := uint64(rightWrite | rightPoll)
	if fd == fdStdin {
		rights = rightRead | rightPoll
	}
	binary.LittleEndian.PutUint64(b[8:], rights)
	return success
}

func fdStatSetFlags(g *guest, _ []byte, a args) errno {
	fd, flags := a.u32(0), a.u32(1)
	switch {
	case !g.open(fd):
		return errBadFD
	case flags&^fdFlagsMask != 0:
		return errInvalid
	}
	g.flags[fd] = uint16(flags)
	return success
}

func fdFileStatGet(g *guest, mem []byte, a args) errno {
	if !g.open(a.u32(0)) {
		return errBadFD
	}
	b := span(mem, a.u32(1), 64)
	if b == nil {
		return errFault
	}
	clear(b)
	b[24] = 1 // links
	return success
}

// iovecs charges for a list of buffers, checks it, and returns their views of
// the memory, which hold until the next call.
func (g *guest) iovecs(mem []byte, p, n uint32) (bufs [][]byte, total uint64, e errno) {
	if n > maxIovecs {
		return nil, 0, errInvalid
	}
	list := span(mem, p, iovecSize*uint64(n))
	if list == nil {
		return nil, 0, errFault
	}
	g.chargeBytes(uint64(len(list)))
	g.bufs = g.bufs[:0]
	for ; len(list) > 0; list = list[iovecSize:] {
		at, size := binary.LittleEndian.Uint32(list), binary.LittleEndian.Uint32(list[4:])
		b := span(mem, at, uint64(size))
		if b == nil {
			return nil, 0, errFault
		}
		g.bufs = append(g.bufs, b)
		total += uint64(size)
	}
	if total > math.MaxInt32 {
		return nil, 0, errInvalid
	}
	return g.bufs, total, success
}

func fdRead(g *guest, mem []byte, a args) errno {
	if fd := a.u32(0); fd != fdStdin || !g.open(fd) {
		return errBadFD
	}
	count := span(mem, a.u32(3), 4)
	if count == nil {
		return errFault
	}
	bufs, total, e := g.iovecs(mem, a.u32(1), a.u32(2))
	if e != success {
		return e
	}
	g.chargeBytes(min(total, uint64(len(g.input))))
	read := 0
	for _, b := range bufs {
		n := copy(b, g.input)
		g.input = g.input[n:]
		read += n
	}
	binary.LittleEndian.PutUint32(count, uint32(read))
	return success
}

// fdWrite appends to the output or the diagnostics. A write that would pass
// the output limit fills the output to it and ends the run, so the output of
// such a run does not depend on how the guest cut its writes.
func fdWrite(g *guest, mem []byte, a args) errno {
	fd := a.u32(0)
	if fd == fdStdin || !g.open(fd) {
		return errBadFD
	}
	count := span(mem, a.u32(3), 4)
	if count == nil {
		return errFault
	}
	bufs, total, e := g.iovecs(mem, a.u32(1), a.u32(2))
	if e != success {
		return e
	}
	g.chargeBytes(total)
	for _, b := range bufs {
		if fd == fdStderr {
			g.diag = appendUpTo(g.diag, b, g.maxDiag)
			continue
		}
		g.output = appendUpTo(g.output, b, g.maxOutput)
	}
	if fd == fdStdout {
		g.written += total
		if g.written > uint64(g.maxOutput) {
			g.finish(endedOutput)
		}
	}
	binary.LittleEndian.PutUint32(count, uint32(total))
	return success
}

// appendUpTo appends b to dst as far as dst stays within limit bytes.
func appendUpTo(dst, b []byte, limit int) []byte {
	return append(dst, b[:min(len(b), limit-len(dst))]...)
}
