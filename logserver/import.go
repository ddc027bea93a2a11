package logserver

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// An imported log begins with the entries of another log, its source. It has an
// origin and keys of its own: two stores that sign under one origin would be a
// split view waiting to happen. What binds it to its source is that its first
// tree is the source's tree, and that it keeps the source's checkpoint.
//
// A log is made for it with Options.ImportFrom, opened with the same and filled
// with AppendBatch, any number of times, and ended with FinishImport. Until
// then it signs nothing and opens in no other way, so that no entry of its own
// can come between; afterwards the first tree that it signs is the imported one.

// importMark is what the store keeps of an import, under metaImport.
type importMark struct {
	vkey string // of the source
	note []byte // the source's checkpoint that was reached; nil while it goes on
}

// States of an import, the first line of its mark.
const (
	importOpen = "importing"
	importDone = "imported"
)

func (m importMark) encode() []byte {
	state := importDone
	if m.note == nil {
		state = importOpen
	}
	return fmt.Appendf(nil, "%s\n%s\n%s", state, m.vkey, m.note)
}

func decodeImportMark(b []byte) (importMark, error) {
	state, rest, _ := bytes.Cut(b, []byte("\n"))
	vkey, signed, ok := bytes.Cut(rest, []byte("\n"))
	m := importMark{vkey: string(vkey), note: signed}
	switch {
	case ok && string(state) == importOpen && len(signed) == 0:
		m.note = nil
		return m, nil
	case ok && string(state) == importDone && len(signed) > 0:
		return m, nil
	}
	return importMark{}, corrupt("import mark %q", b)
}

// open verifies the source's checkpoint.
func (m importMark) open() (SignedNote, error) {
	key, err := checkpoint.ParseLogVkey(m.vkey)
	if err != nil {
		return SignedNote{}, err
	}
	c, err := checkpoint.Open(m.note, key.Name(), []note.Verifier{key})
	if err != nil {
		return SignedNote{}, err
	}
	return SignedNote{Size: c.Size, Root: c.Root, Note: m.note}, nil
}

// checkImportFrom validates Options.ImportFrom and makes the log hold back
// everything that it would sign or ask witnesses to sign.
func (o *Options) checkImportFrom() error {
	if o.ImportFrom == "" {
		return nil
	}
	key, err := checkpoint.ParseLogVkey(o.ImportFrom)
	if err != nil {
		return fmt.Errorf("%w: key of the log to import: %w", ErrInvalid, err)
	}
	if key.Name() == o.Origin {
		return invalid("the log to import has the origin %q of the new log: give the new log an origin of its own, or restore the old one from a backup and let it catch up", o.Origin)
	}
	o.HoldWitness, o.Policy = true, nil
	return nil
}

// loadImport reads the mark and holds it against the options and the tree.
func (l *Log) loadImport(s snapshot) error {
	raw, err := l.store.get(metaImport)
	if errors.Is(err, ErrNotFound) {
		if l.opts.ImportFrom != "" {
			return fmt.Errorf("%w, which no import began: it cannot take over another log's entries", ErrExists)
		}
		return nil
	}
	if err != nil {
		return err
	}
	mark, err := decodeImportMark(raw)
	if err != nil {
		return err
	}
	l.source.vkey = mark.vkey
	if mark.note == nil {
		switch l.opts.ImportFrom {
		case mark.vkey:
			return nil
		case "":
			return fmt.Errorf("%w: run logserver import again, from the log with the key %q", ErrImporting, mark.vkey)
		}
		return fmt.Errorf("%w: it is being filled from the log with the key %q, not %q", ErrIdentity, mark.vkey, l.opts.ImportFrom)
	}
	if l.opts.ImportFrom != "" {
		return fmt.Errorf("%w, whose import from the log with the key %q is complete", ErrExists, mark.vkey)
	}
	first, err := mark.open()
	if err != nil {
		return corrupt("checkpoint of the imported log: %v", err)
	}
	if root, err := s.rootAt(first.Size); err != nil || root != first.Root {
		return corrupt("the tree of size %d is not the imported one: %v", first.Size, err)
	}
	l.source.first = first
	return nil
}

// source is what a log knows of the log that it was imported from.
type source struct {
	vkey  string     // "" if it was not
	first SignedNote // the source's checkpoint; zero while the import goes on
}

// ImportedFrom returns the verifier key of the log whose tree this log began
// with, and the checkpoint that it signed for it; "" if this log was not
// imported. The checkpoint is evidence: it was verified, and with an unfinished
// import its Note is nil.
func (l *Log) ImportedFrom() (vkey string, first SignedNote) {
	return l.source.vkey, l.source.first
}

// FinishImport ends the filling of a log that was opened with
// Options.ImportFrom. The signed note must be a checkpoint by that key of
// exactly the tree that the log holds; it is kept with the store. Then close
// the log and open it without ImportFrom.
func (l *Log) FinishImport(signed []byte) error {
	if l.opts.ImportFrom == "" {
		return invalid("no import is under way")
	}
	mark := importMark{vkey: l.opts.ImportFrom, note: bytes.Clone(signed)}
	first, err := mark.open()
	if err != nil {
		return fmt.Errorf("%w: checkpoint of the imported log: %w", ErrInvalid, err)
	}
	view := l.view.Load()
	if first.Size != view.size || first.Root != view.root {
		return invalid("checkpoint has size %d and root %v, the imported tree has %d and %v", first.Size, first.Root, view.size, view.root)
	}
	return l.write(map[string][]byte{string(metaImport): mark.encode()})
}
