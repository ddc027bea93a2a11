package checkpoint

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"filippo.io/mldsa"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// TestCosignaturesAgainstOracle: transparency-dev/formats verifies what we sign
// and signs what we verify.
func TestCosignaturesAgainstOracle(t *testing.T) {
	log := logSigner(t, testOrigin)
	for _, size := range []int64{0, 1, 5, 300} {
		c := testCheckpoint(t, testOrigin, size)
		for _, cosigner := range []*Cosigner{edCosigner(t, "w.example"), mldsaCosigner(t, "w.example")} {
			signed := cosigned(t, c, log, 1679315147, cosigner)
			oracle, err := fnote.NewVerifierForCosignatureV1(cosigner.Key().Vkey())
			if err != nil {
				t.Fatal(err)
			}
			n, err := note.Open(signed, note.VerifierList(oracle))
			if err != nil || len(n.Sigs) != 1 {
				t.Fatalf("size %d, type %d: the oracle finds %v, %v", size, cosigner.Key().Alg(), n, err)
			}
			if at, err := fnote.CoSigV1Timestamp(n.Sigs[0]); err != nil || at.Unix() != 1679315147 {
				t.Errorf("the oracle reads time %v, %v", at, err)
			}

			skey := "PRIVATE+KEY+w.example+" + "00000000+" + base64.StdEncoding.EncodeToString(append([]byte{cosigner.Key().Alg()}, seed("w.example")...))
			signer, err := fnote.NewSignerForCosignatureV1(skey)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := note.Sign(&note.Note{Text: string(c.Body())}, signer)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := ParseNote(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if good, err := ours.Verified([]note.Verifier{cosigner.Key()}); err != nil || len(good) != 1 {
				t.Errorf("size %d, type %d: the oracle's cosignature: %v, %v", size, cosigner.Key().Alg(), good, err)
			}
		}
	}
}

// TestSpecificationExample verifies the example of c2sp.org/tlog-cosignature up
// to its form; the witness's public key is not published with it.
func TestSpecificationExample(t *testing.T) {
	const example = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
		"— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n" +
		"— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
	n, err := ParseNote([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Parse(n.Text); err != nil || c.Size != 20852163 {
		t.Errorf("%+v, %v", c, err)
	}
	if at, ok := cosignatureTimestamp(n.Signatures[1].Bytes); !ok || at != 1679315147 {
		t.Errorf("timestamp %d", at)
	}
}

func TestCosignatureBounds(t *testing.T) {
	c := testCheckpoint(t, testOrigin, 5)
	for _, cosigner := range []*Cosigner{edCosigner(t, "w"), mldsaCosigner(t, "w")} {
		key := cosigner.Key()
		for _, timestamp := range []int64{0, -1, math.MinInt64} {
			if _, err := cosigner.Cosign(c.Body(), timestamp); !errors.Is(err, ErrSigning) {
				t.Errorf("timestamp %d: %v", timestamp, err)
			}
		}
		if _, err := cosigner.Cosign([]byte("text\n"), 1); !errors.Is(err, ErrMalformed) {
			t.Errorf("not a checkpoint: %v", err)
		}
		sig, err := cosigner.Cosign(c.Body(), math.MaxInt64)
		if err != nil || !key.Verify(c.Body(), sig.Bytes) {
			t.Fatalf("latest time: %v", err)
		}
		// The same signature bytes must not verify with any other length, time or text.
		tooLate := bytes.Clone(sig.Bytes)
		binary.BigEndian.PutUint64(tooLate, 1<<63)
		for name, bad := range map[string][]byte{
			"none": nil, "timestamp only": sig.Bytes[:8], "shorter": sig.Bytes[:len(sig.Bytes)-1],
			"longer": append(bytes.Clone(sig.Bytes), 0), "2^63": tooLate,
			"other time": append(make([]byte, 8), sig.Bytes[8:]...),
		} {
			if key.Verify(c.Body(), bad) {
				t.Errorf("type %d: %s verifies", key.Alg(), name)
			}
		}
		other := testCheckpoint(t, "example.com/other", 5)
		if key.Verify(other.Body(), sig.Bytes) || key.Verify([]byte("text\n"), sig.Bytes) {
			t.Errorf("type %d: another text verifies", key.Alg())
		}
	}
}

// TestExtensionLines: an Ed25519 cosignature covers them, an ML-DSA-44
// cosignature does not (c2sp.org/tlog-cosignature).
func TestExtensionLines(t *testing.T) {
	plain := testCheckpoint(t, testOrigin, 5).Body()
	extended := append(bytes.Clone(plain), "extension\n"...)
	for _, cosigner := range []*Cosigner{edCosigner(t, "w"), mldsaCosigner(t, "w")} {
		sig, err := cosigner.Cosign(extended, 1)
		if err != nil || !cosigner.Key().Verify(extended, sig.Bytes) {
			t.Fatalf("type %d: %v", cosigner.Key().Alg(), err)
		}
		if got, want := cosigner.Key().Verify(plain, sig.Bytes), cosigner.Key().Alg() == AlgMLDSA44Cosignature; got != want {
			t.Errorf("type %d: without the extension line: %v", cosigner.Key().Alg(), got)
		}
	}
}

// TestMLDSAMessageBindsTheName: two cosigners with one key can't stand in for
// each other, unlike Ed25519 ones.
func TestMLDSAMessageBindsTheName(t *testing.T) {
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed("w"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewMLDSACosigner("a", key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewMLDSACosigner("b", key)
	if err != nil {
		t.Fatal(err)
	}
	body := testCheckpoint(t, testOrigin, 5).Body()
	sig, err := a.Cosign(body, 1)
	if err != nil {
		t.Fatal(err)
	}
	if b.Key().Verify(body, sig.Bytes) {
		t.Error("a's cosignature verifies as b's")
	}
}

func TestAddCosignatures(t *testing.T) {
	log, c := logSigner(t, testOrigin), testCheckpoint(t, testOrigin, 5)
	w1, w2, stranger := edCosigner(t, "w.example/1"), mldsaCosigner(t, "w.example/2"), edCosigner(t, "w.example/3")
	accept := []note.Verifier{w1.Key(), w2.Key()}
	line := func(cosigner *Cosigner, c Checkpoint, at int64) []byte {
		sig, err := cosigner.Cosign(c.Body(), at)
		if err != nil {
			t.Fatal(err)
		}
		return sig.Line()
	}
	signed := cosigned(t, c, log, 0)
	w1At10, w1At20, w2At10 := line(w1, c, 10), line(w1, c, 20), line(w2, c, 10)
	tests := []struct {
		name   string
		signed []byte
		lines  []byte
		want   []byte // nil: an error
	}{
		{"one", signed, w1At10, slices.Concat(signed, w1At10)},
		{"two", signed, slices.Concat(w1At10, w2At10), slices.Concat(signed, w1At10, w2At10)},
		{"none", signed, nil, signed},
		{"stranger's", signed, line(stranger, c, 10), signed},
		{"of another checkpoint", signed, line(w1, testCheckpoint(t, testOrigin, 6), 10), signed},
		{"the log's own", signed, cosigned(t, c, log, 0)[len(c.Body())+1:], signed},
		{"good one among others", signed, slices.Concat(line(stranger, c, 10), w1At10), slices.Concat(signed, w1At10)},
		{"the same twice", signed, slices.Concat(w1At10, w1At10), slices.Concat(signed, w1At10)},
		{"later one replaces", slices.Concat(signed, w1At10, w2At10), w1At20, slices.Concat(signed, w1At20, w2At10)},
		{"earlier one does not", slices.Concat(signed, w1At20), w1At10, slices.Concat(signed, w1At20)},
		{"not signature lines", signed, []byte("<html>\n"), nil},
		{"not terminated", signed, bytes.TrimSuffix(w1At10, []byte("\n")), nil},
		{"a text", signed, slices.Concat([]byte("\n"), w1At10), nil},
		{"too many", slices.Concat(signed, bytes.Repeat(line(stranger, c, 1), 99)), w1At10, nil},
		{"not a note", []byte("text\n"), w1At10, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := bytes.Clone(test.signed)
			got, err := AddCosignatures(test.signed, test.lines, accept)
			if (err == nil) != (test.want != nil) || !bytes.Equal(got, test.want) {
				t.Errorf("got %q, %v", got, err)
			}
			if !bytes.Equal(test.signed, before) {
				t.Error("the input has changed")
			}
		})
	}
	if _, err := AddCosignatures(signed, []byte(strings.Repeat("x", MaxNoteSize+1)), accept); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}
