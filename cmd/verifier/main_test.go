package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/sandbox"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/lawful"
)

func TestMain(m *testing.M) {
	if sandbox.IsWorker() { // replay starts its workers from this binary
		sandbox.WorkerMain()
	}
	testscript.Main(m, map[string]func(){"verifier": main})
}

// TestScripts runs the real binary. Beside the commands of testscript there are
//
//	cluster              makes a cluster that has run an execution, and writes what
//	                     a stranger gets: genesis.json, the policies, bundles; and
//	                     the payloads. Sets ID.
//	flip FILE N          flips a bit of byte N of a file, from the end if negative
//	exits CODE ARG...    runs "verifier ARG..." and checks its exit code
//	log NAME N           makes a log with N entries, or adds up to N; sets URL, the
//	                     same as URL_NAME, and VKEY, and writes log.policy.
//	                     Another NAME has the same key and other entries, but
//	                     "rekeyed" has OTHERKEY.
//	witness NAME LOG N   makes a witness that shows LOG at size N, or lets it go on;
//	                     adds it to witness.policy, where every witness must
//	                     cosign; sets WITNESS_NAME to its URL
//	note FILE LOG N      writes a checkpoint of LOG at size N
//	honest FILE LOG A B  writes "evidence" of two sizes of one log, with the proof
//	unproof FILE         takes the proof out of an evidence file
//	receipt FILE         has what was submitted in an evidence file signed as a receipt
//	                     head; sets RECEIPTKEY.
//	replace OLD NEW FILE replaces text in a file once
//	unlawful FILE        writes evidence of an unlawful change, and genesis.json
//	damage PATH          flips a bit of a resource of the log; again repairs it
//	endless              writes a log with openings, policies and payloads; the
//	                     module of its second execution, in "spins", never ends
//	await FILE           waits until there is the file
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			env.Setenv("HOME", env.WorkDir)
			env.Values["t"] = t
			env.Values["logs"] = map[string]*testLog{}
			env.Values["witnesses"] = map[string]*testWitness{}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"cluster":  clusterCmd,
			"flip":     flipCmd,
			"exits":    exitsCmd,
			"log":      logCmd,
			"damage":   damageCmd,
			"copy":     copyCmd,
			"witness":  witnessCmd,
			"note":     noteCmd,
			"unlawful": unlawfulCmd,
			"honest":   honestCmd,
			"unproof":  unproofCmd,
			"replace":  replaceCmd,
			"receipt":  receiptCmd,
			"endless":  endlessCmd,
			"await":    awaitCmd,
		},
	})
}

// echo is a module that writes what it reads, up to 60,000 bytes.
func echo() []byte {
	b := wasmtest.Command()
	read := b.Import(wasmtest.WASI, "fd_read", "iiii:i")
	write := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
	b.Data(0, "\x00\x04\x00\x00\x60\xea\x00\x00") // a buffer of 60,000 bytes at 1024
	b.Data(16, "\x00\x04\x00\x00")                // the buffer to write; its length is stored below
	load, store := wasmtest.Op(0x28, 2, 0), wasmtest.Op(0x36, 2, 0)
	b.Start("",
		wasmtest.Call(read, 0, 0, 1, 8), wasmtest.Drop,
		wasmtest.I32Const(20), wasmtest.I32Const(8), load, store,
		wasmtest.Call(write, 1, 16, 1, 24), wasmtest.Drop)
	return b.Bytes()
}

func clusterCmd(ts *testscript.TestScript, neg bool, args []string) {
	c := testcluster.New(ts.Value("t").(testing.TB), testcluster.Options{})
	con := c.Contract()
	con.Module = digest.Of(echo())
	hash := c.Register(con)

	parent := c.Submit(hash, []byte("of the parent, "))
	c.Run(parent, testcluster.OK("of the parent, "))
	input := []byte("of the child")
	id := c.Submit(hash, input, parent)
	joined := "of the parent, of the child"
	c.Run(id, testcluster.OK(joined))
	bundle := c.Bundle(id)

	write := func(name string, b []byte) {
		ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(name)), 0o755))
		ts.Check(os.WriteFile(ts.MkAbs(name), b, 0o644))
	}
	format := func(name string, id digest.Digest) {
		b, err := provenance.FormatBundle(c.Bundle(id))
		ts.Check(err)
		write(name, b)
	}
	format("run.tallyproof", id)
	format("parent.tallyproof", parent)
	whole, err := provenance.FormatBundle(c.BundleWithAncestors(id))
	ts.Check(err)
	write("descent.tallyproof", whole)
	stopped := c.Submit(hash, []byte("cancelled"))
	c.RequestCheckpoint(stopped)
	c.Append(c.CancellationRecord(stopped))
	format("cancelled.tallyproof", stopped)
	changes := bundle.MembershipChanges
	bundle.MembershipChanges, bundle.ExternalMembership = nil, true
	external, err := provenance.FormatBundle(bundle)
	ts.Check(err)
	write("external.tallyproof", external)
	var entries []byte
	for _, change := range changes {
		entries = append(binary.BigEndian.AppendUint16(entries, uint16(len(change))), change...)
	}
	write("changes", entries)

	c.AddNode("node-4")
	c.Change(membership.RemovePrincipal{ID: "node-4"})
	for name, epoch := range map[string]uint64{"node-4.tallymember": 2, "removed.tallymember": 3} {
		file, err := c.MemberProof("node-4", epoch, 3).Marshal()
		ts.Check(err)
		write(name, file)
	}
	entries = nil
	for _, change := range c.Membership.Entries {
		entries = append(binary.BigEndian.AppendUint16(entries, uint16(len(change))), change...)
	}
	write("all-changes", entries)

	lieIndex := c.Audit.Size()
	lie := c.Submit(hash, []byte("input"))
	c.Run(lie, testcluster.OK("lies!"))
	format("lie.tallyproof", lie)
	con.Name, con.Versions.Rewriter, con.Limits.Gas, con.Limits.Frames = "metered", 9, 1000, 100
	metered := c.Submit(c.Register(con), []byte("input"))
	gas, rewritten := uint64(1), digest.Of(nil)
	for _, node := range c.Execution(metered).Assigned()[:2] {
		outcome := testcluster.OK("x")
		outcome.Gas = &gas
		s := c.Statement(metered, node, outcome)
		s.RewrittenModule = &rewritten
		if _, effect := c.Append(c.AttestationRecord(s)); effect.Derived != nil {
			c.Append(effect.Derived)
		}
	}
	format("metered.tallyproof", metered)

	for _, payload := range [][]byte{echo(), []byte("of the parent, "), input, []byte("cancelled"), []byte("input")} {
		write("payloads/"+digest.Of(payload).String(), payload)
	}
	openings := func(said, n int64) []byte { // n of them in a file that says the log had said
		b := provenance.FormatOpenings(c.Audit.Origin, c.Audit.Checkpoint(said).Tree())
		for _, opening := range c.Audit.Openings[:n] {
			b = provenance.AppendOpening(b, opening)
		}
		return b
	}
	write("audit.openings", openings(c.Audit.Size(), c.Audit.Size()))
	write("grown.openings", openings(20, 21))
	write("early.openings", openings(12, 13))
	write("short.openings", openings(c.Audit.Size(), 21))
	write("no.openings", openings(1, 0))
	write("other.openings", bytes.Replace(openings(21, 21), []byte("/audit"), []byte("/other"), 1))
	root, wrong := c.Audit.Checkpoint(20).Root.String(), c.Audit.Checkpoint(19).Root.String()
	write("wrong.openings", bytes.Replace(openings(20, 21), []byte(root), []byte(wrong), 1))
	treeOf(ts, "audit", c.Audit, c.Audit.Size())
	treeOf(ts, "older", c.Audit, lieIndex)
	treeOf(ts, "empty", c.Audit, 0)
	treeOf(ts, "membership", c.Membership, c.Membership.Size())
	treeOf(ts, "old-membership", c.Membership, c.Membership.Size()-1)
	// Another tenant erases a copy of the module, ours one of an input.
	for tenant, payload := range map[string][]byte{testcluster.Other: echo(), testcluster.Tenant: input} {
		d := digest.Of(payload)
		c.Append(&pb.Record{Body: &pb.Record_Erasure{Erasure: &pb.ErasureRecord{Tenant: tenant, Digest: d[:], Reason: "asked for"}}})
	}
	write("erased.openings", openings(c.Audit.Size(), c.Audit.Size()))
	treeOf(ts, "erased", c.Audit, c.Audit.Size())
	// The control plane says of an execution that another output came of it than was
	// attested, and then what is true.
	said := c.Submit(hash, []byte("of the parent, "))
	for _, node := range c.Execution(said).Assigned()[:2] {
		_, effect := c.Append(c.AttestationRecord(c.Statement(said, node, testcluster.OK("of the parent, "))))
		if effect.Derived == nil {
			continue
		}
		untrue := proto.CloneOf(effect.Derived)
		untrue.GetProvenance().OutputDigest[0] ^= 1
		at, _ := c.Append(untrue)
		c.Append(effect.Derived)
		content, _ := c.Fold.BundleContent(said)
		content.Records[len(content.Records)-1] = at
		b, err := provenance.FormatBundle(c.BundleOf(said, content))
		ts.Check(err)
		write("untrue.tallyproof", b)
	}
	format("true.tallyproof", said)
	write("untrue.openings", openings(c.Audit.Size(), c.Audit.Size()))
	treeOf(ts, "untrue", c.Audit, c.Audit.Size())
	attestTwice(ts, write)
	ts.Setenv("LIE", lie.String())
	ts.Setenv("METERED", metered.String())

	write("genesis.json", c.Genesis)
	write("audit.policy", c.PolicyText.Audit)
	write("membership.policy", c.PolicyText.Membership)
	write("module.wasm", echo())
	write("parent-output", []byte("of the parent, "))
	write("input", input)
	write("other-input", []byte("input"))
	ts.Setenv("ID", id.String())
}

// attestTwice makes another log of the same cluster: of one execution, and with an
// attestation that stands there twice.
func attestTwice(ts *testscript.TestScript, write func(name string, b []byte)) {
	c := testcluster.New(ts.Value("t").(testing.TB), testcluster.Options{})
	con := c.Contract()
	con.Module = digest.Of(echo())
	said := testcluster.OK("of the parent, ")
	id := c.Submit(c.Register(con), []byte("of the parent, "))
	c.Run(id, said)
	c.Append(c.AttestationRecord(c.Statement(id, c.Execution(id).Attestations[0].Node, said)))
	b := provenance.FormatOpenings(c.Audit.Origin, c.Audit.Checkpoint(c.Audit.Size()).Tree())
	for _, opening := range c.Audit.Openings {
		b = provenance.AppendOpening(b, opening)
	}
	write("twice.openings", b)
	treeOf(ts, "twice", c.Audit, c.Audit.Size())
}

func flipCmd(ts *testscript.TestScript, neg bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[(n+len(b))%len(b)] ^= 1
	ts.Check(os.WriteFile(name, b, 0o644))
}

func replaceCmd(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[2])
	b, err := os.ReadFile(name)
	ts.Check(err)
	if !bytes.Contains(b, []byte(args[0])) {
		ts.Fatalf("no %q in %s", args[0], args[2])
	}
	ts.Check(os.WriteFile(name, bytes.Replace(b, []byte(args[0]), []byte(args[1]), 1), 0o644))
}

func exitsCmd(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("verifier", args[1:]...)
	code := 0
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// otherKey is what OTHERKEY is made from.
const otherKey = "another key"

// testLog is a log that serves itself as static resources.
type testLog struct {
	url     string
	rekeyed bool       // it has otherKey
	mu      sync.Mutex // guards what follows
	entries [][]byte
	hashes  []tlog.Hash
	damaged map[string]bool
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(l.hashes)) {
			return nil, fmt.Errorf("no hash %d yet", index)
		}
		out[i] = l.hashes[index]
	}
	return out, nil
}

// grow adds entries of a flavour up to a size.
func (l *testLog) grow(size int, flavour string) error {
	for i := len(l.entries); i < size; i++ {
		entry := fmt.Appendf(nil, "entry %d of %s", i, flavour)
		hashes, err := tlog.StoredHashes(int64(i), entry, l)
		if err != nil {
			return err
		}
		l.entries, l.hashes = append(l.entries, entry), append(l.hashes, hashes...)
	}
	return nil
}

const logOrigin = "example.com/log"

func logCmd(ts *testscript.TestScript, neg bool, args []string) {
	logs := ts.Value("logs").(map[string]*testLog)
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	l := logs[args[0]]
	if l == nil {
		l = &testLog{damaged: map[string]bool{}, rekeyed: args[0] == "rekeyed"}
		logs[args[0]] = l
		srv := httptest.NewServer(l)
		ts.Defer(srv.Close)
		l.url = srv.URL
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ts.Check(l.grow(size, args[0]))
	vkey, err := checkpoint.Vkey(logOrigin, testcluster.Public(logOrigin))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("log.policy"), []byte("log "+vkey+"\nquorum none\n"), 0o644))
	ts.Setenv("URL", l.url)
	ts.Setenv("URL_"+args[0], l.url)
	ts.Setenv("VKEY", vkey)
	other, err := checkpoint.Vkey(logOrigin, testcluster.Public(otherKey))
	ts.Check(err)
	ts.Setenv("OTHERKEY", other)
}

func damageCmd(ts *testscript.TestScript, neg bool, args []string) {
	for _, l := range ts.Value("logs").(map[string]*testLog) {
		l.mu.Lock()
		l.damaged[args[0]] = !l.damaged[args[0]]
		l.mu.Unlock()
	}
}

// ServeHTTP answers with a resource of the tree as it is now.
func (l *testLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/")
	b, err := l.resource(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	if l.damaged[path] {
		b = bytes.Clone(b)
		b[len(b)-2] ^= 1
	}
	w.Write(b)
}

func (l *testLog) resource(path string) ([]byte, error) {
	if path == "checkpoint" {
		return l.signed(int64(len(l.entries)))
	}
	level, rest, _ := strings.Cut(strings.TrimPrefix(path, "tile/"), "/")
	index, partial, isPartial := strings.Cut(rest, ".p/")
	width := 256
	if isPartial {
		width, _ = strconv.Atoi(partial)
	}
	n, err := strconv.Atoi(index)
	if err != nil {
		return nil, err
	}
	if level != "entries" {
		height, err := strconv.Atoi(level)
		if err != nil {
			return nil, err
		}
		return tlog.ReadTileData(tlog.Tile{H: 8, L: height, N: int64(n), W: width}, l)
	}
	if n*256+width > len(l.entries) {
		return nil, fmt.Errorf("no entry bundle %d of width %d yet", n, width)
	}
	var b []byte
	for _, entry := range l.entries[n*256 : n*256+width] {
		b = binary.BigEndian.AppendUint16(b, uint16(len(entry)))
		b = append(b, entry...)
	}
	return b, nil
}

// signed is the log's checkpoint at a size.
func (l *testLog) signed(size int64) ([]byte, error) {
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		return nil, err
	}
	key := testcluster.Key(logOrigin)
	if l.rekeyed {
		key = testcluster.Key(otherKey)
	}
	signer, err := checkpoint.NewSigner(logOrigin, key)
	if err != nil {
		return nil, err
	}
	return checkpoint.Sign(checkpoint.Checkpoint{Origin: logOrigin, Size: size, Root: root}, signer)
}

// testWitness shows one cosigned checkpoint.
type testWitness struct {
	key    *checkpoint.Cosigner
	mu     sync.Mutex // guards signed
	signed []byte
}

func (w *testWitness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.URL.Path != fmt.Sprintf("/%x/checkpoint", sha256.Sum256([]byte(logOrigin))) {
		http.NotFound(rw, r)
		return
	}
	rw.Write(w.signed)
}

func witnessCmd(ts *testscript.TestScript, neg bool, args []string) {
	witnesses := ts.Value("witnesses").(map[string]*testWitness)
	w := witnesses[args[0]]
	if w == nil {
		key, err := checkpoint.NewEd25519Cosigner("witness.example/"+args[0], testcluster.Key(args[0]))
		ts.Check(err)
		w = &testWitness{key: key}
		witnesses[args[0]] = w
		srv := httptest.NewServer(w)
		ts.Defer(srv.Close)
		ts.Setenv("WITNESS_"+args[0], srv.URL)
		text := "log " + ts.Getenv("VKEY") + "\n"
		names := slices.Sorted(maps.Keys(witnesses))
		for _, name := range names {
			text += fmt.Sprintf("witness %s %s %s\n", name, witnesses[name].key.Key().Vkey(), ts.Getenv("WITNESS_"+name))
		}
		text += fmt.Sprintf("group all %d %s\nquorum all\n", len(names), strings.Join(names, " "))
		ts.Check(os.WriteFile(ts.MkAbs("witness.policy"), []byte(text), 0o644))
	}
	signed := noteOf(ts, args[1], args[2])
	n, err := checkpoint.ParseNote(signed)
	ts.Check(err)
	sig, err := w.key.Cosign(n.Text, 1_700_000_000)
	ts.Check(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.signed = append(signed, sig.Line()...)
}

func noteCmd(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), noteOf(ts, args[1], args[2]), 0o644))
}

// noteOf is the checkpoint of a log at a size.
func noteOf(ts *testscript.TestScript, log, size string) []byte {
	l := ts.Value("logs").(map[string]*testLog)[log]
	n, err := strconv.Atoi(size)
	ts.Check(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	signed, err := l.signed(int64(n))
	ts.Check(err)
	return signed
}

func honestCmd(ts *testscript.TestScript, neg bool, args []string) {
	l := ts.Value("logs").(map[string]*testLog)[args[1]]
	older, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	newer, err := strconv.ParseInt(args[3], 10, 64)
	ts.Check(err)
	e := &checkpoint.Evidence{Vkeys: []string{ts.Getenv("VKEY")}, Known: noteOf(ts, args[1], args[2]), Submitted: noteOf(ts, args[1], args[3])}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Hashes, err = tlog.ProveTree(newer, older, l)
	ts.Check(err)
	writeEvidence(ts, args[0], e)
}

func unproofCmd(ts *testscript.TestScript, neg bool, args []string) {
	text, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	e, err := checkpoint.ParseEvidence(text)
	ts.Check(err)
	e.RootAt, e.Hashes = nil, nil
	writeEvidence(ts, args[0], e)
}

// receiptCmd is the command "receipt FILE": it has what was submitted in an evidence
// file signed as a receipt head, and not by the log's key.
func receiptCmd(ts *testscript.TestScript, neg bool, args []string) {
	text, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	e, err := checkpoint.ParseEvidence(text)
	ts.Check(err)
	n, err := checkpoint.ParseNote(e.Submitted)
	ts.Check(err)
	signer, err := checkpoint.NewSigner(logOrigin+"/receipt", testcluster.Key("receipt"))
	ts.Check(err)
	e.Submitted, err = note.Sign(&note.Note{Text: string(n.Text)}, signer)
	ts.Check(err)
	vkey, err := checkpoint.Vkey(logOrigin+"/receipt", testcluster.Public("receipt"))
	ts.Check(err)
	ts.Setenv("RECEIPTKEY", vkey)
	writeEvidence(ts, args[0], e)
}

func writeEvidence(ts *testscript.TestScript, name string, e *checkpoint.Evidence) {
	text, err := e.Format()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(name), text, 0o644))
}

func unlawfulCmd(ts *testscript.TestScript, neg bool, args []string) {
	c := testcluster.New(ts.Value("t").(testing.TB), testcluster.Options{})
	payload, err := c.History.Current().Propose(membership.AddPrincipal{Principal: testcluster.NewNode("node-9")})
	ts.Check(err)
	c.Membership.Append(c.Envelope(membership.PayloadType, payload, "node-9/attestation", "node-9/token"), nil)
	size := c.Membership.Size()
	e := &lawful.Evidence{Genesis: c.Genesis, Entries: c.Membership.Entries, Checkpoint: c.Membership.Signed(size)}
	text, err := e.Format()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("genesis.json"), c.Genesis, 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("membership.policy"), c.PolicyText.Membership, 0o644))
}

// Every code that a package can return has an exit code, and the table of the
// package comment is the one of --help.
func TestExitCodes(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	for code, meaning := range exitMeanings {
		if line := fmt.Sprintf("\n//\t%2d  %s\n", code, meaning); !bytes.Contains(source, []byte(line)) {
			t.Errorf("the package comment lacks %q", line)
		}
	}
	codes := readCodes(t, filepath.Join("..", "..", "verifier", "errors.go"))
	for _, code := range codes {
		if bundleExits[verifier.Code(code)] == 0 {
			t.Errorf("no exit code for %q", code)
		}
	}
	if len(codes) != len(bundleExits) {
		t.Errorf("%d codes, %d exit codes", len(codes), len(bundleExits))
	}
}

// readCodes finds the texts of the constants of type Code.
func readCodes(t *testing.T, name string) (codes []string) {
	source, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\tCode\w+\s+Code = "(\w+)"`).FindAllSubmatch(source, -1) {
		codes = append(codes, string(m[1]))
	}
	return codes
}

// Whatever member of two outcomes differs, it is named.
func TestDifference(t *testing.T) {
	one, two := uint64(1), digest.Of([]byte("two"))
	attested := testcluster.OK("output")
	if d := firstDifference((&rerun{attested: attested, result: attested.ResultDigest()}).compare(&replayed{outcome: attested})); d != "" {
		t.Errorf("an outcome differs from itself in %s", d)
	}
	typ := reflect.TypeFor[contract.Outcome]()
	for i := range typ.NumField() {
		again := attested
		f := reflect.ValueOf(&again).Elem().Field(i)
		switch f.Interface().(type) {
		case uint64:
			f.SetUint(f.Uint() + 1)
		case *uint64:
			f.Set(reflect.ValueOf(&one))
		case digest.Digest:
			f.Set(reflect.ValueOf(two))
		case *digest.Digest:
			f.Set(reflect.ValueOf(&two))
		case contract.OutcomeKind:
			f.SetString("trap")
		}
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if d := firstDifference((&rerun{attested: attested}).compare(&replayed{outcome: again})); !strings.HasPrefix(d, name+":") {
			t.Errorf("%s differs, named is %q", name, d)
		}
		if d := firstDifference((&rerun{attested: again}).compare(&replayed{outcome: attested})); !strings.HasPrefix(d, name+":") {
			t.Errorf("%s differs, named is %q", name, d)
		}
	}
	one32 := digest.Of(nil)
	r := &rerun{attested: attested, result: attested.ResultDigest(), rewritten: map[string]digest.Digest{"node-1": two, "node-2": one32}}
	if d := firstDifference(r.compare(&replayed{outcome: attested, rewritten: &two})); !strings.HasPrefix(d, "rewritten_module of node-2:") {
		t.Errorf("a node ran another module, named is %q", d)
	}
	if d := firstDifference(r.compare(&replayed{outcome: attested})); !strings.HasPrefix(d, "rewritten_module of node-1:") {
		t.Errorf("no module was rewritten, named is %q", d)
	}
}
