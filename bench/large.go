package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// large measures what depends on the size of the log: it fills one log and then
// restarts, kills, loads and reads it.
func (b *bench) large() error {
	size, small := int64(10_000_000), int64(100_000)
	if b.quick {
		size, small = 200_000, 20_000
	}
	dir := b.newDir("large")
	if err := b.initLog(dir); err != nil {
		return err
	}
	fill := job{Role: roleSaturate, Engine: engineLog, Dir: dir, Shape: b.shape, Callers: batchCallers, Batch: batchEntries, Until: size, Settle: true}
	r, err := b.role(fill)
	if err != nil {
		return err
	}
	b.note("filling "+figure(float64(size)), r, fmt.Sprintf("%s entries/s, peak memory %.0f MiB", figure(r.rate()), r.Value))
	used, err := diskUsage(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	b.add(float64(used)/float64(size), []string{rowDisk}, nil)

	for _, step := range []struct {
		rows []string
		run  func() error
	}{
		{[]string{rowInclusionHot, rowInclusionCold}, func() error { return b.inclusions(dir) }},
		{[]string{rowStartClean, rowSignClean}, func() error { return b.starts(dir) }},
		{[]string{rowMemory}, func() error { return b.memory(dir) }},
		{[]string{rowStartKilled, rowSignKilled}, func() error { return b.kills(dir) }},
		{[]string{rowGrown}, func() error { return b.grown(dir, small, rowGrown, singleCallers, 0) }},
		{[]string{rowGrownBatch}, func() error { return b.grown(dir, small, rowGrownBatch, batchCallers, batchEntries) }},
	} {
		wanted := false
		for _, name := range step.rows {
			wanted = wanted || b.wants(name)
		}
		if !wanted {
			continue
		}
		if err := step.run(); err != nil {
			return err
		}
	}
	return nil
}

// inclusions measures how fast proofs are made.
func (b *bench) inclusions(dir string) error {
	for range b.rounds() {
		for _, s := range []struct {
			row     string
			indexes int
		}{{rowInclusionHot, hotIndexes}, {rowInclusionCold, randomIndexes}} {
			r, err := b.role(job{Role: roleInclusion, Dir: dir, Proofs: s.indexes, Warm: b.warm() / 3, Measure: b.window() / 2}, oneCore)
			if err != nil {
				return err
			}
			b.note(s.row, r, figure(r.rate())+" proofs/s")
			b.add(r.rate(), []string{s.row}, nil)
		}
	}
	return nil
}

// start starts the server on a log and adds to two rows how long it took, from
// exec, until it served a read and until a checkpoint covered a new entry.
func (b *bench) start(dir, read, signed string) (*server, error) {
	s, err := b.serveLog(dir) // returns as soon as the checkpoint is served
	if err != nil {
		return nil, err
	}
	toRead := time.Since(s.started)
	toSign, err := s.firstSignature()
	if err != nil {
		return nil, errors.Join(err, s.kill())
	}
	fmt.Printf("  %-34s %v to serving reads, %v to a checkpoint with a new entry\n", read, toRead.Round(time.Millisecond), toSign.Round(time.Millisecond))
	b.add(inMillis(toRead), []string{read}, nil)
	b.add(inMillis(toSign), []string{signed}, nil)
	return s, nil
}

// firstSignature appends an entry and waits until the published checkpoint
// covers it; it returns the time since the server was started.
func (s *server) firstSignature() (time.Duration, error) {
	url := "http://" + s.addr.String()
	entry := fmt.Sprintf("started %d at %v", s.pid, time.Now())
	response, err := http.Post(url+"/add", "", strings.NewReader(entry))
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("POST /add: %s: %q (%v)", response.Status, text, err)
	}
	var index int64
	if _, err := fmt.Sscan(string(text), &index); err != nil {
		return 0, err
	}
	for time.Since(s.started) < time.Minute {
		response, err := http.Get(url + "/checkpoint")
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return 0, err
		}
		body, _, _ := strings.Cut(string(text), "\n\n")
		c, err := checkpoint.Parse([]byte(body + "\n"))
		if err != nil {
			return 0, err
		}
		if c.Size > index {
			return time.Since(s.started), nil
		}
		time.Sleep(time.Millisecond)
	}
	return 0, errors.New("no checkpoint covered a new entry within a minute")
}

// starts measures starts after a clean stop.
func (b *bench) starts(dir string) error {
	for range b.rounds() {
		s, err := b.start(dir, rowStartClean, rowSignClean)
		if err != nil {
			return err
		}
		if err := s.stop(); err != nil {
			return err
		}
	}
	return nil
}

// memory measures the largest resident size of a server that takes single
// entries and then messages of many.
func (b *bench) memory(dir string) (err error) {
	s, err := b.serveLog(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for _, j := range []job{{Kind: kindAdd, Conns: httpConns}, {Kind: kindBatch, Conns: messageConns}} {
		j.Warm, j.Measure = b.warm(), 2*b.window()
		r, err := b.loadOn(s, j)
		if err != nil {
			return err
		}
		peak, err := memoryPeak(s.pid)
		if err != nil {
			return err
		}
		b.note("ours at 10 M, "+j.Kind, r, fmt.Sprintf("%s entries/s, peak memory %.0f MiB", figure(r.rate()), peak))
		b.result(rowMemory).ours = series{peak}
	}
	return nil
}

// kills measures starts after the server was killed under load.
func (b *bench) kills(dir string) error {
	s, err := b.serveLog(dir)
	if err != nil {
		return err
	}
	for range b.rounds() {
		ended := make(chan error, 1)
		victim := s
		go func() {
			_, err := b.loadOn(victim, job{Kind: kindBatch, Conns: messageConns, Warm: b.warm(), Measure: time.Hour})
			ended <- err
		}()
		wait(b.ctx, b.warm()+b.window()/2)
		if err := s.kill(); err != nil {
			return err
		}
		if err := <-ended; err == nil {
			return errors.New("the load did not notice that the server was killed")
		}
		if s, err = b.start(dir, rowStartKilled, rowSignKilled); err != nil {
			return err
		}
	}
	return s.stop()
}

// grown measures appends to the large log and to small ones.
func (b *bench) grown(dir string, small int64, row string, callers, batch int) error {
	measure := job{Role: roleSaturate, Engine: engineLog, Shape: b.shape, Callers: callers, Batch: batch, Warm: b.warm(), Measure: b.window()}
	for range b.rounds() {
		fresh := b.newDir("small")
		if err := b.initLog(fresh); err != nil {
			return err
		}
		if _, err := b.role(job{Role: roleSaturate, Engine: engineLog, Dir: fresh, Shape: b.shape, Callers: batchCallers, Batch: batchEntries, Until: small}); err != nil {
			return err
		}
		for _, d := range []string{dir, fresh} {
			measure.Dir = d
			r, err := b.role(measure)
			if err != nil {
				return err
			}
			name := "large: " + row
			if d == fresh {
				name = "small: " + row
			}
			b.note(name, r, figure(r.rate())+" entries/s")
			if r.Scan > time.Second {
				fmt.Printf("  %-36s %v, %s entries/s meanwhile\n", "its keys were scanned in", r.Scan.Round(time.Millisecond),
					figure(float64(r.ScanOperations)/r.Scan.Seconds()))
			}
			b.addSide(d == dir, r.rate(), row)
		}
	}
	return nil
}
