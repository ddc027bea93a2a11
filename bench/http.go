package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Connections of the HTTP series.
const (
	httpConns    = 256
	messageConns = 16 // with one message in flight on each
	streamConns  = 8  // with streamWindow of them
)

// Rates of the latency series, in requests a second.
const (
	ourRate     = 20_000
	tesseraRate = 12_000 // near what it can do
	proofRate   = 15_000
)

// waitFor polls a path until it is answered with 200.
func (s *server) waitFor(path string, most time.Duration) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for time.Since(s.started) < most {
		response, err := client.Get("http://" + s.addr.String() + path)
		if err == nil {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(response.Status)
		}
		last = err
		time.Sleep(500 * time.Microsecond)
	}
	return last
}

// side is one of those that are measured alternately over HTTP.
type side struct {
	name       string
	serve      func() (*server, error)
	kind       string
	ours, peer []string // rows that its rate counts for
}

// freshLog serves an empty log of ours.
func (b *bench) freshLog() (*server, error) {
	dir := b.newDir("log")
	if err := b.initLog(dir); err != nil {
		return nil, err
	}
	return b.serveLog(dir)
}

func (b *bench) freshTessera() (*server, error) { return b.serveTessera(b.newDir("tessera")) }

// freshEmpty serves a handler that does nothing.
func (b *bench) freshEmpty() (*server, error) { return b.serveRole(job{Role: roleEmpty}) }

// loadOn runs a load against a server.
func (b *bench) loadOn(s *server, j job) (report, error) {
	j.Role, j.Addr, j.Watch, j.Shape = roleLoad, s.addr.String(), s.pid, b.shape
	if j.Conns == 0 {
		j.Conns = httpConns
	}
	if j.Measure == 0 {
		j.Warm, j.Measure = b.warm(), b.window()
	}
	if j.Kind == kindProof {
		key, err := receiptKey(s.dir)
		if err != nil {
			return report{}, err
		}
		j.KeyFile = hex.EncodeToString(key)
	}
	return b.role(j)
}

// series serves, loads and stops.
func (b *bench) series(serve func() (*server, error), j job) (r report, err error) {
	s, err := serve()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return b.loadOn(s, j)
}

// adds measures single entries over HTTP.
func (b *bench) adds() error {
	for range b.rounds() {
		for _, s := range []side{
			{name: "ours, POST /add", serve: b.freshLog, kind: kindAdd, ours: []string{rowAdd, rowAddEmpty}},
			{name: "Tessera's server, POST /add", serve: b.freshTessera, kind: kindAdd, peer: []string{rowAdd}},
			{name: "empty handler, POST /add", serve: b.freshEmpty, kind: kindEmpty, peer: []string{rowAddEmpty}},
		} {
			r, err := b.series(s.serve, job{Kind: s.kind})
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			b.note(s.name, r, fmt.Sprintf("%s requests/s, p50 %v, p99 %v", figure(r.rate()), r.P50, r.P99))
			b.add(r.rate(), s.ours, s.peer)
		}
	}
	return nil
}

// messages measures many entries in one message.
func (b *bench) messages() error {
	for range b.rounds() {
		for _, s := range []struct {
			kind, row string
			conns     int
		}{{kindBatch, rowAddBatch, messageConns}, {kindStream, rowAddStream, streamConns}} {
			if !b.wants(s.row) || b.result(s.row).missing != "" {
				continue
			}
			if err := b.message(s.row, job{Kind: s.kind, Conns: s.conns}); err != nil {
				return fmt.Errorf("%s: %w", s.row, err)
			}
		}
	}
	return nil
}

func (b *bench) message(row string, j job) (err error) {
	s, err := b.freshLog()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if j.Kind == kindStream && !s.has("/add-stream") {
		b.result(row).missing = "not available"
		return nil
	}
	r, err := b.loadOn(s, j)
	if err != nil {
		return err
	}
	b.note("ours, POST /add-"+j.Kind, r, fmt.Sprintf("%s entries/s, p50 %v, p99 %v a message", figure(r.rate()), r.P50, r.P99))
	b.add(r.rate(), []string{row}, nil)
	return nil
}

// has reports whether a server knows a path for POST.
func (s *server) has(path string) bool {
	response, err := http.Post("http://"+s.addr.String()+path, "", nil)
	if err != nil {
		return false
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	return response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusMethodNotAllowed
}

// proves reports whether a server answers an append with a proof.
func (s *server) proves() bool {
	response, err := http.Post("http://"+s.addr.String()+"/add?proof=receipt", "", strings.NewReader("does it prove?"))
	if err != nil {
		return false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return err == nil && bytes.HasPrefix(text, proofHeader)
}

// latency measures how long single entries take at a steady rate, and notes what
// a handler that does nothing takes at ours: the machine allows no less.
func (b *bench) latency() error {
	for range b.rounds() {
		for _, s := range []struct {
			name, kind string
			serve      func() (*server, error)
			rate       float64
		}{
			{"ours", kindAdd, b.freshLog, ourRate},
			{"Tessera's server", kindAdd, b.freshTessera, tesseraRate},
			{"empty handler", kindEmpty, b.freshEmpty, ourRate},
		} {
			r, err := b.series(s.serve, job{Kind: s.kind, Rate: s.rate})
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			b.note(fmt.Sprintf("%s at %s/s", s.name, figure(s.rate)), r, fmt.Sprintf("p50 %v, p99 %v, %s answered/s, %.0f late at the end", r.P50, r.P99, figure(r.rate()), r.Value))
			if s.kind == kindEmpty {
				continue
			}
			b.addSide(s.rate == ourRate, inMillis(r.P50), rowLatency50)
			b.addSide(s.rate == ourRate, inMillis(r.P99), rowLatency99)
		}
	}
	return nil
}

func inMillis(d time.Duration) float64 { return d.Seconds() * 1000 }

// proofs measures appends that are answered with a proof.
func (b *bench) proofs() error {
	for range b.rounds() {
		for _, s := range []struct {
			row   string
			rate  float64
			value func(report) float64
		}{
			{rowProof, 0, report.rate},
			{rowProof99, proofRate, func(r report) float64 { return inMillis(r.P99) }},
		} {
			if !b.wants(s.row) {
				continue
			}
			if err := b.proof(s.row, s.rate, s.value); err != nil {
				return fmt.Errorf("%s: %w", s.row, err)
			}
		}
	}
	return nil
}

func (b *bench) proof(row string, rate float64, value func(report) float64) (err error) {
	s, err := b.freshLog()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if !s.proves() {
		b.result(row).missing = "not available"
		return nil
	}
	r, err := b.loadOn(s, job{Kind: kindProof, Rate: rate})
	if err != nil {
		return err
	}
	b.note("ours, with proof", r, fmt.Sprintf("%s requests/s, p50 %v, p99 %v, %.0f late at the end", figure(r.rate()), r.P50, r.P99, r.Value))
	b.add(value(r), []string{row}, nil)
	return nil
}

// tiles measures reads of full tiles that the server has in its caches.
func (b *bench) tiles() error {
	const size = 100_000
	tiles := job{Kind: kindTiles, Tiles: size / 256}
	ours, theirs := b.newDir("log"), b.newDir("tessera")
	if err := b.initLog(ours); err != nil {
		return err
	}
	for _, j := range []job{
		{Engine: engineLog, Dir: ours, Callers: batchCallers, Batch: batchEntries},
		{Engine: engineTessera, Dir: theirs, Callers: singleCallers},
	} {
		j.Role, j.Shape, j.Until = roleSaturate, plain, size
		if _, err := b.role(j); err != nil {
			return err
		}
	}
	for range b.rounds() {
		for _, s := range []side{
			{name: "ours, tiles", serve: func() (*server, error) { return b.serveLog(ours) }, ours: []string{rowTiles, rowTilesMemory}},
			{name: "http.FileServer, Tessera's tiles", serve: func() (*server, error) { return b.serveRole(job{Role: roleFiles, Dir: theirs}) }, peer: []string{rowTiles}},
			{name: "memory handler", serve: func() (*server, error) { return b.serveRole(job{Role: roleMemory}) }, peer: []string{rowTilesMemory}},
		} {
			r, err := b.series(s.serve, tiles)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			b.note(s.name, r, fmt.Sprintf("%s requests/s, p50 %v, p99 %v", figure(r.rate()), r.P50, r.P99))
			b.add(r.rate(), s.ours, s.peer)
		}
	}
	return nil
}
