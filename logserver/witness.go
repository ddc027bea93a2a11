package logserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Limits of what a witness can make a client do.
const (
	// maxWitnessBody bounds an answer: a few ML-DSA-44 lines of 3.3 KB each.
	maxWitnessBody = 64 << 10
	// maxWitnessHeader bounds the header of an answer, in bytes.
	maxWitnessHeader = 16 << 10
	// maxConflicts is how often in a row a 409 is followed: once is the rule,
	// more happens when another submitter races us.
	maxConflicts = 5
	// Back-off after a failure: doubling between the two.
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// witnessAnswer is what one submission came to.
type witnessAnswer struct {
	client *witnessClient
	note   SignedNote // that was submitted
	lines  []byte     // signature lines, all valid
	by     []string   // policy names of the witnesses that signed them
	err    error      // ErrForked: the witness knows more than, or not, this head
}

// witnessClient submits checkpoints to one submission prefix of c2sp.org/
// tlog-witness, behind which there may be several witnesses of the policy. Its
// one goroutine owns size and skewed.
type witnessClient struct {
	log       *Log
	url       string // submission prefix without trailing slash
	witnesses []checkpoint.Witness
	http      *http.Client
	next      chan SignedNote // at most one: the newest note to submit
	answers   chan<- witnessAnswer
	// size is what the witness is thought to have cosigned last.
	size int64
	// skewed are the witnesses whose clock was far from this one's when they
	// last cosigned.
	skewed map[string]bool
	// fork is the last answer of a witness to a running log that says that it
	// knows another head; nil after one that does not. The publisher sets it.
	fork atomic.Pointer[error]
}

// newWitnessClients returns one client for each submission prefix.
func newWitnessClients(l *Log, policy *checkpoint.Policy, answers chan<- witnessAnswer) []*witnessClient {
	transport := l.opts.Transport
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 2
		t.MaxResponseHeaderBytes = maxWitnessHeader
		t.DisableCompression = true // an answer is as long as it looks
		transport = t
	}
	client := &http.Client{
		Transport: transport,
		Timeout:   l.opts.WitnessTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a POST is never sent elsewhere
		},
	}
	byURL := make(map[string]*witnessClient)
	var all []*witnessClient
	for _, w := range policy.Witnesses() {
		url := strings.TrimRight(w.URL, "/")
		if url == "" {
			continue
		}
		c := byURL[url]
		if c == nil {
			c = &witnessClient{
				log: l, url: url, http: client, next: make(chan SignedNote, 1), answers: answers, skewed: make(map[string]bool),
			}
			byURL[url] = c
			all = append(all, c)
		}
		c.witnesses = append(c.witnesses, w)
	}
	return all
}

// submit makes n what the client submits next, in place of an older note that
// it has not begun with. Only the publisher calls it.
func (c *witnessClient) submit(n SignedNote) {
	select {
	case <-c.next:
	default:
	}
	c.next <- n
}

// run submits the newest note, again and again until it is cosigned or a newer
// one has come.
func (c *witnessClient) run(ctx context.Context) {
	// The last signed head is the likeliest that the witness has.
	c.size = c.log.Signed().Size
	var n SignedNote
	var retry <-chan time.Time
	wait := minBackoff
	for {
		select {
		case n = <-c.next:
		case <-retry:
		case <-ctx.Done():
			return
		}
		a := c.cosign(ctx, n)
		select {
		case c.answers <- a:
		case <-ctx.Done():
			return
		}
		if retry = nil; a.err == nil {
			wait = minBackoff
			continue
		}
		// A newer note does not shorten the wait: the witness may be choking.
		pause := time.NewTimer(max(wait, retryAfter(a.err)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		retry, wait = closedTimer, min(2*wait, maxBackoff)
		select {
		case n = <-c.next:
		default:
		}
	}
}

// closedTimer is a timer channel that is always due.
var closedTimer = func() <-chan time.Time { c := make(chan time.Time); close(c); return c }()

// cosign submits one note and follows conflicts.
//
// A witness that has another root at just this size answers 422, but those that
// follow the text as it was until July 2026 answer 409, some of them without a
// size. So one that refuses the note's own size, without naming another, is
// asked which size it has; if that is the note's own and it refuses again, then
// the root is what it refuses.
func (c *witnessClient) cosign(ctx context.Context, n SignedNote) witnessAnswer {
	a := witnessAnswer{client: c, note: n}
	c.size = min(c.size, n.Size)
	refused := false // our own size
	defer func() {
		if refused && c.size == 0 {
			c.size = n.Size // it named none: the question is not what to submit from now on
		}
	}()
	for range maxConflicts {
		body, conflict, err := c.post(ctx, n)
		if err != nil {
			a.err = err
			return a
		}
		if body != nil {
			c.size = n.Size
			if a.lines, a.by = c.valid(n, body); len(a.by) == 0 {
				a.err = errors.New("answer has no valid cosignature of a witness of the policy")
			}
			return a
		}
		if conflict > n.Size {
			a.err = fmt.Errorf("%w: it has cosigned tree size %d, submitted was %d", ErrForked, conflict, n.Size)
			return a
		}
		if conflict != c.size && conflict != noSize {
			c.size = conflict
			continue
		}
		switch {
		case c.size < n.Size || n.Size == 0:
			a.err = fmt.Errorf("witness refuses tree size %d and names no other", c.size)
			return a
		case refused:
			a.err = fmt.Errorf("%w: it has another root at tree size %d", ErrForked, n.Size)
			return a
		}
		refused, c.size = true, 0 // with which a client asks for the size
	}
	a.err = errors.New("witness keeps answering with another size")
	return a
}

// noSize is the conflict of a 409 that does not name a tree size.
const noSize = -1

// post makes one add-checkpoint request. It returns the body of a 200, the tree
// size of a 409 or noSize, or an error.
func (c *witnessClient) post(ctx context.Context, n SignedNote) (body []byte, conflict int64, err error) {
	request, err := c.request(n)
	if err != nil {
		return nil, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/add-checkpoint", bytes.NewReader(request))
	if err != nil {
		return nil, 0, fmt.Errorf("submitting to the witness: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("submitting to the witness: %w", err)
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxWitnessBody+1))
	if err != nil {
		return nil, 0, fmt.Errorf("reading the witness's answer: %w", err)
	}
	if len(body) > maxWitnessBody {
		return nil, 0, errors.New("witness's answer is too long")
	}
	switch res.StatusCode {
	case http.StatusOK:
		return append([]byte{}, body...), 0, nil
	case http.StatusConflict:
		// The content type is not looked at: several witnesses get it wrong.
		text := strings.TrimSpace(string(body))
		if text == "" {
			return nil, noSize, nil
		}
		size, err := strconv.ParseInt(text, 10, 64)
		if err != nil || size < 0 {
			return nil, 0, errors.New("witness's conflict answer has no tree size")
		}
		return nil, size, nil
	case http.StatusUnprocessableEntity:
		return nil, 0, fmt.Errorf("%w: it finds the submitted head inconsistent", ErrForked)
	}
	return nil, 0, &witnessStatusError{status: res.StatusCode, after: parseRetryAfter(res.Header.Get("Retry-After"))}
}

// request is the body of add-checkpoint: the size that the witness has, the
// consistency proof from there, and the note.
func (c *witnessClient) request(n SignedNote) ([]byte, error) {
	proof, err := c.log.ConsistencyProof(c.size, n.Size)
	if err != nil {
		return nil, fmt.Errorf("proving consistency to the witness: %w", err)
	}
	r := checkpoint.AddRequest{OldSize: c.size, Hashes: proof, Checkpoint: n.Note}
	return r.Format(), nil
}

// valid says which witnesses cosigned, and picks the lines to keep, at most one
// for each of them. Lines of other keys, and lines that are none, are ignored
// (c2sp.org/tlog-witness), and so are cosignatures without a time, which a witness
// must not give.
//
// No other time makes a cosignature worthless: its witness has confirmed the head
// whatever its clock says, or ours. But of two by one key the later one stays, so
// that one of the far future would stand in the way of every later one, and is
// not kept: of a future for this clock and for those of the witnesses, since the
// only one heard so far may be years slow. Whether one is too old or too new is for
// readers to say.
func (c *witnessClient) valid(n SignedNote, body []byte) (lines []byte, by []string) {
	newest := laterOf(time.Now(), c.log.publisher.now()).Add(maxAhead).Unix()
	for line := range strings.Lines(string(body)) {
		line = strings.TrimRight(line, "\r\n") + "\n"
		sigs, err := checkpoint.ParseSignatures([]byte(line))
		if err != nil || len(sigs) != 1 {
			continue
		}
		t, ok := sigs[0].CosignatureTime()
		if !ok {
			continue
		}
		for _, w := range c.witnesses {
			if w.Key.Name() != sigs[0].Name || w.Key.KeyHash() != sigs[0].KeyID || slices.Contains(by, w.Name) {
				continue
			}
			merged, err := checkpoint.AddCosignatures(n.Note, []byte(line), accepted([]checkpoint.Witness{w}))
			if err != nil || len(merged) <= len(n.Note) {
				continue
			}
			by = append(by, w.Name)
			c.compareClocks(w.Name, t)
			if t <= newest {
				lines = append(lines, line...)
			}
		}
	}
	return lines, by
}

// laterOf returns the later of two times.
func laterOf(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// maxAhead is how far in the future a cosignature may be that is kept: more than
// clocks are off that somebody looks after.
const maxAhead = 24 * time.Hour

// compareClocks takes note of the time of a cosignature that a witness has just
// made, and tells the operator of the first in a row that is far from this clock.
func (c *witnessClient) compareClocks(witness string, timestamp int64) {
	c.log.publisher.clocks.observe(witness, timestamp, time.Now(), uptime())
	ahead := time.Until(time.Unix(min(timestamp, maxTime), 0))
	skewed := ahead.Abs() > checkpoint.FutureTolerance
	if skewed && !c.skewed[witness] {
		c.log.opts.Logger.Warn("the clocks of a witness and of this machine differ: readers may refuse its cosignatures as stale",
			"origin", c.log.opts.Origin, "witness", witness, "ahead", ahead.Round(time.Second))
	}
	c.skewed[witness] = skewed
}

// witnessStatusError is an answer that the protocol has no further use for.
type witnessStatusError struct {
	status int
	after  time.Duration // that the witness asked us to wait, or 0
}

func (e *witnessStatusError) Error() string {
	return fmt.Sprintf("witness answered %d %s", e.status, http.StatusText(e.status))
}

// retryAfter is how long the witness asked us to wait.
func retryAfter(err error) time.Duration {
	var e *witnessStatusError
	if errors.As(err, &e) {
		return e.after
	}
	return 0
}

// parseRetryAfter reads a Retry-After header in seconds, up to a minute: a
// witness must not be able to keep us away for long. The date form is left out;
// back-off covers it.
func parseRetryAfter(v string) time.Duration {
	s, err := strconv.Atoi(v)
	if err != nil || s < 0 {
		return 0
	}
	return min(time.Duration(s)*time.Second, time.Minute)
}
