package checkpoint

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestSignAndOpen(t *testing.T) {
	a, b := logSigner(t, testOrigin), renamed(t, testOrigin, "second key")
	c := testCheckpoint(t, testOrigin, 5)
	signed, err := Sign(c, a, b)
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][]note.Verifier{"first": {a.Key}, "second": {b.Key}, "both": {a.Key, b.Key}} {
		if got, err := Open(signed, testOrigin, keys); err != nil || got != c {
			t.Errorf("%s key: %v, %v", name, got, err)
		}
	}
	if _, err := Open(signed, "example.com/other", []note.Verifier{a.Key}); !errors.Is(err, ErrOrigin) {
		t.Errorf("other origin: %v", err)
	}
	if _, err := Open(signed, testOrigin, nil); !errors.Is(err, ErrLogSignature) {
		t.Errorf("no key: %v", err)
	}
	if _, err := Open(signed, testOrigin, []note.Verifier{renamed(t, testOrigin, "third key").Key}); !errors.Is(err, ErrLogSignature) {
		t.Errorf("unknown key: %v", err)
	}
	if _, err := Sign(c); !errors.Is(err, ErrSigning) {
		t.Errorf("no signer: %v", err)
	}
}

// renamed is a signer whose key was derived from another name than its own.
func renamed(t testing.TB, name, keyName string) *ed25519Signer {
	t.Helper()
	s, err := newEd25519Signer(name, edKey(keyName), AlgEd25519)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOpenRefusesEveryFlippedBit: no bit of text or pinned signature can change.
func TestOpenRefusesEveryFlippedBit(t *testing.T) {
	log := logSigner(t, testOrigin)
	signed := cosigned(t, testCheckpoint(t, testOrigin, 5), log, 0)
	for i := range signed {
		for bit := range 8 {
			changed := bytes.Clone(signed)
			changed[i] ^= 1 << bit
			if c, err := Open(changed, testOrigin, []note.Verifier{log.Key}); err == nil {
				t.Fatalf("bit %d of byte %d: %+v from %q", bit, i, c, changed)
			}
		}
	}
}

// TestBadSignatureOfKnownKey: wherever it is, it makes the note unacceptable,
// also where golang.org/x/mod would be content with a good one before it.
func TestBadSignatureOfKnownKey(t *testing.T) {
	log := logSigner(t, testOrigin)
	c := testCheckpoint(t, testOrigin, 5)
	good := cosigned(t, c, log, 0)
	_, bad, _ := bytes.Cut(cosigned(t, testCheckpoint(t, testOrigin, 6), log, 0), []byte("\n\n"))
	text, line, _ := bytes.Cut(good, []byte("\n\n"))
	before := slices.Concat(text, []byte("\n\n"), bad, line)
	after := slices.Concat(good, bad)
	for name, signed := range map[string][]byte{"before": before, "after": after} {
		if _, err := Open(signed, testOrigin, []note.Verifier{log.Key}); !errors.Is(err, ErrLogSignature) {
			t.Errorf("bad signature %s the good one: %v", name, err)
		}
	}
	if _, err := Open(slices.Concat(good, line), testOrigin, []note.Verifier{log.Key}); err != nil {
		t.Errorf("the same good signature twice: %v", err)
	}
}

func TestParseNote(t *testing.T) {
	const line = "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
	tests := []struct {
		name, note string
		want       error
	}{
		{"specification's example", "This is an example message.\n\n" + line, nil},
		{"empty lines in the text", "a\n\nb\n\n" + line, nil},
		{"16 signatures", "a\n\n" + strings.Repeat(line, 16), nil},
		{"100 signatures", "a\n\n" + strings.Repeat(line, 100), nil},
		{"101 signatures", "a\n\n" + strings.Repeat(line, 101), ErrTooLarge},
		{"non-ASCII key name", "a\n\n— é/ü AAAAAAA=\n", nil},
		{"empty", "", ErrMalformed},
		{"no signature", "a\n\n", ErrMalformed},
		{"no blank line", "a\n" + line, ErrMalformed},
		{"no final newline", "a\n\n" + strings.TrimSuffix(line, "\n"), ErrMalformed},
		{"hyphen instead of em dash", "a\n\n" + strings.Replace(line, "—", "-", 1), ErrMalformed},
		{"no space after the dash", "a\n\n" + strings.Replace(line, "— ", "—", 1), ErrMalformed},
		{"no name", "a\n\n—  AAAAAAA=\n", ErrMalformed},
		{"no base64", "a\n\n— foo\n", ErrMalformed},
		{"two spaces", "a\n\n— foo  AAAAAAA=\n", ErrMalformed},
		{"space at the end", "a\n\n— foo AAAAAAA= \n", ErrMalformed},
		{"plus in the name", "a\n\n— f+o AAAAAAA=\n", ErrMalformed},
		{"Unicode space in the name", "a\n\n— f\u00a0o AAAAAAA=\n", ErrMalformed},
		{"long name", "a\n\n— " + strings.Repeat("f", 256) + " AAAAAAA=\n", ErrMalformed},
		{"key ID only", "a\n\n— foo AAAAAA==\n", ErrMalformed},
		{"spare bits", "a\n\n— foo AAAAAAB=\n", ErrMalformed},
		{"carriage return", "a\r\n\n" + line, ErrMalformed},
		{"not UTF-8", "\xff\n\n" + line, ErrMalformed},
		{"too long", strings.Repeat("a", MaxNoteSize) + "\n\n" + line, ErrTooLarge},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, err := ParseNote([]byte(test.note))
			if !errors.Is(err, test.want) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err == nil && string(assembled(n)) != test.note {
				t.Errorf("comes back as %q", assembled(n))
			}
		})
	}
	if _, err := ParseSignatures(make([]byte, MaxNoteSize+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("signatures too long: %v", err)
	}
	if _, err := ParseSignatures([]byte("\xff\n")); !errors.Is(err, ErrMalformed) {
		t.Errorf("signatures not UTF-8: %v", err)
	}
}

func assembled(n *Note) []byte {
	out := append(bytes.Clone(n.Text), '\n')
	for _, sig := range n.Signatures {
		out = append(out, sig.Line()...)
	}
	return out
}

// FuzzOpen compares Open with golang.org/x/mod/sumdb/note: what we accept, it
// accepts with the same text.
func FuzzOpen(f *testing.F) {
	log := logSigner(f, testOrigin)
	c := testCheckpoint(f, testOrigin, 5)
	signed := cosigned(f, c, log, 1000, edCosigner(f, "w.example/1"))
	f.Add(signed)
	f.Add(append(bytes.Clone(signed), signed[bytes.Index(signed, []byte("\n\n"))+2:]...))
	f.Add(bytes.Replace(signed, []byte("5"), []byte("6"), 1))
	f.Add([]byte("example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— example.com/log AAAAAAA=\n"))
	f.Fuzz(func(t *testing.T, signed []byte) {
		if n, err := ParseNote(signed); err == nil && !bytes.Equal(assembled(n), signed) {
			t.Fatalf("%q comes back as %q", signed, assembled(n))
		}
		got, err := Open(signed, testOrigin, []note.Verifier{log.Key})
		if err != nil {
			return
		}
		n, err := note.Open(signed, note.VerifierList(log.Key))
		if err != nil || n.Text != string(got.Body()) {
			t.Fatalf("x/mod: %v, %v", n, err)
		}
		if got != c {
			t.Fatalf("a checkpoint that was never signed: %+v", got)
		}
	})
}
