package logserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Bounds of POST /add-stream.
const (
	// maxAppendStreams bounds the streams that are open at once: with their
	// windows they bound memory, and a few keep the log busy.
	maxAppendStreams = 256
	// streamMessages and streamBytes bound what one stream has under way: a
	// client that sends more waits in its socket. One message may be larger.
	streamMessages = 16
	streamBytes    = 4 << 20
	// streamIdle is how long a stream may be silent between two messages.
	streamIdle = 2 * time.Minute
	// messageTimeout bounds how long the bytes of one message, and the sending
	// of one answer, may take.
	messageTimeout = 30 * time.Second
	// pushbackTimeout is how long a message waits for room in the queue. A log
	// that stalls longer says so.
	pushbackTimeout = 30 * time.Second
	// pushbackPoll is how often it tries when no commit tells it to.
	pushbackPoll = 50 * time.Millisecond
)

// stream is one POST /add-stream: messages come in on one goroutine, which owns
// body, entries and leaves, and answers leave on the other, which owns unsent, in
// order.
//
// An answered message is durable. Of a message without an answer nothing is
// known: that is so whether the client, the connection or the log ended the
// stream.
type stream struct {
	log *Log
	rc  *http.ResponseController
	in  io.Reader

	body    *body
	entries []Entry
	leaves  []Hash

	// sent carries messages from the log's queue to the answering goroutine;
	// its capacity bounds them. The last one may carry the error that ended
	// the stream instead. It is closed by the receiving goroutine.
	sent   chan sentMessage
	unsent bool // answers have been written that may not have left
	// underWay counts the bytes of messages without an answer, and drained
	// has a token after it fell.
	underWay atomic.Int64
	drained  chan struct{}
	// stopping says that no further message is wanted; done is closed when no
	// further answer will leave.
	stopping atomic.Bool
	done     chan struct{}
}

// sentMessage is a message that the log has accepted, or why there is none.
type sentMessage struct {
	answer *answer
	first  int // of the message, in the answer's results
	count  int
	bytes  int64
	err    error
}

// addStream serves POST /add-stream.
func (h *handler) addStream(w http.ResponseWriter, r *http.Request) error {
	if err := plainRequest(r); err != nil {
		return err
	}
	if err := h.log.refusal(); err != nil {
		h.log.metrics.refused(err)
		return err
	}
	if h.log.streams.Add(1) > maxAppendStreams {
		h.log.streams.Add(-1)
		return fmt.Errorf("%w: %d streams are open", errBusy, maxAppendStreams)
	}
	defer h.log.streams.Add(-1)
	b, err := newBody(h.log.bodies)
	if err != nil {
		return err
	}
	defer b.release()
	s := &stream{
		log: h.log, rc: http.NewResponseController(w), in: r.Body, body: b,
		sent: make(chan sentMessage, streamMessages), drained: make(chan struct{}, 1), done: make(chan struct{}),
	}
	return s.run(r.Context(), w)
}

// run opens the answer and serves the stream to its end.
func (s *stream) run(ctx context.Context, w http.ResponseWriter) error {
	if err := s.rc.EnableFullDuplex(); err != nil {
		return fmt.Errorf("%w: this connection cannot carry both directions at once", errMethod)
	}
	header := w.Header()
	header["Content-Type"] = contentText
	header["Cache-Control"] = cacheNone
	header["X-Content-Type-Options"] = noSniff
	w.WriteHeader(http.StatusOK)
	s.unsent = true
	if err := s.flush(); err != nil {
		return toldError{err} // the client is gone
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		s.receive()
	}()
	unhook := onServerStop(ctx, s.stop)
	defer unhook()
	err := s.answerAll(w)
	// The body may not be read after the handler has returned. After an end in
	// order nobody reads any more, and the connection can be used again.
	close(s.done)
	if err != nil {
		s.stop()
	}
	<-received
	return err
}

// stop ends the receiving goroutine: it accepts no message that it has not read
// to the end.
func (s *stream) stop() {
	s.stopping.Store(true)
	s.rc.SetReadDeadline(time.Now())
}

// awaitBytes sets how long the next bytes may take.
func (s *stream) awaitBytes(d time.Duration) error {
	if err := s.rc.SetReadDeadline(time.Now().Add(d)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if s.stopping.Load() { // stop came before, or its deadline after this one
		return ErrClosed
	}
	return nil
}

// receive reads messages and hands them to the log until there are no more.
func (s *stream) receive() {
	defer close(s.sent)
	for {
		m, err := s.next()
		if err == io.EOF {
			return
		}
		if err != nil {
			m = sentMessage{err: err}
		}
		select {
		case s.sent <- m:
		case <-s.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// next reads one message and has the log accept it. io.EOF is the end of the
// stream between two messages.
func (s *stream) next() (sentMessage, error) {
	if err := s.readMessage(); err != nil {
		if s.stopping.Load() {
			err = ErrClosed
		}
		return sentMessage{}, err
	}
	var err error
	if s.entries, err = parseFrames(s.entries[:0], s.body.buf); err != nil {
		return sentMessage{}, err
	}
	if cap(s.leaves) < len(s.entries) {
		s.leaves = make([]Hash, len(s.entries))
	}
	m := sentMessage{count: len(s.entries), bytes: int64(len(s.body.buf))}
	for s.underWay.Load() > 0 && s.underWay.Load()+m.bytes > streamBytes {
		select {
		case <-s.drained:
		case <-s.done:
			return m, ErrClosed
		}
	}
	if m.answer, m.first, err = s.enqueue(); err != nil {
		s.log.metrics.refused(err)
	}
	s.underWay.Add(m.bytes)
	return m, err
}

// readMessage reads the length of a message, and the message, into the body.
func (s *stream) readMessage() error {
	if err := s.awaitBytes(streamIdle); err != nil {
		return err
	}
	if cap(s.body.buf) > largeBody { // not held while the stream is idle
		s.body.shrink()
	}
	var length [4]byte
	switch _, err := io.ReadFull(s.in, length[:]); {
	case err == io.EOF:
		return io.EOF
	case err != nil:
		return bodyError(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	switch {
	case n == 0:
		return fmt.Errorf("%w: message without entries", errEmpty)
	case n > maxBatchBody:
		return fmt.Errorf("%w: message of %d bytes, at most %d are allowed", errTooLarge, n, maxBatchBody)
	}
	if err := s.awaitBytes(messageTimeout); err != nil {
		return err
	}
	s.body.buf = s.body.buf[:0]
	return s.body.readFull(s.in, int(n))
}

// enqueue puts the entries into the log's queue. When that is full the stream
// waits for commits to make room, and its client with it.
func (s *stream) enqueue() (*answer, int, error) {
	a, first, err := s.log.enqueue(s.entries, s.leaves[:len(s.entries)], nil)
	if !errors.Is(err, ErrPushback) {
		return a, first, err
	}
	retry := time.NewTicker(pushbackPoll)
	defer retry.Stop()
	for deadline := time.Now().Add(pushbackTimeout); errors.Is(err, ErrPushback) && time.Now().Before(deadline); {
		_, committed := s.log.integrated.read()
		if a, first, err = s.log.enqueue(s.entries, s.leaves[:len(s.entries)], nil); err == nil {
			break
		}
		select {
		case <-committed:
		case <-retry.C:
		case <-s.done:
			return nil, 0, err
		}
	}
	return a, first, err
}

// answerAll answers every message that the log accepted, in order, once it is
// durable, and says how the stream ended. What is ready leaves together. The
// error is nil after an end in order.
func (s *stream) answerAll(w http.ResponseWriter) error {
	var line []byte
	for {
		m, ok, err := s.nextSent()
		if err != nil {
			return toldError{err}
		}
		line = line[:0]
		switch {
		case !ok:
			line = append(line, "end\n"...)
		case m.err != nil:
			line = fmt.Appendf(line, "error %s %s\n", outcomeOf(m.err).code, s.log.publicReason(m.err))
		default:
			line = strconv.AppendInt(line, m.answer.result(m.first).Index, 10)
			line = append(strconv.AppendInt(append(line, ' '), int64(m.count), 10), '\n')
		}
		if err := s.write(w, line); err != nil {
			return toldError{err}
		}
		switch {
		case !ok:
			return nil
		case m.err != nil:
			return toldError{m.err}
		}
		s.underWay.Add(-m.bytes)
		select {
		case s.drained <- struct{}{}:
		default:
		}
	}
}

// nextSent waits for the next message and its commit, and lets the answers
// before it leave rather than wait. A message that the log did not decide on
// has its reason in err.
func (s *stream) nextSent() (m sentMessage, ok bool, err error) {
	select {
	case m, ok = <-s.sent:
	default:
		if err := s.flush(); err != nil {
			return m, false, err
		}
		m, ok = <-s.sent
	}
	if !ok || m.err != nil {
		return m, ok, nil
	}
	select {
	case <-m.answer.done:
	default:
		if err := s.flush(); err != nil {
			return m, false, err
		}
		<-m.answer.done
	}
	m.err = m.answer.err
	return m, true, nil
}

// write adds to what leaves with the next flush, or when the buffer is full.
func (s *stream) write(w http.ResponseWriter, line []byte) error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(messageTimeout)); err != nil {
		return fmt.Errorf("%w: setting a deadline: %v", errCutShort, err)
	}
	if _, err := w.Write(line); err != nil {
		return errCutShort // the client is gone, or does not read
	}
	s.unsent = true
	return nil
}

// flush sends what has been written. Then nothing is on its way that the client could
// be late to take: a deadline for that would end a stream of HTTP/2 that is silent.
func (s *stream) flush() error {
	if !s.unsent {
		return nil
	}
	s.unsent = false
	if err := s.rc.Flush(); err != nil {
		return errCutShort
	}
	if err := s.rc.SetWriteDeadline(time.Time{}); err != nil {
		return fmt.Errorf("%w: lifting a deadline: %v", errCutShort, err)
	}
	return nil
}
