package checkpoint

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxAddRequestSize bounds the body of an add-checkpoint request, in bytes: 63
	// proof lines, and a checkpoint with the 16 signatures of up to 5 kB that every
	// reader of notes must accept, with room to spare.
	MaxAddRequestSize = 128 << 10
	// MaxAddRequestHashes bounds its consistency proof: "The client MUST NOT send
	// more than 63 consistency proof lines."
	MaxAddRequestHashes = 63
)

// AddRequest is the body of a c2sp.org/tlog-witness add-checkpoint request: a
// signed checkpoint, and the consistency proof from the size that the witness
// cosigned last.
type AddRequest struct {
	OldSize    int64       // tree size of the previous checkpoint, 0 ≤ OldSize ≤ 2^63-1
	Hashes     []tlog.Hash // consistency proof from OldSize, at most MaxAddRequestHashes
	Checkpoint []byte      // signed note, verbatim; not parsed
}

// ParseAddRequest reads a request body up to the checkpoint, which it leaves to
// the caller.
func ParseAddRequest(body []byte) (*AddRequest, error) {
	if len(body) > MaxAddRequestSize {
		return nil, fmt.Errorf("%w: request of %d bytes, at most %d", ErrTooLarge, len(body), MaxAddRequestSize)
	}
	head, signed, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return nil, malformed("request: no empty line before the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	decimal, ok := strings.CutPrefix(lines[0], "old ")
	if !ok {
		return nil, malformed("request: %.40q is not the old size line", lines[0])
	}
	size, err := parseDecimal(decimal)
	if err != nil {
		return nil, malformed("request: old size: %v", err)
	}
	if len(lines)-1 > MaxAddRequestHashes {
		return nil, malformed("request: %d proof lines, at most %d", len(lines)-1, MaxAddRequestHashes)
	}
	r := &AddRequest{OldSize: size, Checkpoint: signed}
	for i, line := range lines[1:] {
		h, err := parseHash(line)
		if err != nil {
			return nil, malformed("request: proof line %d: %v", i+1, err)
		}
		r.Hashes = append(r.Hashes, h)
	}
	return r, nil
}

// Format returns the request body.
func (r AddRequest) Format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", r.OldSize)
	for _, h := range r.Hashes {
		fmt.Fprintf(&b, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	b.WriteByte('\n')
	b.Write(r.Checkpoint)
	return b.Bytes()
}
