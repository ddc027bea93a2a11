package logserver

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestIdempotencyKey: one key has one index, for the same data, whoever repeats
// it and whether or not the log was restarted.
func TestIdempotencyKey(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	longest := strings.Repeat("~", MaxDedupSize)
	e := func(data, key string) Entry { return Entry{Data: []byte(data), Dedup: []byte(key)} }
	for round := range 2 {
		h := Handler(tl.Log)
		for _, c := range []struct {
			data, key string
			status    int
			want      string // index or code
			duplicate bool   // also in the first round
		}{
			{"a", "one", 200, "0", false},
			{"a", "one", 200, "0", true},
			{"b", "one", 422, "key_reused", true},
			{"a", longest, 200, "1", false},
			{"a", "\"one\"", 200, "2", false},
			{"c", longest + "~", 400, "idempotency_key", false},
			{"c", "two words", 400, "idempotency_key", false},
			{"c", "caf\xc3\xa9", 400, "idempotency_key", false},
			{"c", "", 400, "idempotency_key", false},
		} {
			size := tl.Size()
			res, body := do(t, h, "POST", "/add", c.data, idempotencyHeader, c.key)
			got := string(body)
			if res.StatusCode != 200 {
				got = res.Header.Get(codeHeader)
			}
			duplicate := res.StatusCode == 200 && (c.duplicate || round > 0)
			if res.StatusCode != c.status || got != c.want || (res.Header.Get(duplicateHeader) == "true") != duplicate {
				t.Errorf("round %d, %q under %.9q: %s %v %s", round, c.data, c.key, res.Status, res.Header, body)
			}
			if tl.Size() > size {
				tl.sequence(e(c.data, c.key))
			}
		}
		if res, _ := do(t, h, "POST", "/add-batch", frame("a"), idempotencyHeader, "one"); res.StatusCode != 400 {
			t.Errorf("a key with a batch: %s", res.Status)
		}
		tl.check()
		tl.reopen()
	}
}

// TestKeyStorm: however many send one key at once, one entry is sequenced.
func TestKeyStorm(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	for range 3 {
		h := Handler(tl.Log)
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if res, body := do(t, h, "POST", "/add", "once", idempotencyHeader, "storm"); res.StatusCode != 200 || string(body) != "0" {
					t.Errorf("%s %s", res.Status, body)
				}
			})
		}
		wg.Wait()
		tl.reopen()
	}
	tl.sequence(Entry{Data: []byte("once"), Dedup: []byte("storm")})
	tl.check()
}

// TestAddProof: the proof that is asked for verifies under the key that it
// should, for single entries, duplicates, and many at once.
func TestAddProof(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(1000)
	h := Handler(tl.Log)
	verify := func(form, vkey, data string, headers ...string) {
		res, body := do(t, h, "POST", "/add?proof="+form, data, headers...)
		p, err := checkpoint.ParseProof(body)
		if res.StatusCode != 200 || err != nil || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %s, %v", form, res.Status, body, err)
			return
		}
		key, err := note.NewVerifier(vkey)
		if err != nil {
			t.Error(err)
			return
		}
		head, err := checkpoint.Open(p.Checkpoint, tl.Origin(), []note.Verifier{key})
		if err != nil {
			t.Errorf("%s: %v", form, err)
			return
		}
		if err := checkpoint.VerifyInclusion(head.Tree(), p.Index, tlog.RecordHash([]byte(data)), p.Hashes); err != nil {
			t.Errorf("%s, index %d: %v", form, p.Index, err)
		}
	}
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() { verify("receipt", tl.ReceiptVkey(), fmt.Sprint("entry ", i)) })
	}
	wg.Wait()
	for range 2 {
		verify("witnessed", tl.Vkey(), "for all to see", idempotencyHeader, "k")
		verify("receipt", tl.ReceiptVkey(), "for all to see", idempotencyHeader, "k")
	}
	for query, code := range map[string]string{"proof": "query", "proof=": "query", "proof=receipt&x": "query", "proof=Receipt": "query", "index=7": "query"} {
		if res, _ := do(t, h, "POST", "/add?"+query, "x"); res.StatusCode != 400 || res.Header.Get(codeHeader) != code {
			t.Errorf("%s: %s", query, res.Status)
		}
	}
	opts := testOptions(vfs.NewMem())
	opts.ReceiptKey = nil
	if res, _ := do(t, Handler(newTestLog(t, opts).Log), "POST", "/add?proof=receipt", "x"); res.StatusCode != 501 || res.Header.Get(codeHeader) != "no_receipts" {
		t.Errorf("without a receipt key: %s", res.Status)
	}
}

// TestAddProofTooLate: an entry whose checkpoint does not come is in the log all
// the same, and its sender is told where.
func TestAddProofTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(vfs.NewMem())
		opts.HoldWitness = true
		tl := newTestLog(t, opts)
		res, body := do(t, Handler(tl.Log), "POST", "/add?proof=witnessed", "held back")
		if res.StatusCode != http.StatusAccepted || string(body) != "0" || res.Header.Get(codeHeader) != "unpublished" {
			t.Errorf("%s %v %s", res.Status, res.Header, body)
		}
		tl.sequence(Entry{Data: []byte("held back")})
		tl.check()
		tl.close()
	})
}
