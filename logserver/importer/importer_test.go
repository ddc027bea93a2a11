package importer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/mldsa"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func newSource(t *testing.T) *logserver.Log {
	t.Helper()
	options := logserver.Options{Dir: t.TempDir(), Origin: "old.example/log", Key: key(7), MinInterval: time.Nanosecond}
	if err := logserver.Create(options); err != nil {
		t.Fatal(err)
	}
	log, err := logserver.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(context.Background()) })
	return log
}

func entry(i int) []byte {
	switch {
	case i%100 == 3:
		return nil // an empty entry is an entry
	case i%1000 == 7:
		return bytes.Repeat([]byte{byte(i)}, logserver.MaxEntrySize)
	}
	return fmt.Appendf(nil, "entry %d", i)
}

func grow(t *testing.T, log *logserver.Log, n int, data func(int) []byte) {
	t.Helper()
	for int(log.Size()) < n {
		var batch []logserver.Entry
		for i := int(log.Size()); i < n && len(batch) < 500; i++ {
			batch = append(batch, logserver.Entry{Data: data(i)})
		}
		if _, _, err := log.AppendBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Wait(t.Context(), int64(n)); err != nil {
		t.Fatal(err)
	}
}

// into returns the options of an import of a source into a new log.
func into(t *testing.T, source *logserver.Log) Options {
	t.Helper()
	policy, err := checkpoint.ParsePolicy([]byte("log " + source.Vkey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Log: logserver.Options{Dir: t.TempDir(), Origin: "new.example/log", Key: key(1), ReceiptKey: key(2),
			MinInterval: time.Nanosecond, ImportFrom: source.Vkey()},
		Fetch: source.Resource, Policy: policy, Workers: 3,
	}
	if err := logserver.Create(o.Log); err != nil {
		t.Fatal(err)
	}
	return o
}

// check opens the new log and compares all of it with the source.
func check(t *testing.T, o Options, source *logserver.Log) {
	t.Helper()
	o.Log.ImportFrom = ""
	log, err := logserver.Open(o.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(t.Context())
	want := source.Published()
	if err := log.Wait(t.Context(), want.Size); err != nil {
		t.Fatal(err)
	}
	if got := log.Published(); got.Size != want.Size || got.Root != want.Root {
		t.Errorf("published %d %v, want %d %v", got.Size, got.Root, want.Size, want.Root)
	}
	i := 0
	for data, err := range log.Entries(0, log.Size()) {
		if err != nil || !bytes.Equal(data, entry(i)) {
			t.Fatalf("entry %d: %d bytes, %v", i, len(data), err)
		}
		i++
	}
	if _, _, err := log.Append(t.Context(), logserver.Entry{Data: []byte("its own")}); err != nil {
		t.Errorf("the log does not live on: %v", err)
	}
}

func TestImport(t *testing.T) {
	for _, size := range []int{0, 1, 256, 700, 5000} {
		source := newSource(t)
		grow(t, source, size, entry)
		o := into(t, source)
		last := int64(0)
		o.Progress = func(done, of int64) {
			if done <= last || of != int64(size) {
				t.Errorf("progress %d of %d after %d", done, of, last)
			}
			last = done
		}
		report, err := Run(t.Context(), o)
		want := Report{Source: "old.example/log", Size: int64(size), Root: source.Published().Root.String()}
		if err != nil || *report != want || last != int64(size) {
			t.Fatalf("size %d: %+v, %v", size, report, err)
		}
		// Whoever was interrupted before hearing of it asks again.
		want.Resumed = int64(size)
		if report, err := Run(t.Context(), o); err != nil || *report != want {
			t.Errorf("size %d again: %+v, %v", size, report, err)
		}
		check(t, o, source)
	}
}

// TestInterrupted cuts the source off after each of its resources in turn, lets
// it grow, and goes on.
func TestInterrupted(t *testing.T) {
	source := newSource(t)
	grow(t, source, 600, entry)
	cut := errors.New("cut off")
	for n := 1; ; n++ {
		o := into(t, source)
		whole := o.Fetch
		var left atomic.Int64
		left.Store(int64(n))
		o.Workers = 1
		o.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
			if left.Add(-1) < 0 {
				return nil, cut
			}
			return whole(ctx, path, limit)
		}
		_, err := Run(t.Context(), o)
		if err == nil {
			if n < 5 {
				t.Errorf("only %d resources were read", n)
			}
			return
		}
		if !errors.Is(err, cut) {
			t.Fatalf("cut off after %d: %v", n, err)
		}
		plain := o.Log
		plain.ImportFrom = ""
		if _, err := logserver.Open(plain); !errors.Is(err, logserver.ErrImporting) {
			t.Fatalf("cut off after %d, the log opens: %v", n, err)
		}
		o.Fetch = whole
		grow(t, source, int(source.Size())+10, entry)
		if report, err := Run(t.Context(), o); err != nil || report.Size != source.Size() {
			t.Fatalf("cut off after %d: %+v, %v", n, report, err)
		}
		check(t, o, source)
	}
}

func TestRefusals(t *testing.T) {
	source, fork, stranger := newSource(t), newSource(t), newSource(t)
	grow(t, source, 600, entry)
	grow(t, fork, 599, entry)
	grow(t, fork, 900, func(i int) []byte { return fmt.Appendf(nil, "other %d", i) })
	grow(t, stranger, 300, entry)

	// Half of it is there.
	o := into(t, source)
	half := o
	half.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if path == tiles.BundlePath(2, 88) {
			return nil, errors.New("cut off")
		}
		return source.Resource(ctx, path, limit)
	}
	half.Policy = o.Policy
	if _, err := Run(t.Context(), half); err == nil {
		t.Fatal("the import was not interrupted")
	}
	imported := func() int64 {
		log, err := logserver.Open(o.Log)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close(t.Context())
		return log.Size()
	}
	if n := imported(); n != 0 && n != 512 {
		t.Fatalf("%d entries are there", n)
	}
	full := o
	if _, err := Run(t.Context(), full); err != nil {
		t.Fatal(err)
	}

	// Sources that do not lead on from a part that is there.
	part := into(t, source)
	log, err := logserver.Open(part.Log)
	if err != nil {
		t.Fatal(err)
	}
	grow2 := func(n int) {
		for i := range n {
			if _, _, err := log.Append(t.Context(), logserver.Entry{Data: entry(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	grow2(600)
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, fetch := range map[string]tiles.Fetch{"fork": fork.Resource, "behind": stranger.Resource} {
		bad := part
		bad.Fetch = fetch
		if _, err := Run(t.Context(), bad); !errors.Is(err, ErrSource) {
			t.Errorf("%s: %v", name, err)
		}
	}
	part.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
		b, err := source.Resource(ctx, path, limit)
		if path == "checkpoint" {
			return nil, tiles.ErrNotFound
		}
		return b, err
	}
	if _, err := Run(t.Context(), part); !errors.Is(err, tiles.ErrFetch) {
		t.Errorf("no checkpoint: %v", err)
	}

	// A log that no import made.
	own := into(t, source)
	own.Log.Dir, own.Log.ImportFrom = t.TempDir(), ""
	if err := logserver.Create(own.Log); err != nil {
		t.Fatal(err)
	}
	own.Log.ImportFrom = source.Vkey()
	if _, err := Run(t.Context(), own); !errors.Is(err, logserver.ErrExists) {
		t.Errorf("a log of its own: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ended, into(t, source)); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// TestMLDSASource: a source may sign with ML-DSA-44, as the checkpoint
// specification recommends, though our own logs do not.
func TestMLDSASource(t *testing.T) {
	source := newSource(t)
	grow(t, source, 300, entry)
	private, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := checkpoint.NewMLDSACosigner("old.example/log", private)
	if err != nil {
		t.Fatal(err)
	}
	vkey, head := signer.Key().Vkey(), source.Published()
	body := checkpoint.Checkpoint{Origin: "old.example/log", Size: head.Size, Root: head.Root}.Body()
	signature, err := signer.Cosign(body, 1_000_000_000)
	if err != nil {
		t.Fatal(err)
	}
	signed := append(append(bytes.Clone(body), '\n'), signature.Line()...)

	o := into(t, source)
	o.Log.Dir, o.Log.ImportFrom = t.TempDir(), vkey
	if err := logserver.Create(o.Log); err != nil {
		t.Fatal(err)
	}
	if o.Policy, err = checkpoint.ParsePolicy([]byte("log " + vkey + "\nquorum none\n")); err != nil {
		t.Fatal(err)
	}
	whole := o.Fetch
	o.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if path == "checkpoint" {
			return signed, nil
		}
		return whole(ctx, path, limit)
	}
	want := Report{Source: "old.example/log", Size: 300, Root: head.Root.String()}
	for range 2 { // the second time it is complete
		report, err := Run(t.Context(), o)
		if err != nil || *report != want {
			t.Fatalf("%+v, %v", report, err)
		}
		want.Resumed = 300
	}
	check(t, o, source)
}
