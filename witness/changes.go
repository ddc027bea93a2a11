package witness

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/tallystick/tallystick/membership"
)

// Files in the directory of a cosigner of lawful membership, beside those of
// every witness.
const (
	genesisFile = "genesis.json"
	changesFile = "changes"
)

// changeFile keeps the lawful changes after genesis over restarts, framed as in
// an entry bundle: the length in two bytes, big-endian, and the envelope. What
// it loses can be read from the log again, so writing it is best effort.
type changeFile struct {
	disk disk
	dir  string
	file file // open at its end; nil after a failure, when all is written anew
	// last is the envelope written last and count how many, with genesis: by both a
	// history that was cut back and has grown again is noticed.
	last  []byte
	count uint64
}

// openChanges hands every change in the file to take, up to where the file is cut
// off or take refuses one: a crash has left that, or damage.
func openChanges(d disk, dir string, take func(envelope []byte) error, logger *slog.Logger) (*changeFile, error) {
	f := &changeFile{disk: d, dir: dir, count: 1}
	path := filepath.Join(dir, changesFile)
	r, err := d.Open(path)
	if absent(err) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading changes: %w", err)
	}
	defer r.Close()
	in := bufio.NewReader(r)
	for {
		envelope, err := readFrame(in)
		if err == io.EOF {
			return f, nil // the first save writes the file anew
		}
		if err != nil {
			return nil, fmt.Errorf("reading changes: %w", err)
		}
		if err := take(envelope); err != nil {
			logger.Warn("file of changes is damaged: the rest will be read from the log again", "file", path, "changes", f.count, "error", err)
			return f, nil
		}
		f.count, f.last = f.count+1, envelope
	}
}

// readFrame returns the next envelope, and io.EOF also for one that is cut off.
func readFrame(in *bufio.Reader) ([]byte, error) {
	var length [2]byte
	_, err := io.ReadFull(in, length[:])
	envelope := make([]byte, binary.BigEndian.Uint16(length[:]))
	if err == nil {
		_, err = io.ReadFull(in, envelope)
	}
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return envelope, err
}

func appendFrame(out, envelope []byte) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(envelope))), envelope...)
}

// save makes the file hold a history. Failures are logged: the head does not
// depend on them.
func (f *changeFile) save(h *membership.History, logger *slog.Logger) {
	if f.holds(h) {
		return
	}
	if err := f.write(h); err != nil {
		logger.Warn("changes of the membership log not kept: they will be read again", "error", err)
		if f.file != nil {
			f.file.Close()
			f.file = nil
		}
	}
}

// holds reports whether the file ends where a history does.
func (f *changeFile) holds(h *membership.History) bool {
	if f.count != h.Size() {
		return false
	}
	_, last, err := h.Change(h.Size())
	return err == nil && (f.count == 1 || string(last) == string(f.last))
}

// write appends what is new, or writes all of it.
func (f *changeFile) write(h *membership.History) error {
	extends := false
	if f.file != nil && f.count < h.Size() {
		_, last, err := h.Change(f.count)
		extends = err == nil && (f.count == 1 || string(last) == string(f.last))
	}
	var err error
	if extends {
		if err = writeFrames(f.file, h, f.count+1); err == nil {
			err = f.file.Sync()
		}
	} else {
		old := f.file
		f.file, err = replace(f.disk, f.dir, changesFile, func(w io.Writer) error { return writeFrames(w, h, 2) })
		if old != nil {
			err = errors.Join(err, old.Close())
		}
	}
	if err != nil {
		return err
	}
	_, f.last, err = h.Change(h.Size())
	f.count = h.Size()
	return err
}

// writeFrames writes the changes from an epoch on.
func writeFrames(w io.Writer, h *membership.History, from uint64) error {
	var out []byte
	for epoch := from; epoch <= h.Size(); epoch++ {
		_, envelope, err := h.Change(epoch)
		if err != nil {
			return err
		}
		out = appendFrame(out, envelope)
		if len(out) >= 1<<20 || epoch == h.Size() {
			if _, err := w.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	return nil
}

// close closes the file.
func (f *changeFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
