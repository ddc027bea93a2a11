package logserver

import (
	"crypto/sha256"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// HashSize is the length of every hash of the tree, in bytes.
const HashSize = sha256.Size

// Hash is a node of the Merkle tree, RFC 6962 section 2.1 with SHA-256.
type Hash = tlog.Hash

// emptyRoot is the root hash of the tree without entries.
var emptyRoot = checkpoint.EmptyRoot

// Domain separation prefixes of RFC 6962 section 2.1.
const (
	leafPrefix = 0x00
	nodePrefix = 0x01
)

// leafBuffers holds scratch space for leaf hashing, so that a caller's hash
// costs no allocation: the one-shot Sum256 is much cheaper than a hash.Hash.
var leafBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// leafSlices holds the leaf hashes of batches while they are handed over.
var leafSlices = sync.Pool{New: func() any { s := make([]Hash, 0, TileWidth); return &s }}

// LeafHash returns SHA-256(0x00 ‖ entry).
func LeafHash(entry []byte) Hash {
	p := leafBuffers.Get().(*[]byte)
	b := append((*p)[:0], leafPrefix)
	b = append(b, entry...)
	h := sha256.Sum256(b)
	*p = b
	leafBuffers.Put(p)
	return h
}

// hashChildren returns SHA-256(0x01 ‖ left ‖ right).
func hashChildren(left, right *Hash) Hash {
	var b [1 + 2*HashSize]byte
	b[0] = nodePrefix
	copy(b[1:], left[:])
	copy(b[1+HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// foldPerfect returns the root of the perfect subtree whose leaves are the
// concatenated hashes. The number of hashes is a power of two, 1 to 256.
func foldPerfect(hashes []byte) Hash {
	if len(hashes) == HashSize {
		return Hash(hashes)
	}
	var level [TileWidth / 2]Hash
	n := len(hashes) / HashSize / 2
	for i := range n {
		off := 2 * i * HashSize
		level[i] = hashChildren((*Hash)(hashes[off:]), (*Hash)(hashes[off+HashSize:]))
	}
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			level[i] = hashChildren(&level[2*i], &level[2*i+1])
		}
	}
	return level[0]
}
