package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/bench/lean"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Kinds of load.
const (
	kindAdd    = "add"    // POST /add, one entry; the answer is its index
	kindEmpty  = "empty"  // the same, to a server that answers nothing
	kindProof  = "proof"  // POST /add?proof=receipt
	kindBatch  = "batch"  // POST /add-batch
	kindStream = "stream" // POST /add-stream
	kindTiles  = "tiles"  // GET full tiles
)

// load sends requests to a server and reports the answers, or entries, of the
// measured time. Every answer is checked.
func load(j job) (r report, err error) {
	if j.Kind == kindStream {
		return loadStream(j)
	}
	addr, err := netip.ParseAddrPort(j.Addr)
	if err != nil {
		return r, err
	}
	k, perAnswer, err := newKind(j)
	if err != nil {
		return r, err
	}
	var watch cpuWatch
	result, err := lean.Run(lean.Load{
		Addr: addr, Conns: j.Conns, Warm: j.Warm, Measure: j.Measure, Rate: j.Rate,
		Request: k.request, Answer: k.answer,
		Begin: func() { watch = watchCPU(j.Watch) },
		End:   func() { r.CPU = watch.stop() },
	})
	if err != nil {
		return r, err
	}
	if err := k.done(); err != nil {
		return r, err
	}
	r.Operations, r.Elapsed = result.Answers*int64(perAnswer), result.Elapsed
	r.P50, r.P99 = percentile(result.Latencies, 50), percentile(result.Latencies, 99)
	r.Value = float64(result.Unsent)
	return r, nil
}

// kind is one kind of load.
type kind interface {
	request(conn int) []byte
	answer(conn, status int, body []byte) error
	done() error // judges the whole
}

func newKind(j job) (k kind, perAnswer int, err error) {
	switch j.Kind {
	case kindAdd:
		return newPosts(j, "/add", 1), 1, nil
	case kindEmpty:
		p := newPosts(j, "/add", 1)
		p.unanswered = true
		return p, 1, nil
	case kindBatch:
		return newPosts(j, "/add-batch", batchEntries), batchEntries, nil
	case kindProof:
		k, err := newProven(j)
		return k, 1, err
	case kindTiles:
		return newTiles(j), 1, nil
	}
	return nil, 0, fmt.Errorf("unknown kind of load %q", j.Kind)
}

// posts sends entries and checks that every index is given once.
type posts struct {
	conns      [][]byte // the request of each connection
	first      int      // where its first entry begins
	entries    int      // in a request
	stride     int      // from one entry to the next
	next       uint64   // number of the next entry
	unanswered bool
	seen       indexes
}

func newPosts(j job, path string, entries int) *posts {
	fill := newFiller(j.Shape)
	p := &posts{entries: entries, stride: j.Shape.Entry, conns: make([][]byte, j.Conns)}
	var body []byte
	for range entries {
		if entries > 1 {
			body = binary.BigEndian.AppendUint16(body, uint16(j.Shape.Entry))
		}
		body = append(body, fill.data(j.Shape.Entry)...)
	}
	header := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: bench.example\r\nContent-Length: %d\r\n\r\n", path, len(body))
	p.first = len(header)
	if entries > 1 {
		p.first, p.stride = p.first+2, p.stride+2
	}
	for i := range p.conns {
		p.conns[i] = append(bytes.Clone(header), body...)
	}
	return p
}

func (p *posts) request(conn int) []byte {
	request := p.conns[conn]
	for i := range p.entries {
		numbered(request[p.first+i*p.stride:], p.next)
		p.next++
	}
	return request
}

func (p *posts) answer(_, status int, body []byte) error {
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %q", status, body)
	}
	if p.unanswered {
		return nil
	}
	if p.entries == 1 {
		return p.seen.add(body)
	}
	n := 0
	for line := range bytes.Lines(body) {
		if err := p.seen.add(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
		n++
	}
	if n != p.entries {
		return fmt.Errorf("%d indexes for %d entries", n, p.entries)
	}
	return nil
}

func (p *posts) done() error { return nil }

// indexes remembers which indexes were answered.
type indexes struct{ bits []uint64 }

func (x *indexes) add(text []byte) error {
	index, err := strconv.ParseUint(string(text), 10, 40)
	if err != nil {
		return fmt.Errorf("answer %q is not an index", text)
	}
	for uint64(len(x.bits)) <= index/64 {
		x.bits = append(x.bits, make([]uint64, 1<<14)...)
	}
	if x.bits[index/64]>>(index%64)&1 != 0 {
		return fmt.Errorf("index %d was given twice", index)
	}
	x.bits[index/64] |= 1 << (index % 64)
	return nil
}

// proven posts entries that are answered with an inclusion proof, and verifies
// some of the proofs when the time is over.
type proven struct {
	*posts
	verifier note.Verifier
	answers  int
	samples  []sample
}

// sample is an answer to be verified.
type sample struct{ entry, proof []byte }

// sampleEvery is how many answers there are to one that is verified.
const sampleEvery = 500

var proofHeader = []byte("c2sp.org/tlog-proof@v1\n")

func newProven(j job) (*proven, error) {
	key, err := hex.DecodeString(j.KeyFile)
	if err != nil {
		return nil, err
	}
	vkey, err := checkpoint.Vkey(origin+"/receipt", key)
	if err != nil {
		return nil, err
	}
	p := &proven{posts: newPosts(j, "/add?proof=receipt", 1)}
	p.verifier, err = note.NewVerifier(vkey)
	return p, err
}

func (p *proven) answer(conn, status int, body []byte) error {
	if status != http.StatusOK || !bytes.HasPrefix(body, proofHeader) {
		return fmt.Errorf("status %d: %q", status, body[:min(len(body), 100)])
	}
	if p.answers++; p.answers%sampleEvery == 0 {
		p.samples = append(p.samples, sample{bytes.Clone(p.conns[conn][p.first:]), bytes.Clone(body)})
	}
	return nil
}

func (p *proven) done() error {
	if len(p.samples) == 0 && p.answers > sampleEvery {
		return errors.New("no proof was verified")
	}
	for _, s := range p.samples {
		proof, err := checkpoint.ParseProof(s.proof)
		if err != nil {
			return err
		}
		head, err := checkpoint.Open(proof.Checkpoint, origin, []note.Verifier{p.verifier})
		if err != nil {
			return err
		}
		tree := tlog.Tree{N: head.Size, Hash: head.Root}
		if err := checkpoint.VerifyInclusion(tree, proof.Index, tlog.RecordHash(s.entry), proof.Hashes); err != nil {
			return err
		}
	}
	return nil
}

// tiles reads full tiles at random.
type tiles struct {
	requests [][]byte
	source   *rand.Rand
}

func newTiles(j job) *tiles {
	t := &tiles{source: rand.New(rand.NewPCG(1, 2))}
	for n := range j.Tiles {
		path := tlog.Tile{H: 8, L: 0, N: int64(n), W: 256}.Path() // tile/8/0/x001/234
		t.requests = append(t.requests, fmt.Appendf(nil, "GET /tile/%s HTTP/1.1\r\nHost: bench.example\r\n\r\n", path[len("tile/8/"):]))
	}
	return t
}

func (t *tiles) request(int) []byte { return t.requests[t.source.IntN(len(t.requests))] }

func (t *tiles) answer(_, status int, body []byte) error {
	if status != http.StatusOK || len(body) != tileBytes {
		return fmt.Errorf("status %d and %d bytes, want 200 and %d", status, len(body), tileBytes)
	}
	return nil
}

func (t *tiles) done() error { return nil }
