package logserver

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// refusalTimeout bounds the sending of a refusal to a connection too many.
const refusalTimeout = time.Second

// limitedListener lets at most max connections be open at once. Those beyond are
// answered at once, in HTTP/1.1, and closed: waiting in the kernel they would
// time out without knowing why.
type limitedListener struct {
	net.Listener
	max  int64
	open atomic.Int64
}

func limitConnections(ln net.Listener, max int) *limitedListener {
	return &limitedListener{Listener: ln, max: int64(max)}
}

// Accept returns the next connection that is within the limit.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.max {
			return &limitedConn{lazyConn: newLazyConn(conn), open: &l.open}, nil
		}
		l.open.Add(-1)
		refuseConnection(conn)
	}
}

// refuseConnection answers without having read anything. It does not wait: the
// answer fits into the socket's buffer.
func refuseConnection(conn net.Conn) {
	o := outcomeOf(errBusy)
	const reason = "too many connections, try again\n"
	conn.SetWriteDeadline(time.Now().Add(refusalTimeout))
	fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s: %s\r\nRetry-After: %d\r\nConnection: close\r\n\r\n%s",
		o.status, http.StatusText(o.status), contentText[0], len(reason), codeHeader, o.code, o.retryAfter, reason)
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
