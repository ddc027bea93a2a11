package checkpoint

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// evidenceOf is evidence of two checkpoints of the test log.
func evidenceOf(t testing.TB, known, submitted Checkpoint, hashes ...tlog.Hash) *Evidence {
	log := logSigner(t, testOrigin)
	return &Evidence{
		Vkeys:     []string{log.Vkey()},
		Known:     cosigned(t, known, log, 1000, edCosigner(t, "w.example/1")),
		Submitted: cosigned(t, submitted, log, 0),
		Hashes:    hashes,
	}
}

func TestEvidence(t *testing.T) {
	keys := []note.Verifier{logSigner(t, testOrigin).Key}
	tree := newTestTree(t, 9)
	proof, err := tlog.ProveTree(9, 5, tree)
	if err != nil {
		t.Fatal(err)
	}
	proofOf4, err := tlog.ProveTree(9, 4, tree)
	if err != nil {
		t.Fatal(err)
	}
	at4, at5, at9 := testCheckpoint(t, testOrigin, 4), testCheckpoint(t, testOrigin, 5), testCheckpoint(t, testOrigin, 9)
	forkedAt4 := Checkpoint{Origin: testOrigin, Size: 4, Root: tlog.Hash{1}}
	withRoot := func(root tlog.Hash, e *Evidence) *Evidence { e.RootAt = &root; return e }
	forked := Checkpoint{Origin: testOrigin, Size: 5, Root: tlog.Hash{1}}
	elsewhere := testCheckpoint(t, "example.com/other", 9)
	foreign := evidenceOf(t, at5, forked)
	foreign.Submitted = cosigned(t, forked, renamed(t, testOrigin, "stranger"), 0)
	badEmpty, err := note.Sign(&note.Note{Text: string(Checkpoint{Origin: testOrigin, Root: tlog.Hash{1}}.Body())}, logSigner(t, testOrigin))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		evidence *Evidence
		finding  Finding
		err      error
	}{
		{"two roots of one size", evidenceOf(t, at5, forked), Fork, nil},
		{"two roots of one size, other way round", evidenceOf(t, forked, at5), Fork, nil},
		{"no proof", evidenceOf(t, at5, at9), Unproven, nil},
		{"no proof, smaller than known", evidenceOf(t, at9, at5), Unproven, nil},
		{"proof of another past", evidenceOf(t, forked, at9, proof...), Fork, nil},
		{"proof of another past, other way round", evidenceOf(t, at9, forked, proof...), Fork, nil},
		{"proof of another past, one hash less", evidenceOf(t, forked, at9, proof[1:]...), Unproven, nil},
		{"proof that leads nowhere", evidenceOf(t, forked, at9, append([]tlog.Hash{{2}}, proof[1:]...)...), Unproven, nil},
		{"a perfect tree's root is not in the proof", evidenceOf(t, forkedAt4, at9, proofOf4...), Unproven, nil},
		{"a perfect tree's root is named", withRoot(at4.Root, evidenceOf(t, forkedAt4, at9, proofOf4...)), Fork, nil},
		{"another past is named", withRoot(at5.Root, evidenceOf(t, at9, forked, proof...)), Fork, nil},
		{"another past is named wrongly", withRoot(tlog.Hash{3}, evidenceOf(t, forked, at9, proof...)), Unproven, nil},
		{"the past is named", withRoot(at5.Root, evidenceOf(t, at5, at9, proof...)), 0, ErrProof},
		{"another root of the empty tree", withRoot(EmptyRoot, &Evidence{Known: badEmpty, Submitted: evidenceOf(t, at5, at9).Submitted}), Fork, nil},
		{"the empty tree", withRoot(tlog.Hash{1}, evidenceOf(t, Checkpoint{Origin: testOrigin, Root: EmptyRoot}, at9)), 0, ErrProof},
		{"the same twice, a past is named", withRoot(tlog.Hash{1}, evidenceOf(t, at5, at5)), 0, ErrProof},
		{"consistent", evidenceOf(t, at5, at9, proof...), 0, ErrProof},
		{"the same twice", evidenceOf(t, at5, at5), 0, ErrProof},
		{"two logs", evidenceOf(t, at5, elsewhere), 0, ErrOrigin},
		{"not signed by the log", foreign, 0, ErrLogSignature},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text, err := test.evidence.Format()
			if err != nil {
				t.Fatal(err)
			}
			e, err := ParseEvidence(text)
			if err != nil {
				t.Fatal(err)
			}
			if finding, err := e.Judge(keys); finding != test.finding || !errors.Is(err, test.err) {
				t.Errorf("%v, %v", finding, err)
			}
			if v, err := e.Examine(keys); err == nil {
				larger := max(v.Known.Size, v.Submitted.Size)
				smaller := min(v.Known.Size, v.Submitted.Size)
				want := tlog.Hash{}
				if v.Finding == Fork && larger == smaller {
					want = v.Submitted.Root
				} else if v.Finding == Fork {
					want = tree.head(t, smaller).Hash
				}
				if v.RootAt != want {
					t.Errorf("root at size %d is %v, want %v", smaller, v.RootAt, want)
				}
			}
			if finding, err := e.Judge(nil); finding != 0 || !errors.Is(err, ErrLogSignature) {
				t.Errorf("without keys: %v, %v", finding, err)
			}
		})
	}
	for finding, want := range map[Finding]string{Fork: "fork", Unproven: "unproven", 0: "finding 0"} {
		if finding.String() != want {
			t.Errorf("%d is called %q", int(finding), finding)
		}
	}
}

func TestParseEvidenceRefuses(t *testing.T) {
	e := evidenceOf(t, testCheckpoint(t, testOrigin, 5), testCheckpoint(t, testOrigin, 9), tlog.Hash{1})
	text, err := e.Format()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) []byte {
		if !bytes.Contains(text, []byte(from)) {
			t.Fatalf("%q is not in %s", from, text)
		}
		return bytes.Replace(text, []byte(from), []byte(to), 1)
	}
	for name, bad := range map[string][]byte{
		"empty":              nil,
		"not JSON":           []byte("x"),
		"null":               []byte("null"),
		"other version":      replace("evidence v1", "evidence v2"),
		"unknown member":     replace("{\n", "{\n  \"x\": 1,\n"),
		"repeated member":    replace("{\n", "{\n  \"known\": \"\",\n"),
		"member in capitals": replace("\"known\"", "\"Known\""),
		"other indent":       replace("{\n  ", "{\n "),
		"trailing bytes":     append(bytes.Clone(text), "{}"...),
		"hash not base64":    replace("AQAAAAAA", "!QAAAAAA"),
		"known not a note":   replace("\"known\": \"example", "\"known\": \"\\u0000example"),
		"root not base64":    replace("  \"consistency", "  \"root_at_smaller_size\": \"x\",\n  \"consistency"),
		"empty root":         replace("  \"consistency", "  \"root_at_smaller_size\": \"\",\n  \"consistency"),
		"65 hashes":          replace("\"AQ", strings.Repeat("\"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\n    ", 64)+"\"AQ"),
		"too large":          append(bytes.Clone(text), bytes.Repeat([]byte(" "), MaxEvidenceSize)...),
	} {
		if _, err := ParseEvidence(bad); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseEvidence(replace("example.com/log+", "example.com/log2+")); !errors.Is(err, ErrKey) {
		t.Errorf("bad key: %v", err)
	}
}

func FuzzParseEvidence(f *testing.F) {
	text, err := evidenceOf(f, testCheckpoint(f, testOrigin, 5), testCheckpoint(f, testOrigin, 9), tlog.Hash{1}).Format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	past := evidenceOf(f, testCheckpoint(f, testOrigin, 5), testCheckpoint(f, testOrigin, 9), tlog.Hash{1})
	past.RootAt = &tlog.Hash{2}
	if text, err = past.Format(); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	keys := []note.Verifier{logSigner(f, testOrigin).Key}
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := ParseEvidence(text)
		if err != nil {
			return
		}
		again, err := e.Format()
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q comes back as %q", text, again)
		}
		if finding, err := e.Judge(keys); err == nil && finding == Fork {
			t.Fatal("a fork that the log never signed")
		}
	})
}
