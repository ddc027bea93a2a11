package logserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// maxBatchBody bounds the body of /add-batch and a message of /add-stream, in
// bytes: a full bundle of the largest entries has to be sent in parts,
// thousands of small ones fit.
const maxBatchBody = 8 << 20

// batchTimeout is how long a large batch may take to arrive: less than
// writeTimeout, so that the answer still leaves.
const batchTimeout = 45 * time.Second

// publishTimeout is how long an append that asks for a witnessed proof waits
// for one: rounds take their time, but a client should not wait for a witness
// that is away.
const publishTimeout = 10 * time.Second

// Headers of /add.
const (
	idempotencyHeader = "Idempotency-Key"
	duplicateHeader   = "X-Tallystick-Duplicate"
)

// addForm is what the answer to /add is to hold.
type addForm int

const (
	formIndex     addForm = iota // the decimal index
	formReceipt                  // a proof under the receipt head
	formWitnessed                // a proof under a witnessed checkpoint
)

// add serves POST /add: the critical path of a log with many small entries.
func (h *handler) add(w http.ResponseWriter, r *http.Request) error {
	form, err := h.formOf(r)
	if err != nil {
		return err
	}
	entry := Entry{}
	if keys := r.Header[idempotencyHeader]; keys != nil {
		if entry.Dedup, err = idempotencyKey(keys); err != nil {
			return err
		}
	}
	b, err := newBody(h.log.bodies)
	if err != nil {
		return err
	}
	defer b.release()
	if err := b.readAll(r, MaxEntrySize); err != nil {
		return err
	}
	if len(b.buf) == 0 {
		return errEmpty
	}
	entry.Data = b.buf

	// The client may go away, the entry does not: it is in the queue, and the
	// commit that answers it is under way.
	result, head, err := h.log.Append(context.Background(), entry)
	if err != nil {
		return err
	}
	if result.Duplicate {
		if err := h.checkSame(result.Index, entry.Data); err != nil {
			return err
		}
		w.Header()[duplicateHeader] = trueValue
	}
	switch form {
	case formReceipt:
		signed, err := head.Note()
		if err != nil {
			return err
		}
		return h.answerProof(w, result.Index, head.Size, signed)
	case formWitnessed:
		return h.answerWitnessed(w, r, result.Index)
	}
	answerIndex(w, b, result.Index)
	return nil
}

// formOf reads the query of /add.
func (h *handler) formOf(r *http.Request) (addForm, error) {
	switch r.URL.RawQuery {
	case "":
		return formIndex, nil
	case "proof=witnessed":
		return formWitnessed, nil
	case "proof=receipt":
		if h.log.receipt == nil {
			return 0, errNoReceipts
		}
		return formReceipt, nil
	}
	return 0, fmt.Errorf("%w: proof=receipt and proof=witnessed are possible", errQuery)
}

// idempotencyKey reads the header: 1 to MaxDedupSize visible ASCII characters.
func idempotencyKey(values []string) ([]byte, error) {
	if len(values) != 1 || len(values[0]) == 0 || len(values[0]) > MaxDedupSize {
		return nil, fmt.Errorf("%w: one of 1 to %d characters is wanted", errIdempotencyKey, MaxDedupSize)
	}
	key := []byte(values[0])
	for _, c := range key {
		if c <= ' ' || c > '~' {
			return nil, fmt.Errorf("%w: byte %#x is not a visible ASCII character", errIdempotencyKey, c)
		}
	}
	return key, nil
}

// checkSame makes sure that the index which a key stands for holds the data that
// was sent with it now. Otherwise the answer would claim what is not in the log.
func (h *handler) checkSame(index int64, data []byte) error {
	stored, err := h.log.EntryAt(index)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, data) {
		return errKeyReused
	}
	return nil
}

// answerIndex sends the decimal index and nothing else, as existing clients
// expect it. The bytes go through the buffer of the body, which is done with.
func answerIndex(w http.ResponseWriter, b *body, index int64) {
	w.Header()["Content-Type"] = contentText
	b.buf = strconv.AppendInt(b.buf[:0], index, 10)
	w.Write(b.buf)
}

func (h *handler) answerProof(w http.ResponseWriter, index, size int64, signed []byte) error {
	proof, err := h.log.proofUnder(index, size, signed)
	if err != nil {
		return err
	}
	serve(w, contentText, cacheNone, proof)
	return nil
}

// answerWitnessed waits until a checkpoint that satisfied the policy covers the
// entry. If that takes too long the answer is 202 and the index: the entry is in
// the log. What a log that fails open publishes without its quorum does not do.
func (h *handler) answerWitnessed(w http.ResponseWriter, r *http.Request, index int64) error {
	ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
	defer cancel()
	if err := h.log.WaitWitnessed(ctx, index+1); err != nil {
		header := w.Header()
		header["Content-Type"] = contentText
		header["Cache-Control"] = cacheNone
		header[codeHeader] = []string{outcomeOf(errUnpublished).code}
		w.WriteHeader(http.StatusAccepted)
		w.Write(strconv.AppendInt(nil, index, 10))
		return toldError{errUnpublished}
	}
	head := h.log.Witnessed()
	return h.answerProof(w, index, head.Size, head.Note)
}

// addBatch serves POST /add-batch.
func (h *handler) addBatch(w http.ResponseWriter, r *http.Request) error {
	if err := plainRequest(r); err != nil {
		return err
	}
	b, err := newBody(h.log.bodies)
	if err != nil {
		return err
	}
	defer b.release()
	if r.ContentLength < 0 || r.ContentLength > MaxEntrySize { // more than readTimeout is for
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(batchTimeout))
	}
	if err := b.readAll(r, maxBatchBody); err != nil {
		return err
	}
	entries, err := parseFrames(nil, b.buf)
	if err != nil {
		return err
	}
	results, _, err := h.log.AppendBatch(context.Background(), entries) // as in add
	if err != nil {
		return err
	}
	out := make([]byte, 0, len(results)*8)
	for i := range results { // without keys and guards nothing is refused
		out = append(strconv.AppendInt(out, results[i].Index, 10), '\n')
	}
	serve(w, contentText, cacheNone, out)
	return nil
}

// plainRequest refuses what only /add understands: to pass over it would be to
// promise it.
func plainRequest(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return fmt.Errorf("%w: none is possible here", errQuery)
	}
	if r.Header[idempotencyHeader] != nil {
		return fmt.Errorf("%w: it is possible with single entries only", errIdempotencyKey)
	}
	return nil
}

// parseFrames appends the entries of a body in the framing of an entry bundle to
// entries. Like /add it refuses empty ones; there is at least one, and at most
// MaxBatch.
func parseFrames(entries []Entry, body []byte) ([]Entry, error) {
	if len(body) == 0 {
		return nil, fmt.Errorf("%w: there is none", errEmpty)
	}
	for pos := 0; pos < len(body); {
		if len(body)-pos < 2 {
			return nil, fmt.Errorf("%w: body ends within the length of entry %d", errFraming, len(entries))
		}
		n := int(binary.BigEndian.Uint16(body[pos:]))
		pos += 2
		switch {
		case n == 0:
			return nil, fmt.Errorf("%w: number %d", errEmpty, len(entries))
		case len(body)-pos < n:
			return nil, fmt.Errorf("%w: body ends within entry %d", errFraming, len(entries))
		case len(entries) == MaxBatch:
			return nil, fmt.Errorf("%w: more than %d entries", errTooLarge, MaxBatch)
		}
		entries = append(entries, Entry{Data: body[pos : pos+n]})
		pos += n
	}
	return entries, nil
}
