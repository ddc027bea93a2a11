package sandbox

import "github.com/tetratelabs/wazero/experimental"

// maxSpare bounds the memory that an engine keeps between two runs.
const maxSpare = 64 << 20

// A memoryPool lends guests their linear memory, one at a time, and keeps it for
// the next: memories of a few megabytes, made anew for each run of a millisecond,
// would keep the garbage collector busier than the guests do.
//
// What it lends is zero beyond what the borrower asks for: every byte that a
// guest could reach is cleared when it gives its memory back, so that no run
// sees anything of another.
type memoryPool struct {
	spare []byte // zero up to its capacity
}

// Allocate lends a memory of at most limit bytes.
func (p *memoryPool) Allocate(_, limit uint64) experimental.LinearMemory {
	m := &memory{pool: p, limit: limit, buf: p.spare[:0]}
	p.spare = nil
	return m
}

// A memory is the linear memory of one run.
type memory struct {
	pool  *memoryPool
	limit uint64
	buf   []byte // as large as the guest's memory; zero beyond, up to its capacity
}

// Reallocate grows the memory to size bytes; the engine asks for no less than
// before, and for no more than the limit.
func (m *memory) Reallocate(size uint64) []byte {
	// A memory without pages is empty and never nil, which the engine would take
	// for a failure, whatever was lent before.
	if m.buf == nil || size > uint64(cap(m.buf)) {
		// Twice as much, so that growing by single pages is not quadratic.
		grown := make([]byte, size, max(size, min(2*size, m.limit)))
		copy(grown, m.buf)
		m.buf = grown
	}
	m.buf = m.buf[:size]
	return m.buf
}

// Free takes the memory back.
func (m *memory) Free() {
	if cap(m.buf) <= maxSpare {
		clear(m.buf)
		m.pool.spare = m.buf[:0]
	}
	m.buf = nil
}
