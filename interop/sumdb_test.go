package interop

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// get returns the answer to a GET, or an error if there is none.
func (s *server) get(path string) ([]byte, error) {
	res, err := http.Get(s.url + path)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, body)
	}
	return body, err
}

// tileReader reads our tiles for x/mod/sumdb/tlog, which verifies them.
type tileReader struct{ s *server }

func (r tileReader) Height() int { return 8 }

func (r tileReader) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, t := range list {
		b, err := r.s.get("/tile/" + strings.TrimPrefix(t.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

// proof reads hashes from one of our proof endpoints.
func (s *server) proof(t *testing.T, path string) (hashes []tlog.Hash) {
	t.Helper()
	body, err := s.get(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil || len(b) != tlog.HashSize {
			t.Fatalf("%s: %q, %v", path, line, err)
		}
		hashes = append(hashes, tlog.Hash(b))
	}
	return hashes
}

// TestSumdbVerifiesTilesAndProofs makes proofs from our tiles with
// x/mod/sumdb/tlog, checks them and those that we serve, and holds them against
// each other.
func TestSumdbVerifiesTilesAndProofs(t *testing.T) {
	s := serve(t)
	var before tlog.Tree
	for _, n := range sizes {
		tree := s.fill(t, n)
		reader := tlog.TileHashReader(tree, tileReader{s})
		for _, index := range []int64{0, tree.N / 2, tree.N - 1} {
			leaf, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
			if err != nil {
				t.Fatal(err)
			}
			made, err := tlog.ProveRecord(tree.N, index, reader)
			if err != nil {
				t.Fatal(err)
			}
			served := s.proof(t, fmt.Sprintf("/proof/inclusion?index=%d&size=%d", index, tree.N))
			for who, p := range map[string]tlog.RecordProof{"made": made, "served": served} {
				if err := tlog.CheckRecord(p, tree.N, tree.Hash, index, leaf[0]); err != nil {
					t.Errorf("inclusion of %d in %d, %s: %v", index, tree.N, who, err)
				}
			}
		}
		if before.N > 0 {
			made, err := tlog.ProveTree(tree.N, before.N, reader)
			if err != nil {
				t.Fatal(err)
			}
			served := s.proof(t, fmt.Sprintf("/proof/consistency?old=%d&new=%d", before.N, tree.N))
			for who, p := range map[string]tlog.TreeProof{"made": made, "served": served} {
				if err := tlog.CheckTree(p, tree.N, tree.Hash, before.N, before.Hash); err != nil {
					t.Errorf("consistency of %d and %d, %s: %v", before.N, tree.N, who, err)
				}
			}
		}
		before = tree
	}
}
