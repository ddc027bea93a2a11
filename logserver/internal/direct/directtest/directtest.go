// Package directtest has what tests of package direct, and of the log that uses
// it, send.
package directtest

import (
	"fmt"
	"net"
	"strings"
	"sync"
)

// Request is what a client sends.
type Request struct{ Name, Raw string }

// Post returns a request with a body.
func Post(path, headers, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: log.example\r\n%sContent-Length: %d\r\n\r\n%s", path, headers, len(body), body)
}

// Sizes in bytes: the buffer of a connection, what net/http takes for the headers
// of a log's request, and the largest entry.
const (
	buffer = 4 << 10
	header = 16 << 10
	entry  = 1<<16 - 1
)

// Unusual are requests that net/http answers, because they are no plain appends,
// or not spelled as package direct knows them, or wrong, or meant to be taken for
// two requests by one reader and for one by another.
var Unusual = []Request{
	{"read", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"},
	{"head", "HEAD /add HTTP/1.1\r\nHost: x\r\n\r\n"},
	{"batch", Post("/add-batch", "", "\x00\x01a")},
	{"witnessed", Post("/add?proof=witnessed", "", "x")},
	{"unknown query", Post("/add?proof=receipt&", "", "x")},
	{"escaped path", Post("/%61dd", "", "x")},
	{"absolute target", Post("http://x/add", "", "x")},
	{"idempotency key", Post("/add", "Idempotency-Key: k\r\n", "x")},
	{"encoded", Post("/add", "Content-Encoding: gzip\r\n", "x")},
	{"unknown header", Post("/add", "X-Forwarded-For: 192.0.2.1\r\n", "x")},
	{"connection ends", Post("/add", "Connection: close\r\n", "x")},
	{"expectation", Post("/add", "Expect: 100-continue\r\n", "x")},
	{"unknown expectation", Post("/add", "Expect: miracles\r\n", "x")},
	{"upgrade", Post("/add", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "x")},
	{"empty", Post("/add", "", "")},
	{"no length", "POST /add HTTP/1.1\r\nHost: x\r\n\r\n"},
	{"length and chunks", Post("/add", "Transfer-Encoding: chunked\r\n", "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")},
	{"chunks", "POST /add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"},
	{"hidden chunks", Post("/add", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n")},
	{"two lengths", Post("/add", "Content-Length: 3\r\n", "x")},
	{"the same length twice", Post("/add", "Content-Length: 1\r\n", "x")},
	{"list of lengths", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx"},
	{"signed length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx"},
	{"padded length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 01\r\n\r\nx"},
	{"hexadecimal length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\nx"},
	{"absurd length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551617\r\n\r\nx"},
	{"folded header", "POST /add HTTP/1.1\r\nHost: x\r\nAccept: a\r\n Content-Length: 9\r\nContent-Length: 1\r\n\r\nx"},
	{"bare line feeds", "POST /add HTTP/1.1\nHost: x\nContent-Length: 1\n\nx"},
	{"carriage return in a value", Post("/add", "Accept: a\rContent-Length: 9\r\n", "x")},
	{"control character", Post("/add", "Accept: \x00\r\n", "x")},
	{"bytes that are not ASCII", Post("/add", "Accept: \xff\r\n", "x")},
	{"no name", Post("/add", ": x\r\n", "x")},
	{"no colon", Post("/add", "Accept\r\n", "x")},
	{"blank before the colon", Post("/add", "Accept : x\r\n", "x")},
	{"no host", "POST /add HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"},
	{"two hosts", Post("/add", "Host: y\r\n", "x")},
	{"strange host", "POST /add HTTP/1.1\r\nHost: a/b\r\nContent-Length: 1\r\n\r\nx"},
	{"older version", "POST /add HTTP/1.0\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"},
	{"later version", "POST /add HTTP/1.2\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"},
	{"method in lower case", "post /add HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"},
	{"blank line first", "\r\n" + Post("/add", "", "x")},
	{"large head", Post("/add", "Accept: "+strings.Repeat("a", buffer)+"\r\n", "x")},
	{"too large a head", Post("/add", "Accept: "+strings.Repeat("a", 2*header)+"\r\n", "x")},
	{"large entry", Post("/add", "", strings.Repeat("x", buffer))},
	{"largest entry", Post("/add", "", strings.Repeat("x", entry))},
	{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
}

// Pipes accepts connections in memory, on which synctest controls time.
type Pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewPipes returns a listener of pipes.
func NewPipes() *Pipes {
	return &Pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial returns the client's end of a new connection.
func (l *Pipes) Dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// Accept implements net.Listener.
func (l *Pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Pipes) Addr() net.Addr { return &net.TCPAddr{} }
