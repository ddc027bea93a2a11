package logserver

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// pageRest is for how many times as long as it took to make a page of metrics none
// is made: a page costs as much as hundreds of tiles, and anybody may ask for one.
// maxPageRest is the most: a page may have waited, which costs nobody anything, and
// whoever scrapes gives up after ten seconds by default.
const (
	pageRest    = 4
	maxPageRest = 5 * time.Second
)

// metricsPages makes the page of GET /metrics, one at a time and before anything of
// it is sent. Whoever asks until one is begun gets the same.
type metricsPages struct {
	handler http.Handler

	turn chan struct{} // holds a token while a page is made
	rest time.Time     // no page is begun before; of who makes one

	mu   sync.Mutex // guards next
	next *metricsPage
}

// metricsPage is one page; body, or why there is none, is set when done is closed.
type metricsPage struct {
	done chan struct{}
	body []byte
	err  error
}

func newMetricsPages(l *Log) *metricsPages {
	r := prometheus.NewRegistry()
	r.MustRegister(l.metrics)
	return pagesOf(promhttp.HandlerFor(r, promhttp.HandlerOpts{DisableCompression: true}))
}

func pagesOf(handler http.Handler) *metricsPages {
	return &metricsPages{handler: handler, turn: make(chan struct{}, 1)}
}

// page returns a page that was begun after the call.
func (m *metricsPages) page() ([]byte, error) {
	m.mu.Lock()
	p := m.next
	if p == nil {
		p = &metricsPage{done: make(chan struct{})}
		m.next = p
		go m.make(p)
	}
	m.mu.Unlock()
	<-p.done
	return p.body, p.err
}

func (m *metricsPages) make(p *metricsPage) {
	defer close(p.done)
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	if wait := time.Until(m.rest); wait > 0 {
		<-time.After(wait)
	}
	m.mu.Lock()
	m.next = nil
	m.mu.Unlock()
	start := time.Now()
	var answer memoryWriter
	m.handler.ServeHTTP(&answer, &http.Request{Method: http.MethodGet})
	if p.body = answer.body.Bytes(); answer.status != 0 && answer.status != http.StatusOK {
		p.err = fmt.Errorf("making the page of metrics: %s", bytes.TrimSpace(p.body))
	}
	end := time.Now()
	m.rest = end.Add(min(pageRest*end.Sub(start), maxPageRest))
}
