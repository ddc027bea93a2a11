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
