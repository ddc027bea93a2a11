package testcluster

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Log is a Merkle log in memory with its witnesses.
type Log struct {
	Origin   string
	Entries  [][]byte
	Openings [][]byte // nil for the membership log
	// Now, if not nil, is what the witnesses cosign as the time, in seconds since
	// 1970, for programs that read the real clock.
	Now func() int64

	t         testing.TB
	hashes    []tlog.Hash // as tlog stores them
	witnesses []*checkpoint.Cosigner
}

func newLog(t testing.TB, origin string, witnesses int) *Log {
	t.Helper()
	l := &Log{Origin: origin, t: t}
	for i := range witnesses {
		name := fmt.Sprintf("witness-%d.example", i+1)
		// A witness has a key of its own for each log that it is named for.
		cosigner, err := checkpoint.NewEd25519Cosigner(name, Key(name+" "+origin))
		l.must(err)
		l.witnesses = append(l.witnesses, cosigner)
	}
	return l
}

// known is how membership names the log.
func (l *Log) known() membership.Log {
	l.t.Helper()
	vkey, err := checkpoint.Vkey(l.Origin, Public("log "+l.Origin))
	l.must(err)
	receipt, err := checkpoint.Vkey(l.Origin+"/receipt", Public("receipt "+l.Origin))
	l.must(err)
	return membership.Log{Origin: l.Origin, Keys: []string{vkey}, ReceiptKeys: []string{receipt}}
}

// policy accepts what the log signed and quorum of its witnesses cosigned.
func (l *Log) policy(quorum int) (*checkpoint.Policy, []byte) {
	l.t.Helper()
	var witnesses []checkpoint.Witness
	for _, w := range l.witnesses {
		witnesses = append(witnesses, checkpoint.Witness{Name: w.Key().Name(), Vkey: w.Key().Vkey()})
	}
	text, err := checkpoint.FormatPolicy([]checkpoint.LogKey{{Vkey: l.known().Keys[0]}}, witnesses, quorum)
	l.must(err)
	p, err := checkpoint.ParsePolicy(text)
	l.must(err)
	return p, text
}

// Append adds an entry and returns its index.
func (l *Log) Append(entry, opening []byte) int64 {
	l.t.Helper()
	index := int64(len(l.Entries))
	hashes, err := tlog.StoredHashes(index, entry, tlog.HashReaderFunc(l.ReadHashes))
	l.must(err)
	l.hashes = append(l.hashes, hashes...)
	l.Entries, l.Openings = append(l.Entries, entry), append(l.Openings, opening)
	return index
}

// Size is the number of entries.
func (l *Log) Size() int64 { return int64(len(l.Entries)) }

// ReadHashes makes a Log a tlog.HashReader.
func (l *Log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = l.hashes[index]
	}
	return out, nil
}

// Checkpoint returns what the log says at a size, unsigned.
func (l *Log) Checkpoint(size int64) checkpoint.Checkpoint {
	l.t.Helper()
	root, err := tlog.TreeHash(size, l)
	l.must(err)
	return checkpoint.Checkpoint{Origin: l.Origin, Size: size, Root: root}
}

// Signed returns the checkpoint at a size, signed by the log and cosigned by
// all witnesses.
func (l *Log) Signed(size int64) []byte {
	l.t.Helper()
	return l.Sign(l.Checkpoint(size), len(l.witnesses))
}

// Sign signs any checkpoint with the log's key and that of the first n
// witnesses, whether or not it is true.
func (l *Log) Sign(c checkpoint.Checkpoint, n int) []byte {
	l.t.Helper()
	signer, err := checkpoint.NewSigner(l.Origin, Key("log "+l.Origin))
	l.must(err)
	signed, err := checkpoint.Sign(c, signer)
	l.must(err)
	for i, w := range l.witnesses[:n] {
		at := 1_767_225_600 + c.Size*60 + int64(i)
		if l.Now != nil {
			at = l.Now()
		}
		sig, err := w.Cosign(c.Body(), at)
		l.must(err)
		signed = append(signed, sig.Line()...)
	}
	return signed
}

// Tile returns the tile or entry bundle of a c2sp.org/tlog-tiles path. There is
// none, false, beyond the tree, nor a partial one once the full one exists, as in
// a log that drops them.
func (l *Log) Tile(path string) ([]byte, bool) {
	l.t.Helper()
	text := strings.Replace(path, "tile/", "tile/8/", 1)
	tile, err := tlog.ParseTilePath(strings.Replace(text, "/entries/", "/data/", 1))
	if err != nil {
		return nil, false
	}
	first := tile.N << tile.H
	have := l.Size()>>(max(tile.L, 0)*tile.H) - first
	if have < int64(tile.W) || tile.W < 1<<tile.H && have >= 1<<tile.H {
		return nil, false
	}
	if tile.L >= 0 {
		data, err := tlog.ReadTileData(tile, l)
		l.must(err)
		return data, true
	}
	var bundle []byte
	for _, e := range l.Entries[first : first+int64(tile.W)] {
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(e))), e...)
	}
	return bundle, true
}

// Inclusion returns the proof of an entry in the tree of a size.
func (l *Log) Inclusion(index, size int64) [][]byte {
	l.t.Helper()
	proof, err := tlog.ProveRecord(size, index, l)
	l.must(err)
	return raws(proof)
}

// Consistency returns the proof between two sizes, none when they are equal.
func (l *Log) Consistency(older, newer int64) [][]byte {
	l.t.Helper()
	if older == newer {
		return nil
	}
	proof, err := tlog.ProveTree(newer, older, l)
	l.must(err)
	return raws(proof)
}

func raws(hashes []tlog.Hash) [][]byte {
	var out [][]byte
	for _, h := range hashes {
		out = append(out, h[:])
	}
	return out
}

func (l *Log) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}
