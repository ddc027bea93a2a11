// Package logclient submits entries to a log over HTTP: one by one, in batches,
// and over a stream. docs/formats/log-http.md specifies the interface.
//
//	c := &logclient.Client{URL: "https://log.example"}
//	answer, err := c.Add(ctx, logclient.Entry{Data: data, Key: key})
//
// # Trust
//
// An index is a claim of the log. Ask for a proof and verify it with
// github.com/tallystick/tallystick/verifier/checkpoint under a policy of your own:
// under one that names the key ORIGIN/receipt a receipt binds the log, and
// under one with witnesses a witnessed proof shows that others see the same log.
// This package verifies nothing.
//
// After an error without a status, and after a stream that ended early, an entry
// may have been added or not. Send it again with the same Entry.Key to find out.
//
// A Client is safe for concurrent use.
package logclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// MaxEntrySize is the largest entry, in bytes; the smallest has one.
const MaxEntrySize = 1<<16 - 1

// maxAnswer bounds what is read of an answer, in bytes: a batch has at most 4096
// indexes, and a proof at most a note of half a megabyte.
const maxAnswer = 1 << 20

// Client submits to one log. URL is required.
type Client struct {
	// URL is the log's submission prefix, without a slash at the end.
	URL string
	// HTTP sends the requests; nil means http.DefaultClient. A client timeout
	// would end streams. Redirects are not followed, whatever it says: a log
	// that could send its submitters elsewhere could aim their load at others.
	HTTP *http.Client
}

// Proof says what an answer to Add holds beside the index.
type Proof string

const (
	// NoProof asks for the index alone.
	NoProof Proof = ""
	// Receipt asks for a c2sp.org/tlog-proof under a head signed by the log's
	// receipt key, which is there at once.
	Receipt Proof = "receipt"
	// Witnessed asks for one under a checkpoint that satisfied the log's witness
	// policy, and waits for it.
	Witnessed Proof = "witnessed"
)

// Entry is what Add submits.
type Entry struct {
	// Data is the entry, 1 to MaxEntrySize bytes.
	Data []byte
	// Key, if not empty, is the idempotency key: 1 to 64 visible ASCII
	// characters. The log has at most one entry for each key, ever. Keys are
	// common to all who submit to a log, so make them of 16 random bytes or
	// of a digest.
	Key string
	// Proof says whether to answer with a proof.
	Proof Proof
}

// Answer is what the log says about an entry.
type Answer struct {
	Index int64
	// Duplicate says that an earlier entry with the same key and data holds
	// Index.
	Duplicate bool
	// Proof is the text of the proof that was asked for. It is nil if the
	// entry is in the log but no checkpoint has been witnessed in time.
	Proof []byte
}

// Error is a refusal by the log.
type Error struct {
	Status int    // HTTP status; 0 at the end of a stream
	Code   string // of the closed set in docs/formats/log-http.md, or ""
	Reason string // one line for people, of any bytes
	// RetryAfter is when the same request may succeed, at most a day; 0 means
	// never.
	RetryAfter time.Duration
}

// Error returns reason, status and code in one line.
func (e *Error) Error() string {
	return fmt.Sprintf("log refused: %q (status %d, code %q)", e.Reason, e.Status, e.Code)
}

// maxRetryAfter bounds what a log can ask for, in seconds.
const maxRetryAfter = 24 * 60 * 60

// Add submits one entry and returns when it is durable.
func (c *Client) Add(ctx context.Context, e Entry) (Answer, error) {
	path := "/add"
	if e.Proof != NoProof {
		path += "?proof=" + string(e.Proof)
	}
	req, err := c.request(ctx, path, bytes.NewReader(e.Data))
	if err != nil {
		return Answer{}, err
	}
	if e.Key != "" {
		req.Header.Set("Idempotency-Key", e.Key)
	}
	res, body, err := c.do(req)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Duplicate: res.Header.Get("X-Tallystick-Duplicate") != ""}
	if e.Proof != NoProof && res.StatusCode == http.StatusOK {
		p, err := checkpoint.ParseProof(body)
		if err != nil {
			return Answer{}, fmt.Errorf("answer of the log: %w", err)
		}
		a.Index, a.Proof = p.Index, body
		return a, nil
	}
	a.Index, err = parseIndex(string(body))
	return a, err
}

// AddBatch submits up to 4096 entries of together up to 8 MiB and returns their
// indexes when all are durable.
func (c *Client) AddBatch(ctx context.Context, entries [][]byte) ([]int64, error) {
	body, err := appendFrames(nil, entries)
	if err != nil {
		return nil, err
	}
	req, err := c.request(ctx, "/add-batch", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	_, answer, err := c.do(req)
	if err != nil {
		return nil, err
	}
	indexes := make([]int64, 0, len(entries))
	for line := range strings.Lines(string(answer)) {
		index, err := parseIndex(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, err
		}
		indexes = append(indexes, index)
	}
	if len(indexes) != len(entries) {
		return nil, fmt.Errorf("log answered %d entries with %d indexes", len(entries), len(indexes))
	}
	return indexes, nil
}

func (c *Client) request(ctx context.Context, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+path, body)
	if err != nil {
		return nil, fmt.Errorf("submitting to the log: %w", err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	return req, nil
}

// do sends a request and returns the answer with its body, or an *Error.
func (c *Client) do(req *http.Request) (*http.Response, []byte, error) {
	res, err := c.send(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the answer of the log: %w", err)
	}
	return res, body, nil
}

// send sends a request and returns the answer if the log did not refuse.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	client := *http.DefaultClient
	if c.HTTP != nil {
		client = *c.HTTP
	}
	client.CheckRedirect = noRedirect
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("submitting to the log: %w", err)
	}
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusAccepted {
		return res, nil
	}
	defer res.Body.Close()
	const maxReason = 4 << 10
	reason, _ := io.ReadAll(io.LimitReader(res.Body, maxReason)) // what there is
	line, _, _ := strings.Cut(string(reason), "\n")
	return nil, &Error{
		Status: res.StatusCode, Code: res.Header.Get("X-Tallystick-Code"),
		Reason: line, RetryAfter: retryAfter(res.Header.Get("Retry-After"), time.Now()),
	}
}

// retryAfter reads a Retry-After header, of seconds or with a date (RFC 9110
// section 10.2.3), which what stands before a log may send.
func retryAfter(v string, now time.Time) time.Duration {
	seconds, err := strconv.Atoi(v)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(max(seconds, 0), maxRetryAfter)) * time.Second
	}
	date, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter*time.Second)
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// appendFrames appends entries in the framing of an entry bundle.
func appendFrames(b []byte, entries [][]byte) ([]byte, error) {
	for i, e := range entries {
		if len(e) == 0 || len(e) > MaxEntrySize {
			return nil, fmt.Errorf("entry %d has %d bytes, 1 to %d are allowed", i, len(e), MaxEntrySize)
		}
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	return b, nil
}

// parseIndex reads a decimal index in canonical form.
func parseIndex(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("log answered %.40q, which is no index", s)
	}
	return n, nil
}
