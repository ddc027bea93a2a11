package dsse

import (
	"bytes"
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

func TestCheckKey(t *testing.T) {
	for n := range byte(50) {
		if err := CheckKey(public(n)); err != nil {
			t.Errorf("ordinary key: %v", err)
		}
	}
	var weak [][]byte
	for _, enc := range smallOrder {
		negated := bytes.Clone(enc)
		negated[31] |= 0x80
		weak = append(weak, enc, negated)
	}
	// p to 2^255 − 1 are second encodings of 0 to 18, with either sign.
	for i := range 19 {
		enc := bytes.Clone(fieldPrime)
		enc[0] += byte(i)
		negated := bytes.Clone(enc)
		negated[31] |= 0x80
		weak = append(weak, enc, negated)
	}
	weak = append(weak, nil, make([]byte, 31), append(bytes.Clone(public(1)), 0))
	for _, k := range weak {
		if err := CheckKey(k); !errors.Is(err, ErrKey) {
			t.Errorf("%x: got %v, want ErrKey", k, err)
		}
	}
}
