package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// successorKeyOf returns a signer that is the same in every run.
func successorKeyOf(t testing.TB, name string, seed byte) (note.Signer, string) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	signer, err := NewSigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := Vkey(name, key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return signer, vkey
}

// goldenSuccessor continues the log old.example/log, which ended at size 3.
func goldenSuccessor(t testing.TB) *Successor {
	t.Helper()
	signer, _ := successorKeyOf(t, "old.example/log", 1)
	signed, err := Sign(Checkpoint{Origin: "old.example/log", Size: 3, Root: [32]byte{1, 2, 3}}, signer)
	if err != nil {
		t.Fatal(err)
	}
	cosigner, err := NewEd25519Cosigner("witness.example/w", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	n, err := ParseNote(signed)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := cosigner.Cosign(n.Text, 1700000000)
	if err != nil {
		t.Fatal(err)
	}
	_, key := successorKeyOf(t, "new.example/log", 2)
	_, receipt := successorKeyOf(t, "new.example/log/receipt", 3)
	return &Successor{Origin: "new.example/log", Keys: []string{key}, ReceiptKeys: []string{receipt}, Checkpoint: append(signed, sig.Line()...)}
}

const successorFile = "../../testdata/successor/entry.txt"

func TestSuccessorGolden(t *testing.T) {
	s := goldenSuccessor(t)
	entry, err := s.Format()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(successorFile, entry, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(successorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(entry, want) {
		t.Errorf("entry is\n%s\nwant\n%s", entry, want)
	}
	got, err := ParseSuccessor(want)
	if err != nil {
		t.Fatal(err)
	}
	signer, _ := successorKeyOf(t, "old.example/log", 1)
	c, err := got.Predecessor("old.example/log", []note.Verifier{signer.(note.Verifier)})
	if err != nil || c.Size != 3 {
		t.Errorf("predecessor: %+v, %v", c, err)
	}
	if _, err := got.Predecessor("other.example/log", []note.Verifier{signer.(note.Verifier)}); !errors.Is(err, ErrOrigin) {
		t.Errorf("predecessor of another origin: %v", err)
	}
}

func TestSuccessorRefuses(t *testing.T) {
	good, err := goldenSuccessor(t).Format()
	if err != nil {
		t.Fatal(err)
	}
	text := string(good)
	lines := strings.SplitN(text, "\n", 6) // header, origin, key, receipt key, blank, note
	for name, bad := range map[string]string{
		"empty":               "",
		"another version":     strings.Replace(text, " v1\n", " v2\n", 1),
		"no blank line":       strings.Replace(text, "\n\n", "\n", 1),
		"carriage return":     strings.Replace(text, "\n", "\r\n", 1),
		"no key":              strings.Replace(text, lines[2]+"\n", "", 1),
		"key of another name": strings.Replace(text, "key new.", "key old.", 1),
		"receipt name":        strings.Replace(text, "log/receipt+", "log/receiptx+", 1),
		"key twice":           strings.Replace(text, lines[2]+"\n", lines[2]+"\n"+lines[2]+"\n", 1),
		"out of order":        strings.Replace(text, lines[1]+"\n"+lines[2], lines[2]+"\n"+lines[1], 1),
		"origin twice":        strings.Replace(text, lines[1]+"\n", lines[1]+"\n"+lines[1]+"\n", 1),
		"unknown line":        strings.Replace(text, lines[1]+"\n", lines[1]+"\ncomment\n", 1),
		"no note":             text[:strings.Index(text, "\n\n")+2],
		"unsigned note":       text[:strings.Index(text, "—")],
		"trailing byte":       text + "x",
		"same origin":         strings.Replace(text, "old.example/log\n3", "new.example/log\n3", 1),
		"not a checkpoint":    strings.Replace(text, "\n3\n", "\n03\n", 1),
		"too large":           text + strings.Repeat("x", MaxSuccessorSize),
		"bad key":             strings.Replace(text, lines[2], lines[2][:len(lines[2])-4]+"AAAA", 1),
	} {
		if bad == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		if s, err := ParseSuccessor([]byte(bad)); err == nil {
			t.Errorf("%s: parsed %+v", name, s)
		} else if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := goldenSuccessor(t)
	s.Keys = nil
	if _, err := s.Format(); !errors.Is(err, ErrMalformed) {
		t.Errorf("formatting without keys: %v", err)
	}
	s = goldenSuccessor(t)
	s.Checkpoint = append(s.Checkpoint, bytes.Repeat([]byte("— w AAAAAAAA\n"), 5000)...)
	if _, err := s.Format(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("formatting a large note: %v", err)
	}
}

func TestTrimCosignatures(t *testing.T) {
	s := goldenSuccessor(t)
	signer, _ := successorKeyOf(t, "old.example/log", 1)
	keep := []note.Verifier{signer.(note.Verifier)}
	if got, err := TrimCosignatures(s.Checkpoint, keep, len(s.Checkpoint)); err != nil || !bytes.Equal(got, s.Checkpoint) {
		t.Errorf("everything fits: %q, %v", got, err)
	}
	got, err := TrimCosignatures(s.Checkpoint, keep, len(s.Checkpoint)-1)
	if err != nil || bytes.Contains(got, []byte("witness.example")) || !bytes.Contains(got, []byte("— old.example/log ")) {
		t.Errorf("no room for the witness: %q, %v", got, err)
	}
	if _, err := TrimCosignatures(s.Checkpoint, keep, 60); !errors.Is(err, ErrTooLarge) {
		t.Errorf("no room for the log: %v", err)
	}
	if _, err := TrimCosignatures(s.Checkpoint, nil, 1<<20); !errors.Is(err, ErrTooLarge) {
		t.Errorf("no log key: %v", err)
	}
}

// FuzzSuccessor: what parses formats to the same bytes.
func FuzzSuccessor(f *testing.F) {
	good, err := os.ReadFile(successorFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("tallystick log successor v1\norigin a\n\n"))
	f.Fuzz(func(t *testing.T, entry []byte) {
		s, err := ParseSuccessor(entry)
		if err != nil {
			return
		}
		again, err := s.Format()
		if err != nil || !bytes.Equal(again, entry) {
			t.Fatalf("%q formats to %q, %v", entry, again, err)
		}
	})
}
