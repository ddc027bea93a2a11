package membership

import (
	"crypto/sha256"
	"iter"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/tallystick/tallystick/internal/digest"
)

// treeChunk is how many hashes of one level are copied together on a change.
const treeChunk = 256

// tree holds the hashes of all perfect subtrees of an RFC 6962 tree. It is
// immutable; a successor shares the chunks that no changed leaf is under. The
// zero value is the empty tree.
type tree struct {
	size   uint64
	levels [][]*[treeChunk]digest.Digest // levels[l] has size>>l hashes; level 0 are leaf hashes
}

// with returns the tree of the given size in which the leaves from (inclusive)
// to to (exclusive) are those that leaves yields. When size differs from t's,
// to must be size: every leaf behind an insertion or removal has moved.
func (t *tree) with(size, from, to uint64, leaves iter.Seq[digest.Digest]) *tree {
	next := &tree{size: size}
	for level := 0; size>>level > 0; level++ {
		width := size >> level
		var old []*[treeChunk]digest.Digest
		if level < len(t.levels) {
			old = t.levels[level]
		}
		hashes := make([]*[treeChunk]digest.Digest, (width+treeChunk-1)/treeChunk)
		copy(hashes, old)
		next.levels = append(next.levels, hashes)

		lo, hi := from>>level, min((to+(1<<level)-1)>>level, width)
		if lo >= hi {
			continue
		}
		for c := lo / treeChunk; c <= (hi-1)/treeChunk; c++ {
			fresh := new([treeChunk]digest.Digest)
			if hashes[c] != nil {
				*fresh = *hashes[c]
			}
			hashes[c] = fresh
		}
		if level == 0 {
			i := lo
			for h := range leaves {
				if i == hi {
					break
				}
				hashes[i/treeChunk][i%treeChunk] = h
				i++
			}
			continue
		}
		for i := lo; i < hi; i++ {
			hashes[i/treeChunk][i%treeChunk] = hashChildren(next.node(level-1, 2*i), next.node(level-1, 2*i+1))
		}
	}
	return next
}

// node returns the hash of a perfect subtree.
func (t *tree) node(level int, index uint64) *digest.Digest {
	return &t.levels[level][index/treeChunk][index%treeChunk]
}

// root returns the RFC 6962 root hash.
func (t *tree) root() digest.Digest {
	if t.size == 0 {
		return digest.Digest(rfc6962.DefaultHasher.EmptyRoot())
	}
	// Perfect subtrees from left to right; they join from the right.
	ids := compact.RangeNodes(0, t.size, nil)
	last := ids[len(ids)-1]
	h := *t.node(int(last.Level), last.Index)
	for _, id := range slices.Backward(ids[:len(ids)-1]) {
		h = hashChildren(t.node(int(id.Level), id.Index), &h)
	}
	return h
}

// inclusion returns the RFC 6962 inclusion proof of leaf index < size.
func (t *tree) inclusion(index uint64) ([][]byte, error) {
	nodes, err := proof.Inclusion(index, t.size)
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		h := *t.node(int(id.Level), id.Index)
		hashes[i] = h[:]
	}
	return nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

// hashChildren is rfc6962.DefaultHasher.HashChildren without its allocations,
// which an insertion would pay for every leaf behind it.
func hashChildren(left, right *digest.Digest) digest.Digest {
	var b [1 + 2*digest.Size]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1:], left[:])
	copy(b[1+digest.Size:], right[:])
	return sha256.Sum256(b[:])
}

func hashLeaf(data []byte) digest.Digest {
	return digest.Digest(rfc6962.DefaultHasher.HashLeaf(data))
}
