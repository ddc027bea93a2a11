package direct

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// refusalTimeout bounds the sending of a refusal to a connection too many.
const refusalTimeout = time.Second

// Limited lets at most so many connections be open at once. Those beyond are
// answered at once, in HTTP/1.1, and closed: waiting in the kernel they would
// time out without knowing why. Its connections spare net/http some work: see
// lazyConn.
type Limited struct {
	net.Listener
	max     int64
	open    atomic.Int64
	refusal []byte
}

// Limit returns a listener of at most max connections at once. What is beyond is
// sent refusal, a whole answer of HTTP/1.1 that says that the connection ends.
func Limit(ln net.Listener, max int, refusal []byte) *Limited {
	return &Limited{Listener: ln, max: int64(max), refusal: refusal}
}

// Accept returns the next connection that is within the limit.
func (l *Limited) Accept() (net.Conn, error) {
	conn, err := l.accept()
	if err != nil {
		return nil, err // and no conn of type *limitedConn
	}
	return conn, nil
}

func (l *Limited) accept() (*limitedConn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.max {
			return &limitedConn{lazyConn: newLazyConn(conn), open: &l.open}, nil
		}
		l.open.Add(-1)
		l.refuse(conn)
	}
}

// refuse answers without having read anything. It does not wait: the answer fits
// into the socket's buffer.
func (l *Limited) refuse(conn net.Conn) {
	conn.SetWriteDeadline(time.Now().Add(refusalTimeout))
	conn.Write(l.refusal)
	conn.Close()
}

// limitedConn counts as open until it is closed.
type limitedConn struct {
	*lazyConn
	open   *atomic.Int64
	closed sync.Once
}

func (c *limitedConn) Close() error {
	c.closed.Do(func() { c.open.Add(-1) })
	return c.lazyConn.Close()
}
