package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Index choices of inclusion proofs.
const (
	hotIndexes    = 1 // among the newest hotSpan entries
	randomIndexes = 2
	hotSpan       = 4096
)

// oneCore makes a role use a single core, its garbage collector included.
const oneCore = "GOMAXPROCS=1"

// inclusion makes inclusion proofs under the newest tree head, one after the
// other.
func inclusion(j job) (r report, err error) {
	options, err := logOptions(j.Dir)
	if err != nil {
		return r, err
	}
	log, err := logserver.Open(options)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, log.Close(context.Background())) }()
	size, span := log.Size(), log.Size()
	if j.Proofs == hotIndexes {
		span = hotSpan
	}
	source := rand.New(rand.NewPCG(3, 4))
	one := func() (int64, []logserver.Hash, error) {
		index := size - 1 - source.Int64N(span)
		hashes, err := log.InclusionProof(index, size)
		return index, hashes, err
	}
	if err := checkInclusion(log, size, one); err != nil {
		return r, err
	}
	for start := time.Now(); time.Since(start) < j.Warm; {
		if _, _, err := one(); err != nil {
			return r, err
		}
	}
	watch, start := watchCPU(0), time.Now()
	for ; r.Elapsed < j.Measure; r.Elapsed = time.Since(start) {
		for range 16 {
			if _, _, err := one(); err != nil {
				return r, err
			}
			r.Operations++
		}
	}
	r.CPU = watch.stop()
	return r, nil
}

// checkInclusion verifies some proofs.
func checkInclusion(log *logserver.Log, size int64, one func() (int64, []logserver.Hash, error)) error {
	root, err := log.RootAt(size)
	if err != nil {
		return err
	}
	for range 20 {
		index, hashes, err := one()
		if err != nil {
			return err
		}
		entry, err := log.EntryAt(index)
		if err != nil {
			return err
		}
		if err := checkpoint.VerifyInclusion(tlog.Tree{N: size, Hash: root}, index, tlog.RecordHash(entry), hashes); err != nil {
			return err
		}
	}
	return nil
}

// Verifiers of inclusion proofs.
const engineMerkle = "merkle"

// provenTree is the tree size of the proofs to verify: of full length, and with
// a ragged edge.
const provenTree = 10_000_019

// statement is an inclusion proof in both forms, with a root of its own.
type statement struct {
	index int64
	leaf  tlog.Hash
	path  []tlog.Hash
	tree  tlog.Tree
	raw   [][]byte
}

// statements makes valid proofs: random hashes, and the root that they lead to.
func statements(n int) ([]statement, error) {
	source := rand.NewChaCha8([32]byte{5})
	random := rand.New(source)
	out := make([]statement, n)
	for i := range out {
		s := &out[i]
		s.index = random.Int64N(provenTree)
		source.Read(s.leaf[:])
		nodes, err := proof.Inclusion(uint64(s.index), provenTree)
		if err != nil {
			return nil, err
		}
		// The ephemeral nodes count as one hash.
		_, begin, end := nodes.Ephem()
		length := len(nodes.IDs)
		if end > begin {
			length -= end - begin - 1
		}
		s.path, s.raw = make([]tlog.Hash, length), make([][]byte, length)
		for k := range s.path {
			source.Read(s.path[k][:])
			s.raw[k] = s.path[k][:]
		}
		root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, uint64(s.index), provenTree, s.leaf[:], s.raw)
		if err != nil {
			return nil, err
		}
		s.tree = tlog.Tree{N: provenTree, Hash: tlog.Hash(root)}
	}
	return out, nil
}

// verify verifies inclusion proofs, one after the other. Value is the number
// of allocations for a proof.
func verify(j job) (r report, err error) {
	all, err := statements(1024)
	if err != nil {
		return r, err
	}
	one := func(s *statement) error {
		return checkpoint.VerifyInclusion(s.tree, s.index, s.leaf, s.path)
	}
	if j.Engine == engineMerkle {
		one = func(s *statement) error {
			return proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(s.index), uint64(s.tree.N), s.leaf[:], s.raw, s.tree.Hash[:])
		}
	}
	round := func() error {
		for i := range all {
			if err := one(&all[i]); err != nil {
				return fmt.Errorf("proof %d: %w", i, err)
			}
		}
		return nil
	}
	for start := time.Now(); time.Since(start) < j.Warm; {
		if err := round(); err != nil {
			return r, err
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	watch, start := watchCPU(0), time.Now()
	for ; r.Elapsed < j.Measure; r.Elapsed = time.Since(start) {
		if err := round(); err != nil {
			return r, err
		}
		r.Operations += int64(len(all))
	}
	runtime.ReadMemStats(&after)
	r.CPU = watch.stop()
	// What the runtime itself allocates meanwhile rounds away.
	r.Value = float64((after.Mallocs - before.Mallocs) / uint64(r.Operations))
	return r, nil
}

// verification measures the verification of proofs.
func (b *bench) verification() error {
	for range b.rounds() {
		for _, engine := range []string{engineLog, engineMerkle} {
			r, err := b.role(job{Role: roleVerify, Engine: engine, Warm: b.warm() / 3, Measure: b.window() / 2}, oneCore)
			if err != nil {
				return err
			}
			b.note("verification, "+engine, r, fmt.Sprintf("%s proofs/s, %.0f allocations a proof", figure(r.rate()), r.Value))
			b.addSide(engine == engineLog, r.rate(), rowVerify)
			b.addSide(engine == engineLog, r.Value, rowVerifyAllocs)
		}
	}
	return nil
}
