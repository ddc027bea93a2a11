package direct

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// MaxRefusing is how many connections beyond the limit are open at most to be
// refused. It bounds goroutines and descriptors that are not counted as open.
const MaxRefusing = 64

const (
	// hearTimeout is how long a connection too many is waited for to say something.
	hearTimeout = 250 * time.Millisecond
	// refusalTimeout bounds the sending of a refusal.
	refusalTimeout = time.Second
)

// Limited lets at most so many connections be open at once. Those beyond are
// refused, in HTTP/1.1, and closed: waiting in the kernel they would time out
// without knowing why. Its connections spare net/http some work: see lazyConn.
type Limited struct {
	net.Listener
	max     int64
	open    atomic.Int64
	refusal []byte

	refusing struct {
		sync.Mutex
		n     int            // goroutines, at most MaxRefusing
		ended bool           // there will be no more
		done  sync.WaitGroup // counts them
	}
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

// refuse has a goroutine answer and close a connection too many. When there are
// too many of those as well, it does so itself, without having read anything and
// without waiting: the answer fits into the socket's buffer.
func (l *Limited) refuse(conn net.Conn) {
	if !l.beginRefusing() {
		l.sendRefusal(conn)
		conn.Close()
		return
	}
	go func() {
		defer l.endRefusing()
		defer conn.Close()
		// A client takes an answer that comes before its request for a fault of the
		// connection, and may lose one that is followed by a reset: see linger.
		conn.SetReadDeadline(time.Now().Add(hearTimeout))
		conn.Read(make([]byte, 1))
		if l.sendRefusal(conn) {
			linger(conn)
		}
	}()
}

func (l *Limited) beginRefusing() bool {
	l.refusing.Lock()
	defer l.refusing.Unlock()
	if l.refusing.ended || l.refusing.n == MaxRefusing {
		return false
	}
	l.refusing.n++
	l.refusing.done.Add(1)
	return true
}

func (l *Limited) endRefusing() {
	l.refusing.Lock()
	defer l.refusing.Unlock()
	l.refusing.n--
	l.refusing.done.Done()
}

func (l *Limited) sendRefusal(conn net.Conn) bool {
	conn.SetWriteDeadline(time.Now().Add(refusalTimeout))
	_, err := conn.Write(l.refusal)
	return err == nil
}

// Wait waits until the connections that are being refused are closed, which takes
// two seconds at most. Close comes first.
func (l *Limited) Wait() {
	l.refusing.Lock()
	l.refusing.ended = true
	l.refusing.Unlock()
	l.refusing.done.Wait()
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
