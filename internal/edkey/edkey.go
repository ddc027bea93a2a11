// Package edkey says which Ed25519 public keys tallystick accepts
// (docs/formats/README.md, "Public keys"), wherever one enters: in an envelope's
// expected keys, a verifier key, a membership change, a key file.
//
// # Trust
//
// Public keys are handed in by strangers. RFC 8032 leaves implementations room
// with odd ones: with a point of small order a signature can be valid for any
// message, and two encodings of one point are one key with two names. A key
// that passes [Check] is treated alike by every verifier.
//
// The package is pure, and safe for concurrent use. It takes time that depends
// on the key, which is public.
package edkey

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// ErrKey says that bytes are no Ed25519 public key fit for use.
var ErrKey = errors.New("unusable key")

// smallOrder lists the y coordinates, little-endian, of the eight points whose
// order divides the cofactor of edwards25519; the x coordinate's sign, in the
// top bit, does not matter.
var smallOrder = [][]byte{
	unhex("0000000000000000000000000000000000000000000000000000000000000000"),
	unhex("0100000000000000000000000000000000000000000000000000000000000000"),
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
	unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
}

// The curve −x² + y² = 1 + d·x²·y² over the field of fieldPrime = 2^255 − 19
// elements, with d = −121665/121666 (RFC 8032, section 5.1).
var (
	one        = big.NewInt(1)
	fieldPrime = new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	curveD     = func() *big.Int {
		d := new(big.Int).ModInverse(big.NewInt(121666), fieldPrime)
		d.Mul(d, big.NewInt(-121665))
		return d.Mod(d, fieldPrime)
	}()
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// Check reports whether pub may be used: 32 bytes, the canonical encoding (y
// below the field prime) of a point that is on the curve and not of small
// order. Errors wrap [ErrKey].
func Check(pub []byte) error {
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: %d bytes, an Ed25519 public key has %d", ErrKey, len(pub), ed25519.PublicKeySize)
	}
	b := bytes.Clone(pub)
	b[len(b)-1] &= 0x7f // without the sign of x
	for _, s := range smallOrder {
		if bytes.Equal(b, s) {
			return fmt.Errorf("%w: %x is a point of small order", ErrKey, pub)
		}
	}
	slices.Reverse(b)
	y := new(big.Int).SetBytes(b)
	if y.Cmp(fieldPrime) >= 0 {
		return fmt.Errorf("%w: %x is not a canonical encoding", ErrKey, pub)
	}
	if !onCurve(y) {
		return fmt.Errorf("%w: %x is not a point of the curve", ErrKey, pub)
	}
	return nil
}

// onCurve reports whether some x solves the curve's equation for y, that is
// whether x² = (y² − 1)/(d·y² + 1) is a square. The denominator is never 0, as
// −1/d is no square, and multiplying by its square changes nothing. Both signs
// of x are then points: x is 0 only where y is 1 or −1, of small order.
func onCurve(y *big.Int) bool {
	yy := new(big.Int).Mul(y, y)
	denominator := new(big.Int).Mul(curveD, yy)
	denominator.Add(denominator, one)
	square := yy.Sub(yy, one)
	square.Mul(square, denominator)
	return big.Jacobi(square.Mod(square, fieldPrime), fieldPrime) >= 0
}
