package logclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrCutOff means that a stream ended before the log said how: of the messages
// without an answer nothing is known.
var ErrCutOff = errors.New("stream was cut off")

// maxLine bounds a line of answers, in bytes; a reason has far less.
const maxLine = 4 << 10

// Stream submits messages of entries over one connection. One goroutine may send
// while another receives; send on only a few messages ahead, because the log
// stops reading when much is under way.
//
// An answered message is durable. When the stream has ended in any other way
// than by CloseSend, of messages without an answer nothing is known.
type Stream struct {
	send    *io.PipeWriter
	frame   []byte // of the sender
	body    io.ReadCloser
	answers *bufio.Reader
	ended   error // how the stream ended; of the receiver
	cancel  context.CancelFunc
}

// Stream opens a stream. It lasts until Close, or until ctx ends.
func (c *Client) Stream(ctx context.Context) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	req, err := c.request(ctx, "/add-stream", r)
	if err != nil {
		cancel()
		return nil, err
	}
	// net/http returns no error before it has read the body to its end, not even
	// when ctx has ended, and nobody else would end it.
	context.AfterFunc(ctx, func() { w.CloseWithError(ErrCutOff) })
	res, err := c.send(req)
	if err != nil {
		cancel()
		w.CloseWithError(err)
		return nil, err
	}
	return &Stream{send: w, body: res.Body, answers: bufio.NewReaderSize(res.Body, maxLine), cancel: cancel}, nil
}

// Send submits 1 to 4096 entries of together up to 8 MiB as one message. It
// blocks while the log does not read. The entries follow one another in the log.
func (s *Stream) Send(entries [][]byte) error {
	if len(entries) == 0 {
		return errors.New("message without entries")
	}
	frame, err := appendFrames(append(s.frame[:0], 0, 0, 0, 0), entries)
	if err != nil {
		return err
	}
	s.frame = frame
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	if _, err := s.send.Write(frame); err != nil {
		return fmt.Errorf("sending a message: %w", err)
	}
	return nil
}

// CloseSend says that no further message will follow. Receive returns io.EOF
// after the last answer.
func (s *Stream) CloseSend() error { return s.send.Close() }

// Receive waits for the answer to the next message, in the order of sending: its
// entries hold the indexes first to first+count-1. It returns io.EOF when all
// messages have been answered after CloseSend, an *Error if the log ended the
// stream, and ErrCutOff if nobody knows.
func (s *Stream) Receive() (first int64, count int, err error) {
	if s.ended != nil {
		return 0, 0, s.ended
	}
	first, count, err = s.receive()
	if err != nil {
		s.ended = err
	}
	return first, count, err
}

func (s *Stream) receive() (first int64, count int, err error) {
	raw, err := s.answers.ReadSlice('\n') // at most maxLine
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrCutOff, err)
	}
	line := string(raw[:len(raw)-1])
	if line == "end" {
		return 0, 0, io.EOF
	}
	if refusal, ok := strings.CutPrefix(line, "error "); ok {
		code, reason, _ := strings.Cut(refusal, " ")
		return 0, 0, &Error{Code: code, Reason: reason}
	}
	a, b, ok := strings.Cut(line, " ")
	first, errFirst := parseIndex(a)
	n, errCount := parseIndex(b)
	if !ok || errFirst != nil || errCount != nil || n < 1 || n > maxMessage {
		return 0, 0, fmt.Errorf("log answered %.40q, which is no answer", line)
	}
	return first, int(n), nil
}

// maxMessage bounds the entries of a message.
const maxMessage = 4096

// Close ends the stream, whatever is under way.
func (s *Stream) Close() error {
	s.send.CloseWithError(ErrCutOff)
	s.cancel()
	return s.body.Close()
}
