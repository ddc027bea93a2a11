package logserver

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

// Sizes of the buffers that bodies are read into, in bytes.
const (
	// smallBody is what every request gets: most entries fit.
	smallBody = 4 << 10
	// largeBody is what a body that does not fit is moved to.
	largeBody = 128 << 10
	// bodyGrowth is by how much a larger buffer may exceed what has arrived:
	// whoever announces much and sends little holds little.
	bodyGrowth = 16
)

// budget bounds the bytes that requests under way hold in memory.
type budget struct {
	total int64
	free  atomic.Int64
}

func newBudget(total int) *budget {
	b := &budget{total: int64(total)}
	b.free.Store(b.total)
	return b
}

// take reserves n bytes if at least leave bytes stay free.
func (b *budget) take(n, leave int64) bool {
	if b.free.Add(-n) < leave {
		b.free.Add(n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.free.Add(n) }

// held returns the bytes that are reserved.
func (b *budget) held() int64 { return b.total - b.free.Load() }

// body is a buffer for one request body or message; Append copies what it
// keeps. All of its capacity is reserved in the budget.
type body struct {
	buf    []byte // small, or a larger one
	budget *budget
	small  [smallBody]byte
}

var (
	smallBodies = sync.Pool{New: func() any { return new(body) }}
	largeBodies = sync.Pool{New: func() any { b := make([]byte, 0, largeBody); return &b }}
)

// newBody returns an empty body, or errBusy.
func newBody(b *budget) (*body, error) {
	if !b.take(smallBody, 0) {
		return nil, errBusy
	}
	p := smallBodies.Get().(*body)
	p.buf, p.budget = p.small[:0], b
	return p, nil
}

// release gives the buffer back. Nobody may refer to it any more.
func (p *body) release() {
	p.shrink()
	p.budget.give(smallBody)
	smallBodies.Put(p)
}

// shrink empties the body and gives back what exceeds a small buffer.
func (p *body) shrink() {
	p.free()
	p.budget.give(int64(cap(p.buf) - smallBody))
	p.buf = p.small[:0]
}

// free hands a pooled buffer back.
func (p *body) free() {
	if cap(p.buf) == largeBody {
		old := p.buf[:0]
		largeBodies.Put(&old)
	}
}

// grow makes room for more than what is there, up to limit bytes in all. Bodies
// that outgrow a small buffer may use three quarters of the budget: small
// entries pass while large uploads are slow.
func (p *body) grow(limit int) error {
	size := largeBody
	if cap(p.buf) >= largeBody {
		size = min(cap(p.buf)*bodyGrowth, max(limit, largeBody))
	}
	if !p.budget.take(int64(size-cap(p.buf)), p.budget.total/4) {
		return errBusy
	}
	var next []byte
	if size == largeBody {
		next = *largeBodies.Get().(*[]byte)
	} else {
		next = make([]byte, 0, size)
	}
	next = append(next[:0], p.buf...)
	p.free()
	p.buf = next
	return nil
}

// readAll reads a request body of at most limit bytes.
func (p *body) readAll(r *http.Request, limit int) error {
	known := r.ContentLength >= 0
	if r.ContentLength > int64(limit) {
		return errTooLarge
	}
	if known {
		return p.readFull(r.Body, int(r.ContentLength))
	}
	for {
		// One byte more than is allowed tells a body of the largest size from
		// an endless one.
		if len(p.buf) == cap(p.buf) {
			if err := p.grow(limit + 1); err != nil {
				return err
			}
		}
		n, err := r.Body.Read(p.buf[len(p.buf):min(cap(p.buf), limit+1)])
		p.buf = p.buf[:len(p.buf)+n]
		switch {
		case len(p.buf) > limit:
			return errTooLarge
		case err == io.EOF:
			return nil
		case err != nil:
			return bodyError(err)
		}
	}
}

// readFull appends exactly n bytes.
func (p *body) readFull(r io.Reader, n int) error {
	for end := len(p.buf) + n; len(p.buf) < end; {
		if len(p.buf) == cap(p.buf) {
			if err := p.grow(end); err != nil {
				return err
			}
		}
		n, err := r.Read(p.buf[len(p.buf):min(cap(p.buf), end)])
		p.buf = p.buf[:len(p.buf)+n]
		if err != nil && len(p.buf) < end {
			return bodyError(err)
		}
	}
	return nil
}

// bodyError says why a body did not come to its end.
func bodyError(err error) error {
	var timeout net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return errSlow
	}
	return errCutShort
}
