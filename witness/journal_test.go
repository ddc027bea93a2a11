package witness

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// readAll returns the notes of a journal.
func readAll(journal []byte) (notes []string, torn bool, err error) {
	torn, err = readJournal(bytes.NewReader(journal), func(n []byte) error {
		notes = append(notes, string(n))
		return nil
	})
	return notes, torn, err
}

func TestJournal(t *testing.T) {
	var journal []byte
	var want []string
	for i := range 5 {
		var batch [][]byte
		for j := range i + 1 {
			batch = append(batch, fmt.Appendf(nil, "note %d %d\n\n— x AAAA\n", i, j))
			want = append(want, string(batch[j]))
		}
		journal = appendBatch(journal, batch...)
	}
	if notes, torn, err := readAll(journal); err != nil || torn || !slices.Equal(notes, want) {
		t.Errorf("%q, %v, %v", notes, torn, err)
	}
	if notes, torn, err := readAll(nil); err != nil || torn || notes != nil {
		t.Errorf("empty: %q, %v, %v", notes, torn, err)
	}
}

// TestTornJournal: wherever a crash cuts the last batch off, or leaves holes in
// it, the batches before it are read and it is not.
func TestTornJournal(t *testing.T) {
	first := appendBatch(nil, []byte("first note\n"), []byte("second note\n"))
	last := appendBatch(nil, bytes.Repeat([]byte("last note "), 20), []byte("the very last\n"))
	for cut := 1; cut < len(last); cut++ {
		if notes, torn, err := readAll(slices.Concat(first, last[:cut])); err != nil || !torn || len(notes) != 2 {
			t.Errorf("cut at %d: %q, %v, %v", cut, notes, torn, err)
		}
		hole := bytes.Clone(last)
		clear(hole[cut:])
		if notes, torn, err := readAll(slices.Concat(first, hole)); err != nil || !torn || len(notes) != 2 {
			t.Errorf("zeros from %d: %q, %v, %v", cut, notes, torn, err)
		}
		if cut >= tornZeros {
			hole = bytes.Clone(last)
			clear(hole[:cut])
			if notes, torn, err := readAll(slices.Concat(first, hole)); err != nil || !torn || len(notes) != 2 {
				t.Errorf("zeros up to %d: %q, %v, %v", cut, notes, torn, err)
			}
		}
	}
}

// TestDamagedJournal: a flipped bit anywhere, in the last batch too, is damage
// and not a crash's doing; so is a batch that is torn with another one behind it.
func TestDamagedJournal(t *testing.T) {
	first := appendBatch(nil, []byte("first note\n"))
	last := appendBatch(nil, []byte("last note, @ home\n"))
	journal := slices.Concat(first, last)
	for i := range journal {
		for bit := range 8 {
			bad := bytes.Clone(journal)
			bad[i] ^= 1 << bit
			if notes, torn, err := readAll(bad); !errors.Is(err, errDamaged) {
				t.Errorf("byte %d, bit %d: %q, %v, %v", i, bit, notes, torn, err)
			}
		}
	}
	for cut := 1; cut < len(first); cut++ {
		if _, _, err := readAll(slices.Concat(first[:cut], last)); !errors.Is(err, errDamaged) {
			t.Errorf("first batch cut at %d: %v", cut, err)
		}
	}
	for name, bad := range map[string][]byte{
		"something else":       slices.Concat(journal, []byte("something else\n")),
		"a long line":          slices.Concat(journal, bytes.Repeat([]byte("x"), maxBatchLine+1)),
		"more than a batch":    slices.Concat(journal, make([]byte, maxBatchLine+maxBatchBytes+1)),
		"no notes":             slices.Concat(journal, appendBatch(nil)),
		"too long a batch":     appendBatch(nil, bytes.Repeat([]byte("x"), maxBatchBytes)),
		"a torn one in middle": slices.Concat(first, make([]byte, 512), last),
	} {
		if _, _, err := readAll(bad); !errors.Is(err, errDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused := errors.New("refused")
	if _, err := readJournal(bytes.NewReader(journal), func([]byte) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("refused note: %v", err)
	}
}

// FuzzJournal: whatever is in the file, reading it ends, and what it returns is
// the beginning of the file written the one way there is.
func FuzzJournal(f *testing.F) {
	first := appendBatch(nil, []byte("first note\n"), []byte("second\n"))
	f.Add(first)
	f.Add(slices.Concat(first, first[:30]))
	f.Add(slices.Concat(first, make([]byte, 40)))
	f.Add([]byte{batchMark})
	f.Fuzz(func(t *testing.T, journal []byte) {
		in := bytes.NewReader(journal)
		var read int
		_, err := readJournal(in, func(n []byte) error {
			if len(n) > len(journal) {
				t.Fatal("a note from nowhere")
			}
			read += len(n) + 1
			return nil
		})
		if err != nil && !errors.Is(err, errDamaged) {
			t.Fatal(err)
		}
		if read > len(journal) {
			t.Fatalf("%d bytes of notes in %d", read, len(journal))
		}
	})
}

// TestDamagedHead: a journal whose batches are whole, and whose heads are not
// this witness's, or go back.
func TestDamagedHead(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	d := newMemDisk()
	f := newFixture(t, d)
	f.mustAdd(l, 0, 9)
	path := filepath.Join(f.dir, headsFile)
	good := f.head(testOrigin).signed
	f.Close()
	for name, notes := range map[string][][]byte{
		"empty":            {{}},
		"no cosignature":   {l.signed(9)},
		"a flipped bit":    {flip(good, len(testOrigin)+1)},
		"a flipped bit 2":  {flip(good, len(good)-100)},
		"one key twice":    {append(bytes.Clone(good), lastLine(good)...)},
		"not a checkpoint": {[]byte("text\n\n— x AAAAAAA=\n")},
		"smaller than one": {good, headOf(l, 8, 1, 1)},
	} {
		d.put(path, appendBatch(nil, notes...))
		if w, err := f.tryOpen(d); err == nil {
			w.Close()
			t.Errorf("%s: started", name)
		}
	}
	// What is not of the newest head does not matter, nor what is of other logs.
	d.put(path, slices.Concat(appendBatch(nil, good), appendBatch(nil, headOf(l, 9, 5, 9), headOf(newTestLog("example.com/gone", "entry", 3), 3, 1, 1))))
	f.open(d)
	if h := f.head(testOrigin); h.cosignatures[placeEd25519].timestamp != 5 || h.cosignatures[placeMLDSA44].timestamp != 9 {
		t.Errorf("head with cosignatures of %+v", h.cosignatures)
	}
	if _, err := f.Latest(originHash("example.com/gone")); err != nil {
		t.Errorf("a log that the policy does not name any more: %v", err)
	}
	f.mustAdd(l, 9, 12)
}

// TestJournalIsWrittenAnew: the journal of a log that goes on for ever does not.
func TestJournalIsWrittenAnew(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 60)
	d := newMemDisk()
	f := newFixture(t, d)
	f.store.slack = 8 << 10
	largest := 0
	for size := range int64(60) {
		f.mustAddDirectly(l, size, size+1)
		largest = max(largest, len(d.content(filepath.Join(f.dir, headsFile))))
	}
	if one := len(f.head(testOrigin).signed); largest > 10<<10+2*one || largest < 8<<10 {
		t.Errorf("journal of up to %d bytes for one head of %d", largest, one)
	}
	f.restart(d)
	if size := f.size(testOrigin); size != 60 {
		t.Errorf("head of size %d", size)
	}
}

// headOf makes a head with cosignatures of the given times.
func headOf(l *testLog, size, edTime, mldsaTime int64) []byte {
	out, body := l.signed(size), l.checkpoint(size).Body()
	out = append(out, must(testKeys().Ed25519.Cosign(body, edTime)).Line()...)
	return append(out, must(testKeys().MLDSA44.Cosign(body, mldsaTime)).Line()...)
}

func lastLine(b []byte) []byte {
	return b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:]
}

// flip changes a byte into another of the same alphabet.
func flip(b []byte, i int) []byte {
	out := bytes.Clone(b)
	if out[i] == '1' {
		out[i] = '2'
	} else {
		out[i] = '1'
	}
	return out
}
