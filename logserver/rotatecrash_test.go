package logserver

import (
	"crypto"
	"crypto/ed25519"
	"io"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// announcedKey is a private key that must not sign before what a power cut would
// leave of the store names it.
type announcedKey struct {
	ed25519.PrivateKey
	t      *testing.T
	vkey   string
	disk   *vfs.MemFS
	dir    string
	signed atomic.Int64 // how often it was used
}

// Sign implements crypto.Signer.
func (k *announcedKey) Sign(random io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	k.signed.Add(1)
	s, err := OpenStore(StoreOptions{Dir: k.dir, ReadOnly: true, fs: k.disk.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		k.t.Errorf("the store when %s signs: %v", k.vkey, err)
		return nil, err
	}
	defer s.Close()
	if !keyIs(s.Keys(), k.vkey, KeyActive) && !keyIs(s.Keys(), k.vkey, KeyNext) {
		k.t.Errorf("%s signs, the durable keys are %+v", k.vkey, s.Keys())
	}
	return k.PrivateKey.Sign(random, message, o)
}

func keyIs(keys []KeyInfo, vkey, state string) bool {
	for _, k := range keys {
		if k.Vkey == vkey && k.State == state {
			return true
		}
	}
	return false
}

// TestRotationInterrupted ends rotations of both keys after each operation on the
// disk, by a power cut or a kill. The log opens with the keys from before or
// after the step, no key signs before it is durably named, the same steps lead
// to the same end, and what was signed before stays valid.
func TestRotationInterrupted(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]bool{"finish": true, "abort": false} {
		t.Run(name, func(t *testing.T) { rotationInterrupted(t, finish) })
	}
}

func rotationInterrupted(t *testing.T, finish bool) {
	disk := vfs.NewCrashableMem()
	points := &crashPoints{disk: disk, off: true}
	opts := testOptions(points.on())
	tl := newTestLog(t, opts)
	tl.addN(3)
	tl.mustPublish(3)
	first := tl.Published().Note
	old, next := tl.Vkey(), vkeyOf(t, opts.Origin, testKey(5))
	receipt, nextReceipt := tl.ReceiptVkey(), vkeyOf(t, opts.Origin+receiptSuffix, testKey(6))
	logKey := &announcedKey{PrivateKey: testKey(5), t: t, vkey: next, disk: disk, dir: opts.Dir}
	receiptKey := &announcedKey{PrivateKey: testKey(6), t: t, vkey: nextReceipt, disk: disk, dir: opts.Dir}

	points.turn(true)
	rotate(t, tl, logKey, receiptKey, finish)
	points.turn(false)
	before := tl.model
	ends := []string{old, receipt}
	if finish {
		ends = []string{next, nextReceipt}
	}
	goesOn(t, tl, ends[0], ends[1])
	tl.close()
	if logKey.signed.Load() == 0 || finish && receiptKey.signed.Load() == 0 {
		t.Errorf("the new keys have signed %d and %d times", logKey.signed.Load(), receiptKey.signed.Load())
	}
	if len(points.all) < 5 {
		t.Fatalf("only %d points", len(points.all))
	}

	for _, point := range points.all {
		after := &testLog{t: t, opts: opts, model: before}
		after.opts.fs, after.opts.NextKey, after.opts.NextReceiptKey = point.disk, testKey(5), testKey(6)
		after.open()
		keys := after.Keys()
		if !keyIs(keys, old, KeyActive) && !keyIs(keys, next, KeyActive) || !keyIs(keys, receipt, KeyActive) && !keyIs(keys, nextReceipt, KeyActive) {
			t.Errorf("after %v: keys are %+v", point.op, keys)
		}
		rotate(t, after, testKey(5), testKey(6), finish)
		goesOn(t, after, ends[0], ends[1])
		after.check()
		if n, err := after.FirstPublishedCovering(0); err != nil || string(n.Note) != string(first) {
			t.Errorf("after %v: the first checkpoint is %+v, %v", point.op, n, err)
		}
		if r := fsckOf(t, after.Log); r.Err() != nil {
			t.Errorf("after %v: %v", point.op, r.Err())
		}
		after.close()
		if t.Failed() {
			return
		}
	}
}

// rotate does what is left of a rotation, and checks how it ends.
func rotate(t *testing.T, tl *testLog, logKey, receiptKey crypto.Signer, finish bool) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	old, next := vkeyOf(t, tl.opts.Origin, tl.opts.Key), vkeyOf(t, tl.opts.Origin, logKey)
	ended := keyIs(tl.Keys(), next, KeyActive) || keyIs(tl.Keys(), next, KeyRetired)
	if !ended {
		must(tl.BeginRotation(logKey))
		tl.awaitSigned(old, next)
	}
	if !finish {
		if !ended {
			must(tl.AbortRotation())
		}
		if !keyIs(tl.Keys(), next, KeyRetired) || tl.Vkey() != old {
			t.Fatalf("aborted: keys are %+v", tl.Keys())
		}
		return
	}
	must(tl.RotateReceiptKey(receiptKey))
	if !ended {
		must(tl.FinishRotation())
	}
	if keys := tl.Keys(); !keyIs(keys, old, KeyRetired) || tl.Vkey() != next || tl.ReceiptVkey() != vkeyOf(t, tl.opts.Origin+receiptSuffix, receiptKey) {
		t.Fatalf("finished: keys are %+v", keys)
	}
}

// goesOn appends an entry, and makes sure that the checkpoint that covers it and
// its receipt head are signed by these keys and no other.
func goesOn(t *testing.T, tl *testLog, vkey, receipt string) {
	t.Helper()
	tl.add(tl.nextEntry())
	tl.mustPublish(int64(len(tl.data)))
	tl.awaitSigned(vkey)
	h, err := tl.Head()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := h.Note()
	if err != nil {
		t.Fatal(err)
	}
	if !signedBy(signed, receipt) {
		t.Errorf("receipt head: %s", signed)
	}
}
