package provenance

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tallystick/tallystick/record"
)

// openingsPrefix begins the first line of a file of openings; the origin of the
// log follows.
const openingsPrefix = "tallystick-openings/" + record.Version + " "

// ErrOpenings says that a file is none of openings, or is cut off.
var ErrOpenings = errors.New("malformed file of openings")

// FormatOpenings returns the first line of a file of openings of the log with an
// origin (docs/formats/record.md, "A file of openings").
func FormatOpenings(origin string) []byte { return []byte(openingsPrefix + origin + "\n") }

// AppendOpening appends the opening of the next entry to what is written of the
// file.
func AppendOpening(b, opening []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(opening))), opening...)
}

// OpeningReader reads a file of openings, entry by entry. It belongs to one
// goroutine. What it returns is suspect: [Fold.Read] holds it against the entry.
type OpeningReader struct {
	r      *bufio.Reader
	origin string
	index  int64
}

// NewOpeningReader reads the first line.
func NewOpeningReader(r io.Reader) (*OpeningReader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	line, err := b.ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("reading openings: %w", err)
	}
	origin, ok := strings.CutPrefix(string(line), openingsPrefix)
	if origin, whole := strings.CutSuffix(origin, "\n"); ok && whole && len(origin) >= 1 && len(origin) <= 255 {
		return &OpeningReader{r: b, origin: origin}, nil
	}
	return nil, fmt.Errorf("%w: want a first line that begins with %q", ErrOpenings, openingsPrefix)
}

// Origin is that of the log which the file says it is of.
func (r *OpeningReader) Origin() string { return r.origin }

// Next returns the opening of the next entry, io.EOF after the last one.
func (r *OpeningReader) Next() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); errors.Is(err, io.EOF) {
		return nil, io.EOF
	} else if err != nil {
		return nil, r.cutOff(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > record.MaxOpeningSize {
		return nil, fmt.Errorf("%w: opening %d has %d bytes, at most %d", ErrOpenings, r.index, n, record.MaxOpeningSize)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, r.cutOff(err)
	}
	r.index++
	return b, nil
}

func (r *OpeningReader) cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: opening %d is cut off", ErrOpenings, r.index)
	}
	return fmt.Errorf("reading opening %d: %w", r.index, err)
}
