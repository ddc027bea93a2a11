package edkey

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/big"
	"slices"
	"testing"
)

// The curve of RFC 8032 in affine coordinates, as slow and plain as possible.
var (
	p = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d = mul(big.NewInt(-121665), inverse(big.NewInt(121666)))
)

func mul(a, b *big.Int) *big.Int      { r := new(big.Int).Mul(a, b); return r.Mod(r, p) }
func add(a, b *big.Int) *big.Int      { r := new(big.Int).Add(a, b); return r.Mod(r, p) }
func neg(a *big.Int) *big.Int         { r := new(big.Int).Neg(a); return r.Mod(r, p) }
func inverse(a *big.Int) *big.Int     { return new(big.Int).ModInverse(new(big.Int).Mod(a, p), p) }
func quotient(a, b *big.Int) *big.Int { return mul(a, inverse(b)) }

type point struct{ x, y *big.Int }

func (a point) add(b point) point {
	one := big.NewInt(1)
	dxy := mul(mul(d, mul(a.x, b.x)), mul(a.y, b.y))
	return point{
		x: quotient(add(mul(a.x, b.y), mul(b.x, a.y)), add(one, dxy)),
		y: quotient(add(mul(a.y, b.y), mul(a.x, b.x)), add(one, neg(dxy))),
	}
}

// decode finds an x for the encoded y; nil if y is no coordinate of a point.
func decode(enc []byte) *point {
	b := bytes.Clone(enc)
	b[31] &= 0x7f
	slices.Reverse(b)
	y := new(big.Int).Mod(new(big.Int).SetBytes(b), p)
	y2 := mul(y, y)
	x := new(big.Int).ModSqrt(quotient(add(y2, big.NewInt(-1)), add(mul(d, y2), big.NewInt(1))), p)
	if x == nil {
		return nil
	}
	return &point{x, y}
}

// The list of small order must be exactly the eight points of the torsion
// subgroup: each is killed by 8, and their y coordinates are five (two points
// have x = 0, the other six come in pairs ±x).
func TestSmallOrderListIsTheTorsionSubgroup(t *testing.T) {
	points := 0
	for _, enc := range smallOrder {
		a := decode(enc)
		if a == nil {
			t.Fatalf("%x is not on the curve", enc)
		}
		points += 2
		if a.x.Sign() == 0 {
			points--
		}
		for range 3 {
			*a = a.add(*a)
		}
		if a.x.Sign() != 0 || a.y.Cmp(big.NewInt(1)) != 0 {
			t.Errorf("8 times %x is not the identity", enc)
		}
	}
	if points != 8 {
		t.Errorf("the list covers %d points, want 8", points)
	}
}

func TestCheckAcceptsOrdinaryKeys(t *testing.T) {
	for n := range byte(50) {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
		if err := Check(key.Public().(ed25519.PublicKey)); err != nil {
			t.Errorf("ordinary key: %v", err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	good := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	weak := [][]byte{nil, make([]byte, 31), append(bytes.Clone(good), 0)}
	prime := fieldPrime.Bytes()
	slices.Reverse(prime)
	// p to 2^255 − 1 are second encodings of 0 to 18.
	for i := range 19 {
		enc := bytes.Clone(prime)
		enc[0] += byte(i)
		weak = append(weak, enc)
	}
	weak = append(weak, smallOrder...)
	for _, enc := range weak {
		if err := Check(enc); !errors.Is(err, ErrKey) {
			t.Errorf("%x: got %v, want ErrKey", enc, err)
		}
		if len(enc) == 0 {
			continue
		}
		negated := bytes.Clone(enc)
		negated[len(negated)-1] |= 0x80
		if err := Check(negated); !errors.Is(err, ErrKey) {
			t.Errorf("%x: got %v, want ErrKey", negated, err)
		}
	}
}

// Half of all y are coordinates of a point. The oracle finds x or fails to.
func TestCheckKnowsTheCurve(t *testing.T) {
	on := 0
	for n := range 200 {
		enc := make([]byte, 32)
		enc[0], enc[17], enc[31] = byte(n)+2, byte(n*7), byte(n)&0xbf
		isPoint := decode(enc) != nil
		if err := Check(enc); (err == nil) != isPoint {
			t.Errorf("%x: %v; on the curve: %t", enc, err, isPoint)
		}
		if isPoint {
			on++
		}
	}
	if on < 50 || on > 150 {
		t.Errorf("%d of 200 on the curve: the oracle is at fault", on)
	}
}

func BenchmarkCheck(b *testing.B) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	for b.Loop() {
		if err := Check(key); err != nil {
			b.Fatal(err)
		}
	}
}
