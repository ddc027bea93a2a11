package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/logclient"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// worker is one connection. Its goroutine owns entries and buffer; in the mode
// Stream that of the sender.
type worker struct {
	load    *Load
	entries [][]byte
	buffer  []byte

	mu      sync.Mutex
	latency *hdrhistogram.Histogram // from due to answered, in microseconds
	service *hdrhistogram.Histogram // from sent to answered
}

func newWorker(l *Load) *worker {
	return &worker{load: l, latency: newHistogram(), service: newHistogram()}
}

// make returns the entries of a message; the next call overwrites them.
func (w *worker) make(m message) [][]byte {
	w.buffer, w.entries = w.buffer[:0], w.entries[:0]
	size := w.load.options.EntrySize
	for i := range m.count {
		w.buffer = w.load.appendEntry(w.buffer, m.first+int64(i))
	}
	for i := range m.count {
		w.entries = append(w.entries, w.buffer[i*size:(i+1)*size:(i+1)*size])
	}
	return w.entries
}

// requests sends messages one after the other.
func (w *worker) requests(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		m, ok := w.load.take(ctx, timer)
		if !ok {
			return
		}
		// What is under way when ctx ends is finished: it may be in the log.
		request, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.load.options.Timeout)
		indexes, err := w.send(request, w.make(m))
		cancel()
		if err != nil {
			w.failed(ctx, m, err, timer)
			continue
		}
		for i, index := range indexes {
			w.load.claims.set(m.first+int64(i), index)
		}
		w.answered(m)
	}
}

// send sends entries and returns their indexes.
func (w *worker) send(ctx context.Context, entries [][]byte) ([]int64, error) {
	if w.load.options.Mode == Batch {
		return w.load.client.AddBatch(ctx, entries)
	}
	entry := logclient.Entry{Data: entries[0]}
	if w.load.options.Receipt != nil {
		entry.Proof = logclient.Receipt
	}
	answer, err := w.load.client.Add(ctx, entry)
	if err != nil {
		return nil, err
	}
	if entry.Proof != logclient.NoProof {
		if err := checkReceipt(answer, entries[0], w.load.options.Receipt); err != nil {
			w.load.stats.fault(fmt.Errorf("receipt of index %d: %w", answer.Index, err))
		}
	}
	return []int64{answer.Index}, nil
}

// checkReceipt verifies that a receipt binds the log to the entry.
func checkReceipt(a logclient.Answer, data []byte, key note.Verifier) error {
	p, err := checkpoint.ParseProof(a.Proof)
	if err != nil {
		return err
	}
	n, err := note.Open(p.Checkpoint, note.VerifierList(key))
	if err != nil {
		return err
	}
	c, err := checkpoint.Parse([]byte(n.Text))
	if err != nil {
		return err
	}
	return checkpoint.VerifyInclusion(c.Tree(), p.Index, tlog.RecordHash(data), p.Hashes)
}

// answered counts a message whose entries are in the log.
func (w *worker) answered(m message) {
	now := time.Now()
	w.load.stats.acknowledged.Add(int64(m.count))
	w.mu.Lock()
	defer w.mu.Unlock()
	record(w.latency, now.Sub(m.due))
	record(w.service, now.Sub(m.sent))
}

// failed counts a message that was not answered well, and pauses if the log asks
// for that and nothing else paces the load.
func (w *worker) failed(ctx context.Context, m message, err error, timer *time.Timer) {
	var pause time.Duration
	became := int64(unknown)
	var refusal *logclient.Error
	if errors.As(err, &refusal) {
		became = refused
		w.load.stats.refusals.add(refusal.Code, refusal.Status, int64(m.count))
		if refusal.Status == http.StatusServiceUnavailable || refusal.Status == http.StatusTooManyRequests {
			w.load.stats.pushback.Add(int64(m.count))
			pause = refusal.RetryAfter
		} else {
			w.load.stats.refused.Add(int64(m.count))
			pause = time.Second // it will hardly be taken at once
		}
	} else {
		w.load.stats.unknown.Add(int64(m.count))
		w.load.stats.remember(err)
		pause = unreachablePause
	}
	for i := range m.count {
		w.load.claims.set(m.first+int64(i), became)
	}
	if w.load.options.Rate > 0 || pause <= 0 {
		return
	}
	pause = min(pause, maxPause)
	if ends := w.load.ends; !ends.IsZero() {
		pause = max(0, min(pause, time.Until(ends)))
	}
	timer.Reset(pause)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// maxPause bounds the pause that a log can ask for: it must not be able to keep a
// load from ending.
const maxPause = 30 * time.Second

// unreachablePause keeps a log that is away from being asked in a tight loop.
const unreachablePause = 100 * time.Millisecond

// stream sends messages over streams, one after the other: the next is opened
// when the last one was ended by the log.
func (w *worker) stream(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		m, ok := w.load.take(ctx, timer)
		if !ok {
			return
		}
		if err := w.oneStream(ctx, m, timer); err == nil {
			return
		}
	}
}

// oneStream sends messages, the first of which is given, over one stream. It
// returns nil when there are no more, and otherwise why the stream ended.
func (w *worker) oneStream(ctx context.Context, m message, timer *time.Timer) error {
	session, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	patience := time.AfterFunc(w.load.options.Timeout, cancel)
	s, err := w.load.client.Stream(session)
	patience.Stop()
	if err != nil {
		w.failed(ctx, m, err, timer)
		return err
	}
	defer s.Close()
	// Who waits for an answer, in order; its capacity bounds what is on the way.
	waiting := make(chan message, w.load.options.InFlight-1)
	received := make(chan error, 1)
	go func() {
		err := w.receive(s, waiting, cancel)
		if err != nil {
			cancel() // nothing reads any more what is being sent
		}
		received <- err
	}()
	for ok := true; ok; m, ok = w.load.take(ctx, timer) {
		select {
		case waiting <- m:
		case err := <-received: // the log ended the stream
			return w.lost(ctx, m, waiting, err, timer)
		}
		if err := s.Send(w.make(m)); err != nil {
			break // the receiver knows more
		}
	}
	close(waiting)
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := <-received; err != nil {
		return w.lost(ctx, message{}, waiting, err, timer)
	}
	return nil
}

// receive takes the answers until there is nothing to wait for. An answer that
// does not come in time ends the stream.
func (w *worker) receive(s *logclient.Stream, waiting <-chan message, cancel func()) error {
	for m := range waiting {
		patience := time.AfterFunc(w.load.options.Timeout, cancel)
		first, count, err := s.Receive()
		patience.Stop()
		if err == nil && count != m.count {
			err = fmt.Errorf("a message of %d entries was answered for %d", m.count, count)
		}
		if err != nil {
			w.unknown(m, err)
			return err
		}
		for i := range m.count {
			w.load.claims.set(m.first+int64(i), first+int64(i))
		}
		w.answered(m)
	}
	patience := time.AfterFunc(w.load.options.Timeout, cancel)
	defer patience.Stop()
	if _, _, err := s.Receive(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("end of a stream: %w", err)
	}
	return nil
}

// lost counts what was on the way when a stream ended: nobody knows what became
// of it. The message m was not sent, if it has entries.
func (w *worker) lost(ctx context.Context, m message, waiting <-chan message, err error, timer *time.Timer) error {
	for {
		select {
		case on, ok := <-waiting:
			if ok {
				w.unknown(on, err)
				continue
			}
		default:
		}
		if m.count > 0 {
			w.unknown(m, err)
		}
		w.failed(ctx, message{}, err, timer) // for the pause
		return err
	}
}

func (w *worker) unknown(m message, err error) {
	var refusal *logclient.Error
	if errors.As(err, &refusal) {
		w.load.stats.refusals.add(refusal.Code, refusal.Status, int64(m.count))
	} else {
		w.load.stats.remember(err)
	}
	w.load.stats.unknown.Add(int64(m.count))
	for i := range m.count {
		w.load.claims.set(m.first+int64(i), unknown)
	}
}
