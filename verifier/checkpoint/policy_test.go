package checkpoint

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

const testOrigin = "example.com/log"

// policyOfThree is a policy of the test log and any k of three witnesses, one
// of them with an ML-DSA-44 key.
func policyOfThree(t testing.TB, k int) (*Policy, []*Cosigner) {
	t.Helper()
	cosigners := []*Cosigner{edCosigner(t, "w.example/1"), mldsaCosigner(t, "w.example/2"), edCosigner(t, "w.example/3")}
	var witnesses []Witness
	for i, c := range cosigners {
		witnesses = append(witnesses, Witness{Name: fmt.Sprintf("w%d", i+1), Vkey: c.Key().Vkey()})
	}
	text, err := FormatPolicy([]LogKey{{Vkey: logSigner(t, testOrigin).Vkey(), URL: "https://log.example/"}}, witnesses, k)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p, cosigners
}

func TestPolicyVerify(t *testing.T) {
	p, cosigners := policyOfThree(t, 2)
	log, c := logSigner(t, testOrigin), testCheckpoint(t, testOrigin, 5)

	v, err := p.Verify(cosigned(t, c, log, 1000, cosigners[1], cosigners[2]))
	if err != nil {
		t.Fatal(err)
	}
	if v.Checkpoint != c || len(v.Cosignatures) != 2 || v.Cosignatures[0] != (Cosignature{"w2", 1000}) || v.Cosignatures[1].Witness != "w3" {
		t.Errorf("verified %+v", v)
	}
	var short *QuorumError
	_, err = p.Verify(cosigned(t, c, log, 1000, cosigners[1], cosigners[1]))
	if !errors.Is(err, ErrQuorum) || !errors.As(err, &short) || len(short.Have) != 1 {
		t.Errorf("one witness twice: %v", err)
	}
	other := testCheckpoint(t, "example.com/other", 5)
	if _, err = p.Verify(cosigned(t, other, log, 1000, cosigners...)); !errors.Is(err, ErrOrigin) {
		t.Errorf("other origin: %v", err)
	}
	if _, err = p.Verify(cosigned(t, c, logSigner(t, "example.com/other"), 1000, cosigners...)); !errors.Is(err, ErrLogSignature) {
		t.Errorf("other log key: %v", err)
	}
}

func TestPolicyVerifyFresh(t *testing.T) {
	p, cosigners := policyOfThree(t, 2)
	log, c := logSigner(t, testOrigin), testCheckpoint(t, testOrigin, 5)
	const maxAge = 10 * time.Minute
	tests := []struct {
		name string
		now  time.Time
		want error
	}{
		{"at once", time.Unix(1000, 0), nil},
		{"at the limit", time.Unix(1600, 0), nil},
		{"just past the limit", time.Unix(1600, 1), ErrStale},
		{"long past", time.Unix(1e9, 0), ErrStale},
		{"ahead by the tolerance", time.Unix(940, 0), nil},
		{"ahead by more", time.Unix(939, 999999999), ErrStale},
	}
	signed := cosigned(t, c, log, 1000, cosigners...)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := p.VerifyFresh(signed, test.now, maxAge); !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
	_, err := p.VerifyFresh(cosigned(t, c, log, 1000, cosigners[0]), time.Unix(1e9, 0), maxAge)
	if !errors.Is(err, ErrQuorum) || errors.Is(err, ErrStale) {
		t.Errorf("too few, and old: %v", err)
	}
}

// TestAsOf: the time for which a quorum vouches is that of the oldest cosignature
// that it needs, when it takes the latest ones.
func TestAsOf(t *testing.T) {
	log, c := logSigner(t, testOrigin), testCheckpoint(t, testOrigin, 5)
	for k, want := range map[int]int64{1: 3000, 2: 2000, 3: 1000} {
		p, cosigners := policyOfThree(t, k)
		signed := cosigned(t, c, log, 2000, cosigners[0])
		for i, at := range []int64{1000, 3000} {
			sig, err := cosigners[i+1].Cosign(c.Body(), at)
			if err != nil {
				t.Fatal(err)
			}
			signed = append(signed, sig.Line()...)
		}
		v, err := p.Verify(signed)
		if err != nil {
			t.Fatal(err)
		}
		asOf, ok := p.AsOf(v)
		if !ok || asOf.Unix() != want {
			t.Errorf("%d of 3: as of %d, %t, want %d", k, asOf.Unix(), ok, want)
		}
		// VerifyFresh agrees: an age that reaches back to it is enough, less is not.
		now := time.Unix(3000, 0)
		if _, err := p.VerifyFresh(signed, now, now.Sub(asOf)); err != nil {
			t.Errorf("%d of 3, at the limit: %v", k, err)
		}
		if _, err := p.VerifyFresh(signed, now.Add(time.Second), now.Sub(asOf)); !errors.Is(err, ErrStale) {
			t.Errorf("%d of 3, past the limit: %v", k, err)
		}
	}
	none, _ := policyOfThree(t, 0)
	if _, ok := none.AsOf(&Verified{}); ok {
		t.Error("a policy without a quorum vouches for a time")
	}
	p, _ := policyOfThree(t, 1)
	if _, ok := p.AsOf(&Verified{}); ok {
		t.Error("no cosignature vouches for a time")
	}
}

func TestCheckMaxAge(t *testing.T) {
	for d, ok := range map[time.Duration]bool{
		DefaultMaxAge: true, MinMaxAge: true, MaxMaxAge: true,
		0: false, -time.Minute: false, MinMaxAge - 1: false, MaxMaxAge + 1: false,
	} {
		if err := CheckMaxAge(d); (err == nil) != ok {
			t.Errorf("%v: %v", d, err)
		}
	}
}

func TestCosignatureTime(t *testing.T) {
	for _, tt := range []struct {
		bytes []byte
		want  int64
		ok    bool
	}{
		{[]byte{0, 0, 0, 0, 0, 0, 1, 2, 9}, 258, true},
		{[]byte{0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1<<63 - 1, true},
		{make([]byte, 72), 0, false},
		{[]byte{0x80, 0, 0, 0, 0, 0, 0, 0}, -1 << 63, false},
		{[]byte{1, 2, 3}, 0, false},
		{nil, 0, false},
	} {
		if got, ok := (Signature{Bytes: tt.bytes}).CosignatureTime(); got != tt.want || ok != tt.ok {
			t.Errorf("%x: %d, %t, want %d, %t", tt.bytes, got, ok, tt.want, tt.ok)
		}
	}
}
