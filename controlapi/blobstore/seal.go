package blobstore

import (
	"crypto/rand"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/tallystick/tallystick/internal/digest"
)

// overhead is by how much a sealed payload is longer than the payload, in bytes.
const overhead = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// associated is what the cipher binds a payload to: a sealed payload that is
// moved to another owner or digest does not open, whatever key is beside it.
func associated(n name) []byte {
	d := digest.New("tallystick/v1/blob").Text(n.owner).Digest(n.digest).Sum()
	return d[:]
}

// seal returns nonce ‖ ciphertext ‖ tag. The key is used for this payload only.
func seal(key []byte, n name, data []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("sealing payload %v: %w", n, err)
	}
	sealed := make([]byte, chacha20poly1305.NonceSizeX, overhead+len(data))
	rand.Read(sealed)
	return aead.Seal(sealed, slices.Clone(sealed), data, associated(n)), nil
}

// unseal reverses seal and compares the digest.
func unseal(key []byte, n name, sealed []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil || len(sealed) < overhead {
		return nil, fmt.Errorf("%w: %v has a key of %d bytes and %d bytes sealed", ErrCorrupt, n, len(key), len(sealed))
	}
	nonce, ciphertext := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	data, err := aead.Open(ciphertext[:0], nonce, ciphertext, associated(n))
	if err != nil {
		return nil, fmt.Errorf("%w: %v does not authenticate", ErrCorrupt, n)
	}
	if digest.Of(data) != n.digest {
		return nil, fmt.Errorf("%w: %v has another digest", ErrCorrupt, n)
	}
	return data, nil
}
