package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tallystick/tallystick/logserver"
)

// Server answers for a running log.
type Server struct {
	Log *logserver.Log
	// Files are those beside the store that belong to a backup; nil means that
	// there are none.
	Files BackupFiles
	// Rotate makes a step of a rotation; nil means that the log's keys are not
	// rotated by its operator's command.
	Rotate func(RotateRequest) ([]logserver.KeyInfo, error)

	// rotating is held while a key and its files change.
	rotating sync.Mutex
}

// stopTimeout bounds how long the answers of operations that were ended take.
const stopTimeout = 5 * time.Second

// Start answers at the socket of a store, whose lock the caller holds, until the
// function that it returns is called. That ends operations and waits for them;
// call it before the log is closed.
func (s *Server) Start(store string, logger *slog.Logger) (stop func(), err error) {
	ln, err := listen(store)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/fsck", operation(s.fsck))
	mux.HandleFunc("POST /v1/backup", operation(s.backup))
	mux.HandleFunc("POST /v1/rotate-key", operation(s.rotate))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: stopTimeout,
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
		cancel()
		stopping, end := context.WithTimeout(context.Background(), stopTimeout)
		defer end()
		if err := server.Shutdown(stopping); err != nil {
			server.Close()
		}
		<-served
	}, nil
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.Log.Status())
}

func (s *Server) fsck(ctx context.Context, r FsckRequest, progress func(done, total int64)) (any, error) {
	return s.Log.Fsck(ctx, r.Options(progress))
}

func (s *Server) backup(ctx context.Context, r BackupRequest, progress func(done, total int64)) (any, error) {
	o, err := r.Options(s.Files, progress)
	if err != nil {
		return nil, err
	}
	return s.Log.Backup(ctx, o)
}

func (s *Server) rotate(_ context.Context, r RotateRequest, _ func(done, total int64)) (any, error) {
	if s.Rotate == nil {
		return nil, errors.New("the keys of this log are named in its cluster's membership log, and change there")
	}
	s.rotating.Lock()
	defer s.rotating.Unlock()
	return s.Rotate(r)
}

// operation makes a handler of something that takes a request, reports progress
// and ends with a result.
func operation[T any](run func(ctx context.Context, request T, progress func(done, total int64)) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request T
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
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
				_ = enc.Encode(message{Done: done, Total: total})
				_ = out.Flush()
			}
		})
		last := message{}
		if err == nil {
			last.Result, err = json.Marshal(result)
		}
		if err != nil {
			last = message{Error: err.Error()}
		}
		_ = enc.Encode(last)
	}
}
