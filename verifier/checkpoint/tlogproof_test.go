package checkpoint

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	fproof "github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/tlog"
)

// testProof is the proof of an entry of the test log with two cosignatures.
func testProof(t testing.TB, index, size int64, extra []byte) Proof {
	t.Helper()
	tree := newTestTree(t, size)
	hashes, err := tlog.ProveRecord(size, index, tree)
	if err != nil {
		t.Fatal(err)
	}
	_, cosigners := policyOfThree(t, 2)
	return Proof{
		Index:      index,
		Hashes:     hashes,
		Extra:      extra,
		Checkpoint: cosigned(t, testCheckpoint(t, testOrigin, size), logSigner(t, testOrigin), 1000, cosigners[0], cosigners[2]),
	}
}

// TestProofAgainstOracle: transparency-dev/formats reads what we write.
func TestProofAgainstOracle(t *testing.T) {
	for _, extra := range [][]byte{nil, []byte("extra data")} {
		for _, size := range []int64{1, 2, 5, 33} {
			p := testProof(t, size-1, size, extra)
			text := p.Format()
			got, err := ParseProof(text)
			if err != nil || !bytes.Equal(got.Format(), text) || got.Index != p.Index || !bytes.Equal(got.Extra, extra) || !bytes.Equal(got.Checkpoint, p.Checkpoint) {
				t.Fatalf("size %d: %+v, %v", size, got, err)
			}
			var oracle fproof.TLogProof
			if err := oracle.Unmarshal(text); err != nil || oracle.Index != uint64(p.Index) || len(oracle.Hashes) != len(p.Hashes) || !bytes.Equal(oracle.Checkpoint, p.Checkpoint) {
				t.Errorf("size %d: the oracle reads %+v, %v", size, oracle, err)
			}
		}
	}
}

func TestVerifyProof(t *testing.T) {
	policy, cosigners := policyOfThree(t, 2)
	p := testProof(t, 3, 5, nil)
	if v, err := policy.VerifyProof(&p, leafHash(3)); err != nil || v.Checkpoint.Size != 5 || len(v.Cosignatures) != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err := policy.VerifyProof(&p, leafHash(2)); !errors.Is(err, ErrProof) {
		t.Errorf("another leaf: %v", err)
	}
	other := p
	other.Index = 2
	if _, err := policy.VerifyProof(&other, leafHash(3)); !errors.Is(err, ErrProof) {
		t.Errorf("another index: %v", err)
	}
	other = p
	other.Checkpoint = cosigned(t, testCheckpoint(t, testOrigin, 5), logSigner(t, testOrigin), 1000, cosigners[0])
	if _, err := policy.VerifyProof(&other, leafHash(3)); !errors.Is(err, ErrQuorum) {
		t.Errorf("one cosignature: %v", err)
	}
}

// proofCase is a proof file and what is to be thought of its form.
type proofCase struct {
	name, text string
	want       error
}

func proofCases(t testing.TB) []proofCase {
	good := string(testProof(t, 3, 5, []byte("extra data")).Format())
	plain := string(testProof(t, 3, 5, nil).Format())
	replace := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("%q is not in the proof", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	hash := strings.SplitAfter(plain, "\n")[2]
	return []proofCase{
		{"with extra data", good, nil},
		{"without extra data", plain, nil},
		{"tree of one leaf", string(testProof(t, 0, 1, nil).Format()), nil},
		{"empty", "", ErrMalformed},
		{"header only", proofHeader, ErrMalformed},
		{"other header", replace("proof@v1", "proof@v2"), ErrMalformed},
		{"no newline after the header", replace("@v1\n", "@v1"), ErrMalformed},
		{"empty extra line", replace("extra ZXh0cmEgZGF0YQ==", "extra "), ErrMalformed},
		{"extra without a space", replace("extra ZXh0cmEgZGF0YQ==", "extra"), ErrMalformed},
		{"extra not base64", replace("ZXh0cmEgZGF0YQ==", "ZXh0cmEgZGF0YQ"), ErrMalformed},
		{"extra with spare bits", replace("ZXh0cmEgZGF0YQ==", "ZXh0cmEgZGF0YR=="), ErrMalformed},
		{"extra twice", replace("index", "extra ZXh0cmEgZGF0YQ==\nindex"), ErrMalformed},
		{"extra too long", replace("ZXh0cmEgZGF0YQ==", strings.Repeat("AAAA", MaxExtraSize/3+1)), ErrTooLarge},
		{"extra only", proofHeader + "extra ZXh0cmEgZGF0YQ==\n\n", ErrMalformed},
		{"no index", replace("index 3\n", ""), ErrMalformed},
		{"index with a leading zero", replace("index 3", "index 03"), ErrMalformed},
		{"index negative", replace("index 3", "index -3"), ErrMalformed},
		{"index beyond the tree", replace("index 3", "index 5"), ErrMalformed},
		{"index 2^63", replace("index 3", "index 9223372036854775808"), ErrMalformed},
		{"index twice", replace("index 3", "index 3\nindex 3"), ErrMalformed},
		{"hash of 31 bytes", replace(hash, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n"), ErrMalformed},
		{"hash not base64", replace(hash, "!\n"), ErrMalformed},
		{"64 hashes", replace(hash, strings.Repeat(hash, 64)), ErrTooLarge},
		{"carriage returns", strings.ReplaceAll(good, "\n", "\r\n"), ErrMalformed},
		{"two empty lines", replace("\n\nexample.com", "\n\n\nexample.com"), ErrMalformed},
		{"no empty line", replace("\n\nexample.com", "\nexample.com"), ErrMalformed},
		{"no checkpoint", good[:strings.Index(good, "\n\n")+2], ErrMalformed},
		{"checkpoint without signatures", good[:strings.LastIndex(good, "\n\n")+1], ErrMalformed},
		{"bytes after the checkpoint", good + "x", ErrMalformed},
		{"checkpoint is another text", good[:strings.Index(good, "\n\n")+2] + "text\n\n— x AAAAAAA=\n", ErrMalformed},
		{"too large", good + strings.Repeat("x", MaxProofSize), ErrTooLarge},
	}
}

func TestParseProof(t *testing.T) {
	for _, test := range proofCases(t) {
		t.Run(test.name, func(t *testing.T) {
			if _, err := ParseProof([]byte(test.text)); !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func FuzzParseProof(f *testing.F) {
	for _, c := range proofCases(f) {
		if len(c.text) < 10_000 {
			f.Add([]byte(c.text))
		}
	}
	policy, _ := policyOfThree(f, 2)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseProof(text)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Format(), text) {
			t.Fatalf("%q comes back as %q", text, p.Format())
		}
		if _, err := policy.VerifyProof(p, leafHash(p.Index+1)); err == nil {
			t.Fatal("a proof of an entry that is not there")
		}
	})
}
