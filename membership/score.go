package membership

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"

	"github.com/tallystick/tallystick/internal/digest"
)

const scoreDomain = "tallystick/v1/schedule-score"

// A scorer computes H(scoreDomain, execution id, node id) as package digest
// does. Domain and execution id fill more than one block of SHA-256, so its
// state after that block is kept and every node costs one block: a schedule is
// one hash for each eligible node, and submissions wait for it.
type scorer struct {
	hash   resumable
	block  []byte // state of hash after the first block
	rest   []byte // what follows it up to the node id, with space for the id
	prefix int    // length of rest without the id
	state  []byte // of hash after the last block, if it is read
	sum    digest.Digest
}

// resumable is what crypto/sha256 makes.
type resumable interface {
	hash.Hash
	encoding.BinaryUnmarshaler
	encoding.BinaryAppender
}

func newScorer(executionID digest.Digest) *scorer {
	input := lengthPrefixed(nil, len(scoreDomain))
	input = append(input, scoreDomain...)
	input = lengthPrefixed(input, digest.Size)
	input = append(input, executionID[:]...)

	s := &scorer{hash: sha256.New().(resumable), rest: make([]byte, 0, 2*sha256.BlockSize)}
	s.rest = append(s.rest, input[sha256.BlockSize:]...)
	s.prefix = len(s.rest)
	s.hash.Write(input[:sha256.BlockSize])
	s.block = s.marshal(nil)
	s.state = make([]byte, 0, len(s.block))
	return s
}

// of returns the score of a node.
func (s *scorer) of(node string) digest.Digest {
	s.compute(node)
	return s.sum
}

// compute leaves the score of a node in sum.
func (s *scorer) compute(node string) {
	_ = s.hash.UnmarshalBinary(s.block) // its own state: cannot fail
	s.rest = append(lengthPrefixed(s.rest[:s.prefix], len(node)), node...)
	if !stateIsDigest {
		s.hash.Write(s.rest)
		s.hash.Sum(s.sum[:0])
		return
	}
	// Sum copies the whole state and pads the copy. The padding is written here
	// instead, which saves an eighth of a score.
	s.rest = pad(s.rest, sha256.BlockSize+len(s.rest))
	s.hash.Write(s.rest)
	s.state = s.marshal(s.state[:0])
	copy(s.sum[:], s.state[stateMagic:])
}

// marshal appends the state of the hash, which for crypto/sha256 cannot fail.
func (s *scorer) marshal(to []byte) []byte {
	to, _ = s.hash.AppendBinary(to)
	return to
}

// pad appends the padding of SHA-256 (FIPS 180-4, section 5.1.1) to the end of a
// message of this many bytes in all, of which whole blocks came before b.
func pad(b []byte, length int) []byte {
	var end [sha256.BlockSize]byte
	end[0] = 0x80
	// One bit and eight bytes of length, and zeros between up to a whole block.
	n := sha256.BlockSize - (len(b)+8)%sha256.BlockSize
	b = append(b, end[:n]...)
	return binary.BigEndian.AppendUint64(b, uint64(length)*8)
}

// stateMagic is how many bytes precede the eight words of the hash in the state
// that crypto/sha256 marshals.
const stateMagic = 4

// stateIsDigest reports whether that is so in the Go release that this program
// was built with: after a padded message those words are the digest. Otherwise
// scores are computed the long way round.
var stateIsDigest = func() bool {
	message := []byte("abc")
	h := sha256.New()
	h.Write(pad(message, len(message)))
	appender, ok := h.(encoding.BinaryAppender)
	if !ok {
		return false
	}
	state, err := appender.AppendBinary(nil)
	return err == nil && len(state) >= stateMagic+sha256.Size &&
		[sha256.Size]byte(state[stateMagic:][:sha256.Size]) == sha256.Sum256([]byte("abc"))
}()

func lengthPrefixed(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }
