package provenance

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/record"
)

// openingsPrefix begins the first line of a file of openings; origin, size and
// root hash of the log at the time of saving follow.
const openingsPrefix = "tallystick-openings/" + record.Version + " "

// ErrOpenings says that a file is none of openings, or is cut off.
var ErrOpenings = errors.New("malformed file of openings")

// FormatOpenings returns the first line of a file of openings of the log with an
// origin, which had a tree of at least one entry when they were saved
// (docs/formats/bundle.md, "A file of openings"). At least as many openings as
// the tree has entries must follow.
func FormatOpenings(origin string, tree tlog.Tree) []byte {
	return fmt.Appendf(nil, "%s%s %d %s\n", openingsPrefix, origin, tree.N, tree.Hash)
}

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
	tree   tlog.Tree // what the first line says
	index  int64     // of the next opening
}

// NewOpeningReader reads the first line.
func NewOpeningReader(r io.Reader) (*OpeningReader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	line, err := b.ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("reading openings: %w", err)
	}
	rest, ok := strings.CutPrefix(string(line), openingsPrefix)
	rest, whole := strings.CutSuffix(rest, "\n")
	fields := strings.Split(rest, " ")
	if !ok || !whole || len(fields) != 3 || fields[0] == "" || len(fields[0]) > 255 {
		return nil, fmt.Errorf("%w: want a first line of %q, origin, size and root hash", ErrOpenings, openingsPrefix)
	}
	o := &OpeningReader{r: b, origin: fields[0]}
	o.tree.N, err = strconv.ParseInt(fields[1], 10, 64)
	if err != nil || o.tree.N < 1 || strconv.FormatInt(o.tree.N, 10) != fields[1] {
		return nil, fmt.Errorf("%w: size %.32q, want a number from 1", ErrOpenings, fields[1])
	}
	if o.tree.Hash, err = tlog.ParseHash(fields[2]); err != nil || o.tree.Hash.String() != fields[2] {
		return nil, fmt.Errorf("%w: root hash %.64q, want 32 bytes in base64", ErrOpenings, fields[2])
	}
	return o, nil
}

// Origin is that of the log which the file says it is of.
func (r *OpeningReader) Origin() string { return r.origin }

// Tree is the tree that the log had when the openings were saved, as the file
// says. It has at least one entry.
func (r *OpeningReader) Tree() tlog.Tree { return r.tree }

// Next returns the opening of the next entry, io.EOF after the last one. A file
// that ends before the size that its first line says is ErrOpenings.
func (r *OpeningReader) Next() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); errors.Is(err, io.EOF) {
		if r.index < r.tree.N {
			return nil, fmt.Errorf("%w: it has %d openings, and the log had %d entries when they were saved", ErrOpenings, r.index, r.tree.N)
		}
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
