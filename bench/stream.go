package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// streamWindow is how many messages of a stream are without an answer at most:
// less than the server's own bound, so that it is the log that is waited for.
const streamWindow = 8

// loadStream sends messages of entries over POST /add-stream and reports the
// entries whose messages were answered in the measured time. Messages are large
// and few, so ordinary goroutines and connections do.
func loadStream(j job) (r report, err error) {
	var (
		next     atomic.Uint64
		answered atomic.Int64
		stop     = make(chan struct{})
		wg       sync.WaitGroup
		mu       sync.Mutex // guards errs, latencies, seen
		errs     error
		took     []time.Duration
		seen     indexes
	)
	for range j.Conns {
		wg.Go(func() {
			s := streamer{job: j, next: &next, answered: &answered, stop: stop}
			err := s.run()
			mu.Lock()
			defer mu.Unlock()
			took = append(took, s.took...)
			for _, index := range s.indexes {
				err = errors.Join(err, seen.add(index))
			}
			errs = errors.Join(errs, err)
		})
	}
	time.Sleep(j.Warm)
	watch, start, first := watchCPU(j.Watch), time.Now(), answered.Load()
	time.Sleep(j.Measure)
	r.Operations, r.Elapsed = (answered.Load()-first)*batchEntries, time.Since(start)
	r.CPU = watch.stop()
	close(stop)
	wg.Wait()
	r.P50, r.P99 = percentile(took, 50), percentile(took, 99)
	return r, errs
}

// streamer is one stream: run owns it, and receive owns took and indexes.
type streamer struct {
	job      job
	next     *atomic.Uint64
	answered *atomic.Int64
	stop     <-chan struct{}

	sent    chan time.Time // of messages without an answer
	took    []time.Duration
	indexes [][]byte // of the first entry of each message
}

// run opens a stream, sends until it is to stop, and waits for its end.
func (s *streamer) run() error {
	conn, err := net.Dial("tcp4", s.job.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /add-stream HTTP/1.1\r\nHost: bench.example\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		return err
	}
	s.sent = make(chan time.Time, streamWindow)
	received := make(chan error, 1)
	go func() {
		err := s.receive(conn)
		if err != nil {
			conn.Close() // the sender finds out
		}
		received <- err
	}()
	err = s.send(conn)
	close(s.sent)
	if receiveErr := <-received; receiveErr != nil {
		return receiveErr
	}
	return err
}

// send sends messages, each in a chunk of its own, and the end of the stream.
func (s *streamer) send(conn net.Conn) error {
	fill := newFiller(s.job.Shape)
	var frames []byte
	for range batchEntries {
		frames = binary.BigEndian.AppendUint16(frames, uint16(s.job.Shape.Entry))
		frames = append(frames, fill.data(s.job.Shape.Entry)...)
	}
	chunk := fmt.Appendf(nil, "%x\r\n", 4+len(frames))
	chunk = binary.BigEndian.AppendUint32(chunk, uint32(len(frames)))
	first := len(chunk) + 2
	chunk = append(append(chunk, frames...), "\r\n"...)
	for {
		select {
		case <-s.stop:
			_, err := io.WriteString(conn, "0\r\n\r\n")
			return err
		case s.sent <- time.Now():
		}
		number := s.next.Add(batchEntries) - batchEntries
		for i := range batchEntries {
			numbered(chunk[first+i*(2+s.job.Shape.Entry):], number+uint64(i))
		}
		if _, err := conn.Write(chunk); err != nil {
			return err
		}
	}
}

// receive reads an answer for every message, and the end.
func (s *streamer) receive(conn net.Conn) error {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	want := fmt.Sprintf(" %d\n", batchEntries)
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("reading an answer: %w", err)
		}
		if line == "end\n" {
			break
		}
		index, ok := strings.CutSuffix(line, want)
		if !ok {
			return fmt.Errorf("answer %q", line)
		}
		s.indexes = append(s.indexes, slices.Clone([]byte(index)))
		sent, ok := <-s.sent
		if !ok {
			return errors.New("more answers than messages")
		}
		s.took = append(s.took, time.Since(sent))
		s.answered.Add(1)
	}
	if _, ok := <-s.sent; ok {
		return errors.New("stream ended before all messages were answered")
	}
	return nil
}
