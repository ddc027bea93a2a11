package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tallystick/tallystick/sandbox/rewrite"
)

// The protocol between a pool and its worker processes: frames over a pipe
// pair, strictly in turn. The pool sends a configuration, the worker answers
// with a greeting; then the pool sends one request at a time:
//
//	pool                     worker
//	job or compile      →
//	                    ←    need             (the program is not warm)
//	module              →
//	                    ←    need whole       (a job's program was an outline without its native code, because of this)
//	module              →
//	                    ←    running          (a job's guest is about to start)
//	                    ←    result, compiled or failure
//
// While it waits the pool may send cancel, once: the worker ends the request
// with a failure as soon as it can, or answers it, and takes no notice of a
// cancel between requests. Either side treats anything else as a fault of the
// other and gives it up. A frame is a kind byte, a length of four bytes,
// big-endian, and the payload.
type frameKind byte

const (
	frameConfig frameKind = 1 + iota
	frameGreeting
	frameJob
	frameCompile
	frameNeed
	frameModule
	frameRunning
	frameResult
	frameCompiled
	frameFailure
	frameCancel
	frameNeedWhole
)

// frameLimits bounds the payload of each kind, so that neither side can make
// the other allocate more than the kind can need.
var frameLimits = [...]int{
	frameConfig:   1 << 10,
	frameGreeting: 8 << 10,
	frameJob:      MaxInputBytes + 4*MaxStringBytes + 16<<10,
	frameCompile:  1 << 10,
	frameNeed:     0,
	frameModule:   MaxModuleBytes + 2*rewrite.MaxOutput + 16,
	frameRunning:  0,
	frameResult:   MaxOutputBytes + MaxDiagnosticsBytes + 16<<10,
	frameCompiled: 0,
	frameFailure:  64 << 10,
	frameCancel:   0,

	frameNeedWhole: maxFailureText,
}

// errProtocol is wrapped by every error about what the other side sent.
var errProtocol = errors.New("worker protocol violated")

const frameHeader = 5

func writeFrame(w io.Writer, kind frameKind, payload []byte) error {
	if len(payload) > frameLimits[kind] {
		return fmt.Errorf("%w: frame %d of %d bytes", errProtocol, kind, len(payload))
	}
	// One write for small frames; the payload of large ones is not copied.
	head := binary.BigEndian.AppendUint32([]byte{byte(kind)}, uint32(len(payload)))
	if len(payload) <= 4<<10 {
		_, err := w.Write(append(head, payload...))
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

// readFrame reads one frame. It returns io.EOF only if nothing was read.
func readFrame(r io.Reader) (frameKind, []byte, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind, size := frameKind(head[0]), binary.BigEndian.Uint32(head[1:])
	if kind < frameConfig || int(kind) >= len(frameLimits) {
		return 0, nil, fmt.Errorf("%w: unknown frame %d", errProtocol, kind)
	}
	if uint64(size) > uint64(frameLimits[kind]) {
		return 0, nil, fmt.Errorf("%w: frame %d of %d bytes", errProtocol, kind, size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("reading frame %d: %w", kind, noEOF(err))
	}
	return kind, payload, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A packer appends fields to a payload: integers big-endian, byte strings after
// their length.
type packer struct{ b []byte }

func (p *packer) u8(v uint8)     { p.b = append(p.b, v) }
func (p *packer) u32(v uint32)   { p.b = binary.BigEndian.AppendUint32(p.b, v) }
func (p *packer) u64(v uint64)   { p.b = binary.BigEndian.AppendUint64(p.b, v) }
func (p *packer) i64(v int64)    { p.u64(uint64(v)) }
func (p *packer) raw(v []byte)   { p.b = append(p.b, v...) }
func (p *packer) bytes(v []byte) { p.u32(uint32(len(v))); p.raw(v) }
func (p *packer) text(v string)  { p.u32(uint32(len(v))); p.b = append(p.b, v...) }
func (p *packer) bool(v bool) {
	if v {
		p.u8(1)
	} else {
		p.u8(0)
	}
}

func (p *packer) texts(list []string) {
	p.u32(uint32(len(list)))
	for _, s := range list {
		p.text(s)
	}
}

// An unpacker reads what a packer wrote. After the first error every method
// returns zero values; done reports it, or bytes left over.
type unpacker struct {
	b   []byte
	err error
}

func (u *unpacker) take(n uint64) []byte {
	if u.err == nil && n > uint64(len(u.b)) {
		u.err = fmt.Errorf("%w: payload ends early", errProtocol)
	}
	if u.err != nil {
		return nil
	}
	b := u.b[:n:n]
	u.b = u.b[n:]
	return b
}

func (u *unpacker) u8() uint8 {
	if b := u.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (u *unpacker) u32() uint32 {
	if b := u.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (u *unpacker) u64() uint64 {
	if b := u.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (u *unpacker) i64() int64 { return int64(u.u64()) }

func (u *unpacker) raw(dst []byte) { copy(dst, u.take(uint64(len(dst)))) }

func (u *unpacker) bytes() []byte { return u.take(uint64(u.u32())) }

func (u *unpacker) text() string { return string(u.bytes()) }

func (u *unpacker) bool() bool {
	v := u.u8()
	if v > 1 && u.err == nil {
		u.err = fmt.Errorf("%w: boolean is %d", errProtocol, v)
	}
	return v == 1
}

// texts reads at most limit strings.
func (u *unpacker) texts(limit int) []string {
	n := u.u32()
	if u.err == nil && (uint64(n) > uint64(limit) || uint64(n) > uint64(len(u.b))/4) {
		u.err = fmt.Errorf("%w: list of %d", errProtocol, n)
	}
	if u.err != nil || n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = u.text()
	}
	return list
}

func (u *unpacker) done() error {
	if u.err == nil && len(u.b) > 0 {
		u.err = fmt.Errorf("%w: %d bytes left over", errProtocol, len(u.b))
	}
	return u.err
}
