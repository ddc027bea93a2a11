package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/node"
)

// serveStatus answers /healthz and /metrics until stop is called. It works while
// the node drains.
func serveStatus(c serveConfig, n *node.Node, stderr io.Writer) (stop func(), err error) {
	metrics := prometheus.NewRegistry()
	if err := metrics.Register(node.NewCollector(n)); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { health(w, n.Status()) })
	ln, err := wiring.Listen(c.listen, c.addrFile, stderr)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // ends when it is closed
	}()
	return func() {
		_ = srv.Close()
		<-done
	}, nil
}

// health says in a line each what is wrong.
func health(w http.ResponseWriter, s node.Status) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if s.Healthy() {
		fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	if s.Draining {
		fmt.Fprintln(w, "draining: nothing new is taken")
	}
	for _, p := range s.Codes() {
		fmt.Fprintf(w, "%s: %s\n", p, s.Problems[p])
	}
}
