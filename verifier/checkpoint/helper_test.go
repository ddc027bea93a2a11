package checkpoint

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// seed derives the private key seed that the tests and golden files use for a
// name: SHA-256 of "tallystick test key <name>".
func seed(name string) []byte {
	h := sha256.Sum256([]byte("tallystick test key " + name))
	return h[:]
}

func edKey(name string) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(seed(name)) }

func logSigner(t testing.TB, name string) *ed25519Signer {
	t.Helper()
	s, err := NewSigner(name, edKey(name))
	if err != nil {
		t.Fatal(err)
	}
	return s.(*ed25519Signer)
}

func edCosigner(t testing.TB, name string) *Cosigner {
	t.Helper()
	c, err := NewEd25519Cosigner(name, edKey(name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mldsaCosigner(t testing.TB, name string) *Cosigner {
	t.Helper()
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed(name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewMLDSACosigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testTree holds the hashes of a log whose entry i is "entry <i>".
type testTree []tlog.Hash

func newTestTree(t testing.TB, size int64) testTree {
	t.Helper()
	var tree testTree
	for i := range size {
		hashes, err := tlog.StoredHashes(i, fmt.Appendf(nil, "entry %d", i), tree)
		if err != nil {
			t.Fatal(err)
		}
		tree = append(tree, hashes...)
	}
	return tree
}

func (tree testTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = tree[index]
	}
	return out, nil
}

func (tree testTree) head(t testing.TB, size int64) tlog.Tree {
	t.Helper()
	root, err := tlog.TreeHash(size, tree)
	if err != nil {
		t.Fatal(err)
	}
	return tlog.Tree{N: size, Hash: root}
}

func leafHash(index int64) tlog.Hash {
	return tlog.RecordHash(fmt.Appendf(nil, "entry %d", index))
}

// testCheckpoint is the checkpoint of the test tree at a size.
func testCheckpoint(t testing.TB, origin string, size int64) Checkpoint {
	t.Helper()
	head := newTestTree(t, size).head(t, size)
	return Checkpoint{Origin: origin, Size: head.N, Root: head.Hash}
}

// cosigned returns a checkpoint signed by the log and cosigned by the cosigners
// at the given time.
func cosigned(t testing.TB, c Checkpoint, log note.Signer, timestamp int64, cosigners ...*Cosigner) []byte {
	t.Helper()
	signed, err := Sign(c, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, cosigner := range cosigners {
		sig, err := cosigner.Cosign(c.Body(), timestamp)
		if err != nil {
			t.Fatal(err)
		}
		signed = append(signed, sig.Line()...)
	}
	return signed
}
