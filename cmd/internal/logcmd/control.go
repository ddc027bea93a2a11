package logcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/tallystick/tallystick/logserver"
)

// controlSocket is where a running server answers the operator's commands: HTTP
// over a Unix socket in the log's directory that only its owner can connect to.
//
//	GET  /v1/status      Status in JSON
//	POST /v1/fsck        body: fsckRequest
//	POST /v1/backup      body: backupRequest
//	POST /v1/rotate-key  body: rotateRequest
//
// Every POST is answered by a stream of messages, one JSON object a line, of
// which the last has a result or an error. An operation ends when its client
// goes away or the server stops. It is no public interface: server and client
// are one program.
const controlSocket = "control.sock"

// message is one line of an answer.
type message struct {
	Done   int64           `json:"done,omitempty"`
	Total  int64           `json:"total,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// maxControlBody bounds a request, which holds a few names and paths.
const maxControlBody = 64 << 10

// controlServer answers for a running log.
type controlServer struct {
	log *logserver.Log
	dir *directory
	// rotating is held while a key and its files change.
	rotating sync.Mutex
}

// listenControl binds the socket. The caller holds the store's lock, so what is
// there was left by a process that has ended.
func listenControl(dir string) (net.Listener, error) {
	path := filepath.Join(dir, controlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var ln net.Listener
	err := throughShortName(path, func(name string) (err error) {
		ln, err = net.Listen("unix", name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // the short name is gone by then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// maxSocketName is what fits into a socket address on every system.
const maxSocketName = 100

// throughShortName calls use with a name of the path that fits into a socket
// address. On Linux a name through the directory's descriptor always does.
func throughShortName(path string, use func(name string) error) error {
	if len(path) <= maxSocketName || runtime.GOOS != "linux" {
		return use(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// serveControl answers until ctx ends; the returned function waits for that.
func serveControl(ctx context.Context, ln net.Listener, c *controlServer, logger *slog.Logger) (wait func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", c.status)
	mux.HandleFunc("POST /v1/fsck", operation(c.fsck))
	mux.HandleFunc("POST /v1/backup", operation(c.backup))
	mux.HandleFunc("POST /v1/rotate-key", operation(c.rotate))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:    slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("the control socket answers no more", "err", err)
		}
	}()
	return func() {
		<-ctx.Done()
		// Operations end with ctx; their answers are short then.
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(stopping); err != nil {
			server.Close()
		}
		<-served
	}
}

func (c *controlServer) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(c.log.Status()); err != nil {
		return // the client has gone away
	}
}

// operation makes a handler of something that takes a request, reports progress
// and ends with a result.
func operation[T any](run func(ctx context.Context, request T, progress func(done, total int64)) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request T
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := dec.Token(); err != io.EOF {
			http.Error(w, "something follows the request", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		// Progress may be told by another goroutine, but not after run.
		out, enc, next := http.NewResponseController(w), json.NewEncoder(w), time.Time{}
		result, err := run(r.Context(), request, func(done, total int64) {
			if now := time.Now(); now.After(next) {
				next = now.Add(100 * time.Millisecond)
				enc.Encode(message{Done: done, Total: total})
				out.Flush()
			}
		})
		last := message{}
		if err == nil {
			last.Result, err = json.Marshal(result)
		}
		if err != nil {
			last = message{Error: err.Error()}
		}
		enc.Encode(last)
	}
}

// controlClient speaks to a running server.
type controlClient struct{ http http.Client }

// dialControl returns a client if a server answers at the socket of a directory.
func dialControl(dir string) *controlClient {
	path := filepath.Join(dir, controlSocket)
	dial := func(ctx context.Context) (conn net.Conn, err error) {
		err = throughShortName(path, func(name string) error {
			conn, err = new(net.Dialer).DialContext(ctx, "unix", name)
			return err
		})
		return conn, err
	}
	probe, err := dial(context.Background())
	if err != nil {
		return nil // nobody listens
	}
	probe.Close()
	return &controlClient{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// status asks for the status.
func (c *controlClient) status(ctx context.Context) (s logserver.Status, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control/v1/status", nil)
	if err != nil {
		return s, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("the server answered %s", res.Status)
	}
	return s, json.NewDecoder(res.Body).Decode(&s)
}

// run has the server do something, and reads its result.
func (c *controlClient) run(ctx context.Context, operation string, request, result any, progress func(done, total int64)) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	reader, writer := io.Pipe()
	go func() { writer.Write(body); writer.Close() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/v1/"+operation, reader)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("the server answered %s: %.200s", res.Status, text)
	}
	for dec := json.NewDecoder(res.Body); ; {
		var m message
		if err := dec.Decode(&m); err != nil {
			return fmt.Errorf("the server stopped before it was done: %w", err)
		}
		switch {
		case m.Error != "":
			return errors.New(m.Error)
		case m.Result != nil:
			return json.Unmarshal(m.Result, result)
		}
		progress(m.Done, m.Total)
	}
}
