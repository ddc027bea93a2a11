package witness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// Limits of the HTTP server. A request is at most 128 KiB and is answered in
// milliseconds, so what takes longer is a slow or hostile client.
const (
	maxConnections    = 1024
	maxHeaderBytes    = 16 << 10
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second // header and body
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute // logs come back every few seconds or minutes
	shutdownTimeout   = 10 * time.Second
)

// Server serves a witness over HTTP/1.1, in the clear or over TLS.
type Server struct {
	Handler http.Handler
	// TLS is nil for a listener on loopback or behind a proxy. Requests and answers
	// are signed and public: what TLS adds is that nobody on the way learns or
	// stops them one by one.
	TLS    *tls.Config
	Logger *slog.Logger // required
}

// Serve answers requests on a listener until ctx ends, then lets those in
// progress finish. It closes the listener.
func (s Server) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler,
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
	}
	// The limit is below TLS, so that handshakes count too; they have to be over
	// within readHeaderTimeout.
	ln = netutil.LimitListener(ln, maxConnections)
	if s.TLS != nil {
		ln = tls.NewListener(ln, s.TLS)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	// A fresh context: the one that has ended would cut off what is in progress.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(stop)
	if err != nil {
		err = errors.Join(fmt.Errorf("shutting down: %w", err), server.Close())
	}
	<-served // http.ErrServerClosed
	return err
}
