package provenance_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

func TestOpenings(t *testing.T) {
	list := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte{7}, record.MaxOpeningSize)}
	file := provenance.FormatOpenings("example.com/audit")
	for _, o := range list {
		file = provenance.AppendOpening(file, o)
	}
	r, err := provenance.NewOpeningReader(iotest.HalfReader(bytes.NewReader(file)))
	if err != nil || r.Origin() != "example.com/audit" {
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
	head := provenance.FormatOpenings("o")
	for name, file := range map[string][]byte{
		"empty":           nil,
		"another format":  []byte("tallystick-openings/2.0 o\n"),
		"no origin":       []byte("tallystick-openings/1.0 \n"),
		"no newline":      []byte("tallystick-openings/1.0 o"),
		"endless line":    bytes.Repeat([]byte{'a'}, 1<<20),
		"length cut off":  append(bytes.Clone(head), 0, 0),
		"opening cut off": append(bytes.Clone(head), 0, 0, 0, 3, 1),
		"too large":       append(bytes.Clone(head), 0xff, 0, 0, 3, 1),
	} {
		r, err := provenance.NewOpeningReader(bytes.NewReader(file))
		if err == nil {
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
