package provenance_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

func TestOpenings(t *testing.T) {
	list := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte{7}, record.MaxOpeningSize)}
	tree := tlog.Tree{N: 2, Hash: tlog.RecordHash([]byte("root"))} // one entry came while they were saved
	file := provenance.FormatOpenings("example.com/audit", tree)
	for _, o := range list {
		file = provenance.AppendOpening(file, o)
	}
	r, err := provenance.NewOpeningReader(iotest.HalfReader(bytes.NewReader(file)))
	if err != nil || r.Origin() != "example.com/audit" || r.Tree() != tree {
		t.Fatal(err)
	}
	for _, want := range list {
		if have, err := r.Next(); err != nil || !bytes.Equal(have, want) {
			t.Errorf("%d bytes, %v, want %d", len(have), err, len(want))
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestOpeningsRefused(t *testing.T) {
	root := tlog.RecordHash(nil).String()
	head := provenance.FormatOpenings("o", tlog.Tree{N: 2, Hash: tlog.RecordHash(nil)})
	line := func(rest string) []byte { return []byte("tallystick-openings/1.0 " + rest) }
	for name, file := range map[string][]byte{
		"empty":           nil,
		"another format":  bytes.Replace(head, []byte("1.0"), []byte("2.0"), 1),
		"no origin":       line(" 2 " + root + "\n"),
		"no newline":      line("o 2 " + root),
		"origin alone":    line("o\n"),
		"one field more":  line("o 2 " + root + " \n"),
		"no size":         line("o x " + root + "\n"),
		"size 0":          line("o 0 " + root + "\n"),
		"size with sign":  line("o +2 " + root + "\n"),
		"size too large":  line("o 9223372036854775808 " + root + "\n"),
		"no root":         line("o 2 " + root[4:] + "\n"),
		"none":            head,
		"endless line":    bytes.Repeat([]byte{'a'}, 1<<20),
		"length cut off":  append(bytes.Clone(head), 0, 0),
		"too few":         provenance.AppendOpening(bytes.Clone(head), []byte("one")),
		"opening cut off": append(bytes.Clone(head), 0, 0, 0, 3, 1),
		"too large":       append(bytes.Clone(head), 0xff, 0, 0, 3, 1),
	} {
		r, err := provenance.NewOpeningReader(bytes.NewReader(file))
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, provenance.ErrOpenings) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken")
	if _, err := provenance.NewOpeningReader(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("broken: %v", err)
	}
	r, err := provenance.NewOpeningReader(io.MultiReader(bytes.NewReader(head), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, broken) {
		t.Errorf("broken later: %v", err)
	}
}
