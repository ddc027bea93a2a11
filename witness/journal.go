package witness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The journal is a file of batches, each written and synced as one. A batch is
//
//	RS "batch" SP <notes> SP <length> SP <CRC of the notes> SP <CRC of the line so far> LF
//	<note> US ... <note> US
//
// with the control characters RS (0x1e) and US (0x1f), which no note contains,
// the number of notes and their length together with each US in decimal, and
// CRC-32C in eight hexadecimal digits. Each note is the head of an origin from
// then on. (Notes are text, so a journal can be read with a pager.)
//
// A batch is answered only after it was synced, and the next one is written only
// after that. So a crash can leave one batch torn, and it is the last: readers
// leave it out, as nobody was told of it. A batch is torn if the file ends within
// it, or if a part of it was never written, which reads as zero bytes. Anything
// else that is not a batch is damage, and with it the heads of some origin may
// be gone: a witness must not go on from there.

const (
	batchMark = 0x1e
	noteEnd   = 0x1f
	// maxBatchBytes bounds the notes of a batch, so that a reader can take one into
	// memory before it believes it. It holds a few heads of the longest.
	maxBatchBytes = 4 << 20
	// maxBatchNotes bounds their number: more requests are never under way.
	maxBatchNotes = 4096
	// maxBatchLine bounds the line before them.
	maxBatchLine = 64
	// tornZeros is how many zero bytes in a row say that a part was never written.
	// A disk writes whole sectors; fewer zeros are left only at the end of a batch.
	tornZeros = 16
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// errDamaged: the journal has something that is neither a batch nor a torn one.
var errDamaged = errors.New("journal of heads is damaged")

// appendBatch appends a batch of notes, which must keep to its limits.
func appendBatch(out []byte, notes ...[]byte) []byte {
	length, crc := 0, uint32(0)
	for _, n := range notes {
		length += len(n) + 1
		crc = crc32.Update(crc32.Update(crc, crcTable, n), crcTable, []byte{noteEnd})
	}
	line := fmt.Appendf(nil, "%cbatch %d %d %08x ", batchMark, len(notes), length, crc)
	out = append(out, line...)
	out = fmt.Appendf(out, "%08x\n", crc32.Checksum(line, crcTable))
	for _, n := range notes {
		out = append(append(out, n...), noteEnd)
	}
	return out
}

// batchHead is the line before a batch.
type batchHead struct {
	notes, length int
	crc           uint32
}

// parseBatchHead reads the line, with its newline. It accepts what appendBatch
// writes and nothing else.
func parseBatchHead(line []byte) (batchHead, bool) {
	var h batchHead
	var own uint32
	if n, err := fmt.Sscanf(string(line), "\x1ebatch %d %d %08x %08x\n", &h.notes, &h.length, &h.crc, &own); n != 4 || err != nil {
		return h, false
	}
	if h.notes < 1 || h.notes > maxBatchNotes || h.length < h.notes || h.length > maxBatchBytes {
		return h, false
	}
	again := fmt.Appendf(nil, "%cbatch %d %d %08x ", batchMark, h.notes, h.length, h.crc)
	ok := crc32.Checksum(again, crcTable) == own && bytes.Equal(line, fmt.Appendf(again, "%08x\n", own))
	return h, ok
}

// split returns the notes of a batch whose bytes are payload.
func (h batchHead) split(payload []byte) ([][]byte, bool) {
	if len(payload) != h.length || crc32.Checksum(payload, crcTable) != h.crc || payload[len(payload)-1] != noteEnd {
		return nil, false
	}
	notes := bytes.Split(payload[:len(payload)-1], []byte{noteEnd})
	return notes, len(notes) == h.notes
}

// readJournal calls each with every note, in order, and reports whether a torn
// batch was left out at the end. It takes one batch at a time into memory.
func readJournal(r io.Reader, each func(note []byte) error) (torn bool, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	for number := 1; ; number++ {
		line, err := in.Peek(1)
		if err == io.EOF {
			return false, nil
		}
		var notes [][]byte
		if err == nil {
			line, notes, err = readBatch(in)
		}
		if err != nil {
			return false, fmt.Errorf("reading journal: %w", err)
		}
		if notes == nil {
			if err := checkTorn(line, in); err != nil {
				return false, fmt.Errorf("batch %d: %w", number, err)
			}
			return true, nil
		}
		for _, n := range notes {
			if err := each(n); err != nil {
				return false, fmt.Errorf("batch %d: %w", number, err)
			}
		}
	}
}

// readBatch returns the notes of the next batch, or nil and what it has read of
// something that is not a whole batch. An error is one of reading.
func readBatch(in *bufio.Reader) (raw []byte, notes [][]byte, err error) {
	line, err := readLine(in)
	if err != nil {
		return nil, nil, err
	}
	h, ok := parseBatchHead(line)
	if !ok {
		return line, nil, nil
	}
	payload := make([]byte, h.length)
	n, err := io.ReadFull(in, payload)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, err
	}
	if notes, ok = h.split(payload[:n]); ok {
		return nil, notes, nil
	}
	return append(line, payload[:n]...), nil, nil
}

// readLine returns the next line with its newline, or what there is of it: at
// most maxBatchLine bytes.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for len(line) < maxBatchLine {
		b, err := in.ReadByte()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if line = append(line, b); b == '\n' {
			break
		}
	}
	return line, nil
}

// checkTorn returns nil if what begins with bad, up to the end of the file, is a
// batch that a crash has torn, and errDamaged otherwise.
func checkTorn(bad []byte, in *bufio.Reader) error {
	rest, err := io.ReadAll(io.LimitReader(in, maxBatchLine+maxBatchBytes+1))
	if err != nil {
		return fmt.Errorf("reading journal: %w", err)
	}
	bad = append(bad, rest...)
	if len(bad) > maxBatchLine+maxBatchBytes {
		return fmt.Errorf("%w: more follows it than a crash can leave", errDamaged)
	}
	// Was it followed by a batch, then it was synced, and is torn no more.
	for i := 1; ; i++ {
		next := bytes.IndexByte(bad[i:], batchMark)
		if next < 0 {
			break
		}
		i += next
		if _, notes, _ := readBatch(bufio.NewReader(bytes.NewReader(bad[i:]))); notes != nil {
			return fmt.Errorf("%w: a batch follows it", errDamaged)
		}
	}
	if bytes.Contains(bad, make([]byte, tornZeros)) || bad[len(bad)-1] == 0 {
		return nil
	}
	line, payload, terminated := bytes.Cut(bad, []byte("\n"))
	if !terminated {
		// The line is at its longest or cut off by the end of the file.
		if len(line) < maxBatchLine && bytes.HasPrefix(append([]byte{batchMark}, "batch "...), line[:min(len(line), 7)]) {
			return nil
		}
		return fmt.Errorf("%w: %.40q is not the beginning of a batch", errDamaged, line)
	}
	if h, ok := parseBatchHead(append(line, '\n')); ok && len(payload) < h.length {
		return nil
	}
	return errDamaged
}
