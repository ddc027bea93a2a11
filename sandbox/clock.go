package sandbox

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
)

// The logical clock. It starts at ClockOrigin, and only the guest moves it: a
// reading advances it by ClockStep, and waiting for a deadline moves it there
// at once, so sleeping costs nothing and reads as slept.
const (
	// ClockOrigin is what the real-time clock starts from: 2001-09-09T01:46:40Z,
	// in nanoseconds since the Unix epoch. The other clocks start from 0.
	ClockOrigin = 1_000_000_000 * 1_000_000_000
	// ClockStep is the advance of one reading, in nanoseconds, and the resolution
	// that every clock reports.
	ClockStep = 1000
	// clockEnd is where the clock stops, centuries on, so that sums cannot wrap.
	clockEnd = 1 << 62
)

// The clocks of WASI preview 1. All show the same elapsed time.
const (
	clockRealtime  = 0
	clockThreadCPU = 3 // the last
)

func clockBase(id uint32) uint64 {
	if id == clockRealtime {
		return ClockOrigin
	}
	return 0
}

// moveClock moves the clock forward to t; it never goes back.
func (g *guest) moveClock(t uint64) { g.elapsed = min(max(g.elapsed, t), clockEnd) }

func clockResGet(_ *guest, mem []byte, a args) errno {
	if a.u32(0) > clockThreadCPU {
		return errInvalid
	}
	return put64(mem, a.u32(1), ClockStep)
}

func clockTimeGet(g *guest, mem []byte, a args) errno {
	id := a.u32(0)
	if id > clockThreadCPU {
		return errInvalid
	}
	b := span(mem, a.u32(2), 8)
	if b == nil {
		return errFault // before time passes
	}
	g.moveClock(g.elapsed + ClockStep)
	binary.LittleEndian.PutUint64(b, clockBase(id)+g.elapsed)
	return success
}

const (
	maxSubscriptions = 1024
	subscriptionSize = 48
	eventSize        = 32

	eventClock   = 0
	eventFDRead  = 1
	eventFDWrite = 2

	clockAbsolute = 1 // subscription flag: the timeout is a time, not a span
	eventHangup   = 1 // event flag: nothing more will come
)

// A subscription is one entry of poll_oneoff, decoded.
type subscription struct {
	user     uint64
	kind     byte
	err      errno
	deadline uint64 // of a clock, in elapsed time
	fd       uint32
}

// pollOneoff answers at once: streams are always ready; if none is waited
// for, the clock moves to the earliest deadline.
func pollOneoff(g *guest, mem []byte, a args) errno {
	n := a.u32(2)
	if n == 0 || n > maxSubscriptions {
		return errInvalid
	}
	in := span(mem, a.u32(0), uint64(n)*subscriptionSize)
	out := span(mem, a.u32(1), uint64(n)*eventSize)
	count := span(mem, a.u32(3), 4)
	if in == nil || out == nil || count == nil {
		return errFault
	}
	g.chargeBytes(uint64(len(in) + len(out)))
	subs := make([]subscription, n)
	ready := false // something but a clock
	earliest := uint64(clockEnd)
	for i := range subs {
		s, e := g.subscription(in[i*subscriptionSize:])
		if e != success {
			return e
		}
		if s.kind == eventClock && s.err == success {
			earliest = min(earliest, s.deadline)
		} else {
			ready = true
		}
		subs[i] = s
	}
	if !ready {
		g.moveClock(earliest)
	}
	events := uint32(0)
	for _, s := range subs {
		if s.kind == eventClock && s.err == success && s.deadline > g.elapsed {
			continue
		}
		g.putEvent(out[events*eventSize:][:eventSize], s)
		events++
	}
	binary.LittleEndian.PutUint32(count, events)
	return success
}

func (g *guest) subscription(b []byte) (s subscription, e errno) {
	s.user, s.kind = binary.LittleEndian.Uint64(b), b[8]
	switch s.kind {
	case eventClock:
		id, flags := binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint16(b[40:])
		if id > clockThreadCPU {
			s.err = errInvalid
			return s, success
		}
		// Both sums are saturated at clockEnd: elapsed is at most that.
		timeout := min(binary.LittleEndian.Uint64(b[24:]), 2*clockEnd)
		if flags&clockAbsolute != 0 {
			s.deadline = min(timeout-min(timeout, clockBase(id)), clockEnd)
		} else {
			s.deadline = min(timeout+g.elapsed, clockEnd)
		}
	case eventFDRead, eventFDWrite:
		s.fd = binary.LittleEndian.Uint32(b[16:])
		if !g.open(s.fd) {
			s.err = errBadFD
		}
	default:
		return s, errInvalid
	}
	return s, success
}

func (g *guest) putEvent(b []byte, s subscription) {
	clear(b)
	binary.LittleEndian.PutUint64(b, s.user)
	binary.LittleEndian.PutUint16(b[8:], uint16(s.err))
	b[10] = s.kind
	if s.kind == eventFDRead && s.err == success && s.fd == fdStdin {
		binary.LittleEndian.PutUint64(b[16:], uint64(len(g.input)))
		if len(g.input) == 0 {
			binary.LittleEndian.PutUint16(b[24:], eventHangup)
		}
	}
}

// randomDomain is the domain of the key of the random stream, H as in
// docs/formats/README.md.
const randomDomain = "tallystick/v1/random"

// newRandom is the random stream of host interface version 1: ChaCha8 as in
// math/rand/v2, keyed by H(randomDomain, contract seed, SHA-256(standard input)).
func newRandom(seed, input [sha256.Size]byte) *rand.ChaCha8 {
	var b []byte
	for _, field := range [][]byte{[]byte(randomDomain), seed[:], input[:]} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(field))), field...)
	}
	return rand.NewChaCha8(sha256.Sum256(b))
}

func randomGet(g *guest, mem []byte, a args) errno {
	b := span(mem, a.u32(0), uint64(a.u32(1)))
	if b == nil {
		return errFault
	}
	g.chargeBytes(uint64(len(b)))
	g.random.Read(b)
	return success
}
