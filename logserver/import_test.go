package logserver

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// importSource is another log and a new one to be filled with its entries.
func importSource(t *testing.T, n int) (source *testLog, options Options) {
	t.Helper()
	from := testOptions(vfs.NewMem())
	from.Origin, from.Key, from.ReceiptKey = "old.example/log", testKey(7), nil
	source = newTestLog(t, from)
	source.addN(n)
	if err := source.Wait(t.Context(), int64(n)); err != nil {
		t.Fatal(err)
	}
	options = testOptions(vfs.NewMem())
	options.ImportFrom = source.Vkey()
	return source, options
}

// fill appends the source's entries from what the log has up to, not including, end.
func (tl *testLog) fill(source *testLog, end int) {
	tl.t.Helper()
	for len(tl.data) < end {
		data := source.data[len(tl.data):min(end, len(tl.data)+MaxBatch)]
		var batch []Entry
		for _, d := range data {
			batch = append(batch, Entry{Data: d})
			tl.sequence(batch[len(batch)-1])
		}
		if _, _, err := tl.AppendBatch(context.Background(), batch); err != nil {
			tl.t.Fatal(err)
		}
	}
}

func TestImportedLogSignsTheSourcesTreeFirst(t *testing.T) {
	source, options := importSource(t, 700)
	tl := newTestLog(t, options)
	tl.fill(source, 300)
	tl.reopen() // an interrupted import goes on
	if vkey, first := tl.ImportedFrom(); vkey != source.Vkey() || first.Note != nil || tl.Size() != 300 {
		t.Fatalf("after reopening: %q, %v, size %d", vkey, first, tl.Size())
	}
	tl.fill(source, 700)
	if tl.Signed().Size != 0 || tl.Published().Size != 0 {
		t.Fatalf("signed %d and published %d while filling", tl.Signed().Size, tl.Published().Size)
	}
	if err := tl.FinishImport(source.Published().Note); err != nil {
		t.Fatal(err)
	}
	tl.close()

	// The log lives on by itself; whatever comes first, the source's tree is
	// signed before anything larger.
	tl.opts.ImportFrom = ""
	tl.opts.HoldWitness = true // so that the first signature can be seen
	tl.open()
	tl.add(tl.nextEntry())
	vkey, first := tl.ImportedFrom()
	if vkey != source.Vkey() || !bytes.Equal(first.Note, source.Published().Note) {
		t.Errorf("imported from %q: %s", vkey, first.Note)
	}
	tl.reopen()
	tl.opts.HoldWitness = false
	tl.reopen()
	if err := tl.Wait(t.Context(), 701); err != nil {
		t.Fatal(err)
	}
	if c, err := tl.FirstPublishedCovering(0); err != nil || c.Size != 700 || c.Root != first.Root {
		t.Errorf("first published tree is %d %v, %v; want the source's %d %v", c.Size, c.Root, err, first.Size, first.Root)
	}
	tl.check()
}

func TestImportRefusesWhatIsNotTheSource(t *testing.T) {
	source, options := importSource(t, 10)
	stranger, _ := importSource(t, 10)
	tl := newTestLog(t, options)
	tl.fill(source, 9)
	good := source.Published().Note
	if err := tl.FinishImport(good); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "size 10") {
		t.Errorf("one entry is missing: %v", err)
	}
	tl.add(Entry{Data: []byte("not the source's")})
	for name, signed := range map[string][]byte{"another root": good, "nonsense": []byte("x"), "unsigned": good[:len(good)-90], "own": tl.Published().Note} {
		if err := tl.FinishImport(signed); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	tl.close()

	for name, c := range map[string]struct {
		from string
		want error
	}{
		"not as an import": {"", ErrImporting},
		"another source":   {strings.Replace(stranger.Vkey(), "old.example", "other.example", 1), ErrInvalid}, // key ID is of the name
		"its own origin":   {mustVkey(t, options.Origin), ErrInvalid},
		"an unlike key":    {mustVkey(t, "other.example/log"), ErrIdentity},
	} {
		other := tl.opts
		other.ImportFrom = c.from
		if _, err := Open(other); !errors.Is(err, c.want) {
			t.Errorf("opening %s: %v, want %v", name, err, c.want)
		}
	}
	tl.open()

	plain := testOptions(vfs.NewMem())
	ordinary := newTestLog(t, plain)
	if err := ordinary.FinishImport(good); !errors.Is(err, ErrInvalid) {
		t.Errorf("finishing what never began: %v", err)
	}
	if vkey, _ := ordinary.ImportedFrom(); vkey != "" {
		t.Errorf("an ordinary log was imported from %q", vkey)
	}
	ordinary.close()
	plain.ImportFrom = source.Vkey()
	if _, err := Open(plain); !errors.Is(err, ErrExists) {
		t.Errorf("importing into an ordinary log: %v", err)
	}
	ordinary.open()
}

func mustVkey(t *testing.T, name string) string {
	t.Helper()
	signer, err := newHeadSigner(name, name, testKey(8))
	if err != nil {
		t.Fatal(err)
	}
	return signer.vkey
}

func TestFinishedImportIsVerifiedAtOpen(t *testing.T) {
	source, options := importSource(t, 20)
	tl := newTestLog(t, options)
	tl.fill(source, 20)
	if err := tl.FinishImport(source.Published().Note); err != nil {
		t.Fatal(err)
	}
	tl.close()
	if _, err := Open(options); !errors.Is(err, ErrExists) {
		t.Errorf("importing again: %v", err)
	}
	options.ImportFrom = ""
	mark := importMark{vkey: source.Vkey(), note: source.Published().Note}.encode()
	for name, value := range map[string][]byte{
		"cut":          mark[:len(mark)-3],
		"no note":      []byte(importDone + "\n" + source.Vkey() + "\n"),
		"no vkey":      []byte(importDone),
		"state":        append([]byte("x"), mark...),
		"flipped":      flip(60)(bytes.Clone(mark)),
		"another tree": importMark{source.Vkey(), resign(t, source, 20)}.encode(),
	} {
		tamper(t, options, metaImport, func([]byte) []byte { return value })
		if l, err := Open(options); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				l.Close(t.Context())
			}
		}
	}
	tamper(t, options, metaImport, func([]byte) []byte { return mark })
	tl.opts = options
	tl.open()
}

// resign makes the source's key sign another tree.
func resign(t *testing.T, source *testLog, size int64) []byte {
	t.Helper()
	signer, err := newHeadSigner(source.Origin(), source.Origin(), source.opts.Key)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: source.Origin(), Size: size}, signer.signer)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
