package witness

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestAnswers asks a witness that has cosigned size 5 of the test log, at every
// prefix.
func TestAnswers(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	fork, empty := l.fork(3, 12), newTestLog(otherOrigin, "entry", 0)
	stranger := newTestLog("example.com/stranger", "entry", 12)
	otherKey := &testLog{origin: testOrigin, signer: must(checkpoint.NewSigner(testOrigin, edKey("third"))), hashes: l.hashes}
	secondKey := &testLog{origin: testOrigin, signer: must(checkpoint.NewSigner(testOrigin, edKey("second"))), hashes: l.hashes}

	request := func(old int64, hashes []tlog.Hash, signed []byte) []byte {
		return checkpoint.AddRequest{OldSize: old, Hashes: hashes, Checkpoint: signed}.Format()
	}
	replace := func(b []byte, from, to string) []byte {
		if !bytes.Contains(b, []byte(from)) {
			t.Fatalf("%q is not in %q", from, b)
		}
		return bytes.Replace(b, []byte(from), []byte(to), 1)
	}
	// badSignature is a signature line of the log's key over something else.
	sigLine := func(l *testLog, size int64) string {
		_, line, _ := bytes.Cut(l.signed(size), []byte("\n\n"))
		return string(line)
	}
	badSignature := sigLine(l, 7)
	unsigned := append(l.checkpoint(9).Body(), '\n')
	zeroOther := checkpoint.Checkpoint{Origin: otherOrigin, Size: 0, Root: tlog.Hash{1}}
	signText := func(text []byte, l *testLog) []byte {
		sig := must(l.signer.Sign(text))
		line := checkpoint.Signature{Name: l.signer.Name(), KeyID: l.signer.KeyHash(), Bytes: sig}.Line()
		return append(append(text, '\n'), line...)
	}
	manyHashes := make([]tlog.Hash, 64)
	withExtension := signText(append(l.checkpoint(6).Body(), "extension\n"...), l)

	tests := []struct {
		name   string
		body   []byte
		status int
		answer string // if not empty, the whole body
	}{
		{"lawful", l.request(5, 9), 200, ""},
		{"the same again", l.request(5, 5), 200, ""},
		{"first of another log", newTestLog(otherOrigin, "entry", 3).request(0, 3), 200, ""},
		{"empty tree of another log", empty.request(0, 0), 200, ""},
		{"second key of the log", secondKey.request(5, 9), 200, ""},
		{"unknown signatures beside", append(l.request(5, 9), sigLine(stranger, 9)...), 200, ""},
		{"a signature twice", append(l.request(5, 9), sigLine(l, 9)...), 200, ""},
		{"a signature 99 times", append(l.request(5, 9), strings.Repeat(sigLine(l, 9), 98)...), 200, ""},
		{"extension line", request(5, l.proof(5, 6), withExtension), 200, ""},

		{"empty body", nil, 400, ""},
		{"garbage", []byte("garbage"), 400, ""},
		{"no empty line", []byte("old 5\n"), 400, ""},
		{"no old line", l.signed(9), 400, ""},
		{"old size with leading zero", replace(l.request(5, 9), "old 5", "old 05"), 400, ""},
		{"negative old size", replace(l.request(5, 9), "old 5", "old -5"), 400, ""},
		{"old size 2^63", replace(l.request(5, 9), "old 5", "old 9223372036854775808"), 400, ""},
		{"two spaces", replace(l.request(5, 9), "old 5", "old  5"), 400, ""},
		{"carriage returns", bytes.ReplaceAll(l.request(5, 9), []byte("\n"), []byte("\r\n")), 400, ""},
		{"proof line not base64", replace(l.request(5, 9), "\n", "\n!\n"), 400, ""},
		{"proof line of 31 bytes", replace(l.request(5, 9), "\n", "\n"+base64.StdEncoding.EncodeToString(make([]byte, 31))+"\n"), 400, ""},
		{"proof line with spare bits", replace(l.request(5, 9), "\n", "\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n"), 400, ""},
		{"64 proof lines", request(5, manyHashes, l.signed(9)), 400, ""},
		{"no checkpoint", request(5, l.proof(5, 9), nil), 400, ""},
		{"checkpoint without root", request(5, nil, []byte("example.com/log\n9\n\n"+sigLine(l, 9))), 400, ""},
		{"checkpoint without blank line", request(5, l.proof(5, 9), l.checkpoint(9).Body()), 400, ""},
		{"signature line not base64", append(l.request(5, 9), "— example.com/log !\n"...), 400, ""},
		{"signature line not terminated", bytes.TrimSuffix(l.request(5, 9), []byte("\n")), 400, ""},
		{"101 signatures", append(l.request(5, 9), strings.Repeat(sigLine(stranger, 9), 100)...), 413, ""},
		{"root of 33 bytes", request(5, nil, signText([]byte(testOrigin+"\n9\n"+base64.StdEncoding.EncodeToString(make([]byte, 33))+"\n"), l)), 400, ""},
		{"size with leading zero", request(5, nil, signText([]byte(testOrigin+"\n09\n"+base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n"), l)), 400, ""},
		{"control character", replace(l.request(5, 9), "example.com/log\n", "example.com/log\x00\n"), 400, ""},
		{"not UTF-8", replace(l.request(5, 9), "example.com/log\n", "example.com/log\xff\n"), 400, ""},
		{"body too large", append(l.request(5, 9), bytes.Repeat([]byte("x"), checkpoint.MaxAddRequestSize)...), 413, ""},

		{"unknown origin", stranger.request(5, 9), 404, ""},
		{"unknown origin comes before an old size that is too large", request(10, nil, stranger.signed(9)), 404, ""},
		{"unknown origin, unsigned", request(0, nil, append(stranger.checkpoint(9).Body(), '\n')), 404, ""},
		{"unsigned", request(5, l.proof(5, 9), unsigned), 403, ""},
		{"signed by another key of that name", otherKey.request(5, 9), 403, ""},
		{"signed by the other log", request(5, l.proof(5, 9), append(bytes.Clone(unsigned), sigLine(newTestLog(otherOrigin, "entry", 9), 9)...)), 403, ""},
		{"bad signature", request(5, l.proof(5, 9), append(bytes.Clone(unsigned), badSignature...)), 403, ""},
		{"bad signature before a good one", request(5, l.proof(5, 9), append(append(bytes.Clone(unsigned), badSignature...), sigLine(l, 9)...)), 403, ""},
		{"bad signature after a good one", append(l.request(5, 9), badSignature...), 403, ""},
		{"bad signature comes before an old size that is too large", request(10, nil, append(bytes.Clone(unsigned), badSignature...)), 403, ""},

		{"old size larger than the checkpoint", request(10, nil, l.signed(9)), 400, ""},
		{"old size larger, though it does not match either", request(6, nil, l.signed(5)), 400, ""},

		{"old size too small", l.request(4, 9), 409, "5\n"},
		{"old size too large", l.request(6, 9), 409, "5\n"},
		{"old size zero", l.request(0, 9), 409, "5\n"},
		{"smaller checkpoint", l.request(3, 4), 409, "5\n"},
		{"old size not zero at first", newTestLog(otherOrigin, "entry", 3).request(2, 3), 409, "0\n"},
		{"conflict comes before the proof", request(4, []tlog.Hash{{1}}, l.signed(9)), 409, "5\n"},
		{"conflict comes before the root of the empty tree", request(0, nil, signText(checkpoint.Checkpoint{Origin: testOrigin}.Body(), l)), 409, "5\n"},
		{"conflict on a fork of the same size", fork.request(0, 5), 409, "5\n"},

		{"empty tree with another root", request(0, nil, signText(zeroOther.Body(), newTestLog(otherOrigin, "", 0))), 422, ""},
		{"proof though the old size is zero", request(0, []tlog.Hash{{1}}, newTestLog(otherOrigin, "entry", 3).signed(3)), 422, ""},
		{"proof though both are empty", request(0, []tlog.Hash{{1}}, empty.signed(0)), 422, ""},
		{"no proof", request(5, nil, l.signed(9)), 422, ""},
		{"proof cut short", request(5, l.proof(5, 9)[1:], l.signed(9)), 422, ""},
		{"proof too long", request(5, append(l.proof(5, 9), tlog.Hash{}), l.signed(9)), 422, ""},
		{"63 proof lines", request(5, manyHashes[:63], l.signed(9)), 422, ""},
		{"proof of another size", request(5, l.proof(4, 9), l.signed(9)), 422, ""},
		{"fork that grows", fork.request(5, 9), 422, ""},
		{"fork of the same size", fork.request(5, 5), 422, ""},
		{"proof though nothing is new", request(5, l.proof(5, 9), l.signed(5)), 422, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newMemDisk()
			f := newFixture(t, d)
			f.mustAdd(l, 0, 5)
			before := must(f.Latest(originHash(testOrigin)))
			for _, prefix := range []string{"", "/ed25519", "/mldsa"} {
				status, header, body := f.post(prefix, test.body)
				if status != test.status {
					t.Fatalf("%s: status %d, want %d: %s", prefix, status, test.status, body)
				}
				if test.answer != "" && body != test.answer {
					t.Errorf("%s: body %q, want %q", prefix, body, test.answer)
				}
				wantType := "text/plain; charset=utf-8"
				if status == 409 {
					wantType = "text/x.tlog.size"
				}
				if types := header.Values("Content-Type"); len(types) != 1 || types[0] != wantType {
					t.Errorf("%s: Content-Type %q, want %q", prefix, types, wantType)
				}
				if status == 200 {
					_, signed, _ := bytes.Cut(test.body, []byte("\n\n"))
					if bytes.Count(signed, []byte("— ")) < 20 { // leaves room for the cosignatures
						f.checkCosignatures(signed, body, 2)
					}
					f.restart(d) // what was stored can be loaded again
					return
				}
				if after := must(f.Latest(originHash(testOrigin))); !bytes.Equal(before, after) {
					t.Fatalf("%s: a refused request has changed the head to %q", prefix, after)
				}
			}
		})
	}
}

// TestPrefixesShareOneHead submits one checkpoint at every prefix, as a log does
// that keeps one signature per witness URL.
func TestPrefixesShareOneHead(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	f := newFixture(t, osDisk{})
	for i, prefix := range []string{"/ed25519", "/mldsa", ""} {
		f.clock.seconds += int64(i)
		old := int64(0)
		if i > 0 {
			if status, _, body := f.post(prefix, l.request(0, 9)); status != 409 || body != "9\n" {
				t.Fatalf("%s: status %d, %q", prefix, status, body)
			}
			old = 9
		}
		status, _, body := f.post(prefix, l.request(old, 9))
		if status != 200 {
			t.Fatalf("%s: status %d, %q", prefix, status, body)
		}
		f.checkCosignatures(l.signed(9), body, 1+i/2)
	}
}

// TestCosignatureTimes: within a second the same cosignatures come back, later
// ones are new, and the monitoring endpoint has those that were given last.
func TestCosignatureTimes(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	f := newFixture(t, osDisk{})
	_, _, first := f.post("", l.request(0, 9))
	_, _, second := f.post("", l.request(9, 9))
	if first != second {
		t.Errorf("two answers within a second differ:\n%s\n%s", first, second)
	}
	f.clock.seconds++
	_, _, third := f.post("", l.request(9, 9))
	if first == third {
		t.Error("the cosignatures did not get younger")
	}
	if _, _, latest := f.get("/" + originHash(testOrigin) + "/checkpoint"); !strings.HasSuffix(latest, third) {
		t.Errorf("latest checkpoint %q does not end in %q", latest, third)
	}
}

func TestMonitoring(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	f := newFixture(t, osDisk{})
	path := "/" + originHash(testOrigin) + "/checkpoint"
	for _, absent := range []string{path, "/" + originHash("stranger") + "/checkpoint", "/x/checkpoint", "/" + strings.ToUpper(originHash(testOrigin)) + "/checkpoint"} {
		if status, header, _ := f.get(absent); status != 404 || header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: status %d", absent, status)
		}
	}
	f.mustAdd(l, 0, 9)
	status, header, body := f.get(path)
	if status != 200 || header.Get("Access-Control-Allow-Origin") != "*" || header.Get("Cache-Control") != "no-cache" ||
		header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("status %d, header %v", status, header)
	}
	n, err := checkpoint.ParseNote([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]int{"log": 1, "witness": 2} {
		trusted := testKeys().public()
		if name == "log" {
			trusted = testPolicy().LogKeys(testOrigin)
		}
		if good, err := n.Verified(trusted); err != nil || len(good) != keys {
			t.Errorf("%d signatures of the %s, error %v", len(good), name, err)
		}
	}
}

func TestOtherMethodsAndPaths(t *testing.T) {
	f := newFixture(t, osDisk{})
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/add-checkpoint", 405},
		{"PUT", "/ed25519/add-checkpoint", 405},
		{"POST", "/" + originHash(testOrigin) + "/checkpoint", 405},
		{"POST", "/rsa/add-checkpoint", 404},
		{"GET", "/", 404},
		{"POST", "/sign-subtree", 404},
		{"GET", "/healthz", 200},
		{"HEAD", "/healthz", 200},
	} {
		req := must(http.NewRequest(test.method, f.url+test.path, nil))
		status, _, _ := f.read(must(http.DefaultClient.Do(req)))
		if status != test.status {
			t.Errorf("%s %s: status %d, want %d", test.method, test.path, status, test.status)
		}
	}
}

// TestKeepAlive: many requests of a log go over one connection, refused ones too.
func TestKeepAlive(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 20)
	f := newFixture(t, newMemDisk())
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	fresh := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			fresh++
		}
	}})
	for size := int64(1); size <= 20; size++ {
		for _, want := range []int{200, 409} {
			req := must(http.NewRequestWithContext(ctx, "POST", f.url+"/ed25519/add-checkpoint", bytes.NewReader(l.request(size-1, size))))
			if status, _, body := f.read(must(client.Do(req))); status != want {
				t.Fatalf("size %d: status %d: %s", size, status, body)
			}
		}
	}
	if fresh != 1 {
		t.Errorf("%d connections", fresh)
	}
}
