package logcmd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
)

// pipeListener hands out one connection that needs no kernel.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// TestReopenCutsOff: a client that does not take its answer keeps no log from being
// opened for writing, and when the server is to stop it is told of.
func TestReopenCutsOff(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ln := &pipeListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
			client, server := net.Pipe()
			ln.conns <- server
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			reopen := make(chan struct{})
			go func() {
				io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				synctest.Wait() // the answer is there to be taken
				if stopped {
					cancel()
				} else {
					close(reopen)
				}
			}()
			handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) })
			logger := slog.New(slog.DiscardHandler)
			again, err := answer(ctx, reopen, logger, func(ctx context.Context) error {
				return logserver.Serve(ctx, ln, handler, logger)
			})
			if again == stopped || (err != nil) != stopped {
				t.Errorf("stopped %v: again %v, %v", stopped, again, err)
			}
			client.Close()
		})
	}
}

// TestListenOnFullDisk: the file with the address keeps nobody from reading a log on
// a full disk.
func TestListenOnFullDisk(t *testing.T) {
	config := serveConfig{listen: "127.0.0.1:0", addrFile: filepath.Join(t.TempDir(), "none", "addr")}
	var stderr bytes.Buffer
	ln, err := listen(config, true, wiring.Logger(&stderr, false), &stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if said := stderr.String(); !strings.Contains(said, "file with the address is not written") || !strings.HasSuffix(said, "listening addr="+ln.Addr().String()+"\n") {
		t.Errorf("it says %s", said)
	}
	if ln, err := listen(config, false, wiring.Logger(&stderr, false), &stderr); err == nil {
		ln.Close()
		t.Error("an address file that cannot be written is no error")
	}

	// An address that is taken has nothing to do with the disk.
	stderr.Reset()
	config.listen = ln.Addr().String()
	if ln, err := listen(config, true, wiring.Logger(&stderr, false), &stderr); err == nil || stderr.Len() > 0 {
		if err == nil {
			ln.Close()
		}
		t.Errorf("an address that is taken: %v, and it says %s", err, &stderr)
	}
}
