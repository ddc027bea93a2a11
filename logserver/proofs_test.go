package logserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"
)

// TestProofsOfAllSizes compares every proof in every tree up to 300 entries,
// all made from one later view, with those of an independent implementation.
func TestProofsOfAllSizes(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	const largest = 300
	tl.addN(largest + 20)
	for size := int64(1); size <= largest; size++ {
		for i := range size {
			want, err := tlog.ProveRecord(size, i, &tl.model)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tl.InclusionProof(i, size)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("inclusion of %d in %d: %v, %v; want %v", i, size, got, err, want)
			}
			grown, err := tlog.ProveTree(size, i+1, &tl.model)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := tl.ConsistencyProof(i+1, size); err != nil || !slices.Equal(got, grown) {
				t.Fatalf("consistency of %d and %d: %v, %v; want %v", i+1, size, got, err, grown)
			}
		}
		if root, err := tl.RootAt(size); err != nil || root != tl.root(t, size) {
			t.Fatalf("root at %d: %v, %v", size, root, err)
		}
	}
}

// TestProofsAcrossLevels does the same with samples of a tree of three levels,
// with a cache too small for it.
func TestProofsAcrossLevels(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.nodes = newNodeCache(0)
	tl.addN(256*256 + 1000)
	sizes := []int64{255, 256, 257, 65535, 65536, 65537, 65792, 66000, int64(len(tl.data))}
	for range 2000 {
		size := sizes[rand.IntN(len(sizes))]
		if rand.IntN(2) == 0 {
			size = 1 + rand.Int64N(int64(len(tl.data)))
		}
		i := rand.Int64N(size)
		want, err := tlog.ProveRecord(size, i, &tl.model)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tl.InclusionProof(i, size); err != nil || !slices.Equal(got, want) {
			t.Fatalf("inclusion of %d in %d: %v, %v", i, size, got, err)
		}
		grown, err := tlog.ProveTree(size, i+1, &tl.model)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tl.ConsistencyProof(i+1, size); err != nil || !slices.Equal(got, grown) {
			t.Fatalf("consistency of %d and %d: %v, %v", i+1, size, got, err)
		}
	}
}

// TestProofUnderReceiptHead proves each entry under the head that its append was
// answered with, while the log grows on.
func TestProofUnderReceiptHead(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 150 {
				data := fmt.Appendf(nil, "%d/%d", c, i)
				r, head, err := tl.Append(context.Background(), Entry{Data: data})
				if err != nil {
					t.Error(err)
					return
				}
				proof, err := tl.InclusionProof(r.Index, head.Size)
				if err == nil {
					err = tlog.CheckRecord(proof, head.Size, head.Root, r.Index, LeafHash(data))
				}
				if err != nil {
					t.Errorf("index %d under tree size %d: %v", r.Index, head.Size, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestNodesOfATile(t *testing.T) {
	hashes := make([]byte, TileWidth*HashSize)
	for i := range hashes {
		hashes[i] = byte(rand.Uint32())
	}
	nodes := expand(hashes)
	if len(nodes) != tileNodes {
		t.Fatalf("%d nodes, want %d", len(nodes), tileNodes)
	}
	for height := range tileHeight {
		for i := range TileWidth >> height {
			want := foldPerfect(hashes[i<<height*HashSize : (i+1)<<height*HashSize])
			if nodes[nodePlace(height, i)] != want {
				t.Fatalf("node %d of height %d", i, height)
			}
		}
	}
	for width := range TileWidth { // a growing tile has a beginning of that
		if got := expand(hashes[:width*HashSize]); !slices.Equal(got, nodes[:len(got)]) {
			t.Fatalf("nodes of width %d", width)
		}
	}
}

func TestNodeCache(t *testing.T) {
	c := newNodeCache(3 * nodeWays * nodeTileBytes)
	if len(c.sets) != 3 {
		t.Fatalf("%d sets", len(c.sets))
	}
	tile := func(level int, number int64) []Hash { return []Hash{{byte(level), byte(number)}} }
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20000 {
				c.get(1, 0) // an upper tile that everybody asks for
				level, number := rand.IntN(2), rand.Int64N(200)
				switch nodes := c.get(level, number); {
				case nodes == nil:
					c.put(level, number, tile(level, number))
				case nodes[0] != tile(level, number)[0]:
					t.Errorf("tile %d/%d has the nodes of another", level, number)
				}
			}
		})
	}
	wg.Wait()
	c.put(1, 0, tile(1, 0))
	for number := range int64(1000) {
		if c.get(1, 0) == nil {
			t.Fatal("a tile that is in use was driven out")
		}
		if c.get(0, number) == nil {
			c.put(0, number, tile(0, number))
		}
	}
}
