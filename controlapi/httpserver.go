package controlapi

import (
	"log/slog"
	"net/http"
	"time"
)

const (
	// maxReadFrame is the largest frame of HTTP/2 that is taken, in bytes.
	maxReadFrame = 16 << 10
	// maxStreams is how many calls one HTTP/2 connection may carry at a time.
	maxStreams = 1_000
	// streamWindow is what a client may send on one stream before the handler
	// reads it, in bytes: what one slow round trip needs.
	streamWindow = 128 << 10
)

// NewHTTPServer returns a server for h that speaks HTTP/1.1 and HTTP/2, the
// latter also without TLS, as gRPC clients on loopback do. Its limits are those
// that a handler cannot set: of headers, idle connections and dead peers. The
// caller adds TLS wherever it listens on more than loopback.
func NewHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10, // a token and what proxies add
		HTTP2: &http.HTTP2Config{
			// Quotas bound what a principal may do at once; this bounds a stranger.
			MaxConcurrentStreams: maxStreams,
			// Bodies that wait for their part of the budget must leave those that
			// have it room on the connection, or neither would move.
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: maxStreams * streamWindow,
			// A connection has memory for a frame as soon as it is announced: no
			// more than HTTP/2 asks for.
			MaxReadFrameSize: maxReadFrame,
			// No stream of a connection ends while its client takes no byte.
			WriteByteTimeout: 30 * time.Second,
			// An idle stream to a node that is gone is found within a minute.
			SendPingTimeout: 30 * time.Second,
			PingTimeout:     15 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
