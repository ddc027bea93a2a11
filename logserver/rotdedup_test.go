package logserver

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRottenDedup flips bits in the tables of a log whose entries all have
// deduplication keys: a retry is answered with the index that it always had or
// with an error, and never sequenced again.
func TestRottenDedup(t *testing.T) {
	t.Parallel()
	rotDedup(t, 12)
}

// rotDedup flips the given number of bits of each table, evenly spread.
func rotDedup(t *testing.T, flips int) {
	const keys = 60
	fs := vfs.NewCrashableMem()
	tl := newTestLog(t, testOptions(fs))
	entry := func(i int) Entry {
		return Entry{Data: fmt.Appendf(nil, "entry %d", i), Dedup: fmt.Appendf(nil, "deduplication key %d", i)}
	}
	for i := range keys {
		tl.add(entry(i))
	}
	tl.close()
	names, err := fs.List("log")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(testSeed(t), 6))
	refused, harmless := 0, 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		whole, err := readFileLimit(fs, "log/"+name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		stride := max(len(whole)/flips, 1)
		for at := rng.IntN(stride); at < len(whole); at += stride {
			opts := testOptions(fs.CrashClone(vfs.CrashCloneCfg{}))
			change(t, opts.fs, "log/"+name, func([]byte) []byte {
				b := bytes.Clone(whole)
				b[at] ^= 1 << rng.IntN(8)
				return b
			})
			found := retryAll(t, opts, keys, entry)
			if t.Failed() {
				t.Fatalf("byte %d of %d of %s was flipped", at, len(whole), name)
			}
			if found == nil {
				harmless++
				continue
			}
			refused++
			if r, err := fsckAny(t, opts); err == nil && r.Count == 0 {
				t.Errorf("byte %d of %s: %v; fsck finds nothing", at, name, found)
			}
		}
	}
	t.Logf("%d flips were noticed, %d changed nothing", refused, harmless)
	if refused == 0 {
		t.Error("no flip was noticed: nothing was tested")
	}
}

// retryAll sends every entry again, and returns the first refusal.
func retryAll(t *testing.T, opts Options, keys int, entry func(int) Entry) error {
	t.Helper()
	l, err := Open(opts)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("open: %v", err)
		}
		return err
	}
	defer l.Close(t.Context())
	var refusal error
	for i := range keys {
		r, _, err := l.Append(t.Context(), entry(i))
		switch {
		case err != nil && refusal == nil:
			refusal = err
		case err == nil && (!r.Duplicate || r.Index != int64(i)):
			t.Errorf("entry %d again: %+v", i, r)
		}
	}
	return refusal
}

// fsckAny checks a store that may not open.
func fsckAny(t *testing.T, opts Options) (*FsckReport, error) {
	s, err := OpenStore(StoreOptions{Dir: opts.Dir, ReadOnly: true, fs: opts.fs})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Fsck(t.Context(), FsckOptions{})
}
