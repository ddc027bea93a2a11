package logserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/tallystick/tallystick/logserver/internal/direct"
)

// Limits of the HTTP server. They keep slow and idle clients from holding
// memory and connections.
const (
	maxConnections = 8192
	maxStreams     = 256 // concurrent requests of one HTTP/2 connection
	maxHeaderBytes = 16 << 10
	// readTimeout is for the headers and body of a request; handlers that take
	// large bodies extend it. Two timeouts would cost every request a timer.
	readTimeout     = 10 * time.Second
	writeTimeout    = time.Minute // a bundle of 16 MB over a slow line
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 10 * time.Second
	// What an HTTP/2 connection, and a request on it, may send before a handler
	// reads it, in bytes: enough for one of the largest entries.
	connReceiveBuffer   = 256 << 10
	streamReceiveBuffer = 128 << 10
	// maxReadFrame is the least that HTTP/2 allows: a connection has memory for a
	// frame as soon as it is announced, and keeps it.
	maxReadFrame = 16 << 10
	// stalledTimeout ends an HTTP/2 connection whose client takes no byte of what
	// is there for it: until then no stream of it ends either.
	stalledTimeout = 30 * time.Second
)

// Serve answers HTTP/1.1 and unencrypted HTTP/2 requests on a listener until
// ctx ends, then lets those in progress finish; append streams end after the
// messages that have arrived. Some ten seconds later it returns in any case, also if
// the log's disk hangs; then with an error. It closes the listener.
func Serve(ctx context.Context, ln net.Listener, handler http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler:        handler,
		MaxHeaderBytes: maxHeaderBytes,
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		Protocols:      new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxReadFrame,
			WriteByteTimeout:              stalledTimeout,
			MaxReceiveBufferPerConnection: connReceiveBuffer,
			MaxReceiveBufferPerStream:     streamReceiveBuffer,
		},
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), serverStop{}, ctx)
		},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	files := openFileLimit()
	limit := connectionLimit(files, 1)
	if limit < maxConnections {
		logger.Warn("few files may be open: raise the limit to serve more connections", "files", files, "connections", limit)
	}
	limited := direct.Limit(ln, limit, tooManyConnections())
	defer limited.Wait()
	ln = limited
	stopDirect := func(context.Context) error { return nil }
	if h := appendHandler(handler); h != nil {
		l := direct.NewListener(limited, plainAppends{h.log}, direct.Timeouts{Read: readTimeout, Write: writeTimeout, Idle: idleTimeout})
		ln, stopDirect = l, l.Stop
		go l.Run()
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serving: %w", err), stopDirect(ctx))
	case <-ctx.Done():
	}
	// A fresh context: the one that has ended would cut off what is in progress.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- stopDirect(stop) }()
	err := errors.Join(server.Shutdown(stop), <-stopped)
	if err != nil {
		err = errors.Join(fmt.Errorf("shutting down: %w", err), server.Close())
	}
	<-served // http.ErrServerClosed
	return err
}

// appendHandler returns what Handler made, or nil: only its appends can be
// answered directly.
func appendHandler(h http.Handler) *handler {
	if h, ok := h.(*handler); ok && h.writes {
		return h
	}
	return nil
}

// serverStop is the key under which the context of a request under Serve has
// the context that ends when the server is to stop.
type serverStop struct{}

// onServerStop arranges for f to be called when the server of a request is to
// stop, if it runs under Serve. The function that it returns cancels that, or
// waits until f has returned.
func onServerStop(ctx context.Context, f func()) (unhook func()) {
	server, ok := ctx.Value(serverStop{}).(context.Context)
	if !ok {
		return func() {}
	}
	called := make(chan struct{})
	cancel := context.AfterFunc(server, func() {
		defer close(called)
		f()
	})
	return func() {
		if !cancel() {
			<-called
		}
	}
}
