package dsse

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
)

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

// fieldPrime is 2^255 − 19, little-endian.
var fieldPrime = unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// CheckKey reports whether pub may sign statements: 32 bytes, y below the field
// prime (the canonical encoding) and not a point of small order. It does not
// check that the point is on the curve; one that is not never verifies, so it
// never gets past a proof of possession. Errors wrap [ErrKey].
func CheckKey(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: %d bytes, an Ed25519 public key has %d", ErrKey, len(pub), ed25519.PublicKeySize)
	}
	y := bytes.Clone(pub)
	y[31] &= 0x7f
	for _, s := range smallOrder {
		if bytes.Equal(y, s) {
			return fmt.Errorf("%w: %x is a point of small order", ErrKey, []byte(pub))
		}
	}
	slices.Reverse(y)
	p := bytes.Clone(fieldPrime)
	slices.Reverse(p)
	if bytes.Compare(y, p) >= 0 {
		return fmt.Errorf("%w: %x is not a canonical encoding", ErrKey, []byte(pub))
	}
	return nil
}
