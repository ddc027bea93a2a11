//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// echo is a module that writes the first kilobyte of its input to its output.
func echo() []byte {
	b := wasmtest.Command()
	read := b.Import(wasmtest.WASI, "fd_read", "iiii:i")
	write := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
	set := func(at, v int32) []byte {
		return wasmtest.Cat(wasmtest.I32Const(at), wasmtest.I32Const(v), wasmtest.Op(0x36, 2, 0))
	}
	b.Start("", set(0, 64), set(4, 1024), // one buffer at 64
		wasmtest.Call(read, 0, 0, 1, 4), wasmtest.Drop, // and its length is what was read
		wasmtest.Call(write, 1, 0, 1, 8), wasmtest.Drop)
	return b.Bytes()
}

// metered makes a contract metered.
func metered(v *contract.Contract) {
	v.Versions = contract.Versions{HostInterface: 1, Rewriter: 1, CostTable: 1}
	v.Limits.Gas, v.Limits.Frames = 1_000_000, 1000
}

// disputed is a founded cluster whose nodes speak through a relay.
type disputed struct {
	*founded
	*relay
	*agent
	hash digest.Digest
	runs int // executions asked for
}

func newDisputed(t *testing.T, control ...string) *disputed {
	t.Helper()
	f := found(t, control...)
	d := &disputed{founded: f, relay: newRelay(t, f.cluster)}
	server := f.server
	f.server = d.url
	f.startNodes("--capacity", "1")
	f.server = server
	d.agent = f.agent("tenant")
	var err error
	if d.hash, err = d.admit(echo(), metered); err != nil {
		t.Fatal(err)
	}
	return d
}

// ask submits an execution.
func (d *disputed) ask() digest.Digest {
	d.t.Helper()
	d.runs++
	input := fmt.Appendf(nil, "input %d", d.runs)
	envelope, id := d.submission(d.hash, input, d.runs)
	if _, err := d.submit(envelope, input); err != nil {
		d.t.Fatal(err)
	}
	return id
}

func (d *disputed) status(id digest.Digest) *pb.ExecutionStatus {
	d.t.Helper()
	res, err := d.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id.String()}))
	if err != nil {
		d.t.Fatal(err)
	}
	return res.Msg.Status
}

// decided waits until an execution is decided and, if complete, proven.
func (d *disputed) decided(id digest.Digest) *pb.ExecutionStatus {
	d.t.Helper()
	if err := d.ended(id.String()); err != nil {
		d.t.Fatal(err)
	}
	if s := d.status(id); s.State != pb.ExecutionState_EXECUTION_STATE_COMPLETE {
		return s
	}
	return d.complete(id.String())
}

// first makes one node speak before the others, with its own word replaced.
func (d *disputed) first(liar string, lie func(s *provenance.Statement) [][]byte) {
	d.script(func(s *provenance.Statement, signed []byte) [][]byte {
		if s.Node == liar {
			return lie(s)
		}
		d.answer(s.Execution, liar)
		return [][]byte{signed}
	})
}

// saying signs the statement, altered, as its node.
func (d *disputed) saying(alter func(s *provenance.Statement)) func(s *provenance.Statement) [][]byte {
	return func(s *provenance.Statement) [][]byte {
		lie := *s
		alter(&lie)
		return [][]byte{d.sign(&lie, d.keyFile(s.Node, "attestation"))}
	}
}

func report(s *pb.ExecutionStatus, node string) *pb.NodeReport {
	i := slices.IndexFunc(s.Reports, func(r *pb.NodeReport) bool { return r.Node == node && r.Abandoned == "" })
	if i < 0 {
		return nil
	}
	return s.Reports[i]
}

// output is a lie about what a module has put out.
func output(text string) func(s *provenance.Statement) {
	return func(s *provenance.Statement) {
		s.Outcome.OutputDigest, s.Outcome.OutputLength = digest.Of([]byte(text)), uint64(len(text))
	}
}

// TestLyingNode: whatever one node of three says first, with its own key, the two
// honest ones agree on the truth, the proof verifies, and what the liar said is
// shown if its key could say it, and refused if not.
func TestLyingNode(t *testing.T) {
	const liar = "node-2"
	d := newDisputed(t)
	for _, test := range []struct {
		name    string
		lie     func(s *provenance.Statement)
		refused bool
	}{
		{"wrong output", output("a lie"), false},
		{"right output, wrong gas", func(s *provenance.Statement) {
			if s.Outcome.Gas == nil {
				s.Outcome.PeakPages++ // what nodes count when they meter nothing
				return
			}
			gas := *s.Outcome.Gas + 1
			s.Outcome.Gas = &gas
		}, false},
		{"right result on another checkpoint", func(s *provenance.Statement) { s.RequestCheckpoint.RootHash[0] ^= 1 }, false},
		{"another kind of outcome", func(s *provenance.Statement) { s.Outcome.Kind = contract.OutcomeTrap }, false},
		{"another attempt", func(s *provenance.Statement) { s.Attempt++ }, true},
		{"another execution's input", func(s *provenance.Statement) { s.Input[0] ^= 1 }, true},
		{"more output than the contract allows", func(s *provenance.Statement) { s.Outcome.OutputLength = 1 << 40 }, true},
		{"another membership", func(s *provenance.Statement) { s.MembershipCheckpoint.RootHash[0] ^= 1 }, true},
	} {
		d.first(liar, d.saying(test.lie))
		id := d.ask()
		heard := d.answer(id, liar)
		if strings.Contains(heard, "attestation_refused") != test.refused {
			t.Errorf("%s: the control plane answers %q", test.name, heard)
		}
		s := d.decided(id)
		if s.State != pb.ExecutionState_EXECUTION_STATE_COMPLETE || s.Outcome.Kind != "ok" || s.Outcome.OutputDigest != s.InputDigest {
			t.Fatalf("%s: %v", test.name, s)
		}
		r := report(s, liar)
		if (r == nil) != test.refused || r != nil && (r.Agrees || r.Index >= s.Reports[len(s.Reports)-1].Index) {
			t.Errorf("%s: the liar's report is %v", test.name, r)
		}
		_, proof := d.proof(id.String())
		if text := fmt.Sprint(proof["execution"].(map[string]any)["nodes"]); strings.Contains(text, liar) || !strings.Contains(text, "attestation_digest") {
			t.Errorf("%s: the proof is by %s", test.name, text)
		}
		text := d.tally("tenant", "status", id.String())
		if strings.Contains(text, "DIFFERS") == test.refused {
			t.Errorf("%s: tally status says\n%s", test.name, text)
		}
	}

	// A node that says two things is void, and its rank stays taken.
	d.first(liar, func(s *provenance.Statement) [][]byte {
		return append([][]byte{d.sign(s, d.keyFile(liar, "attestation"))}, d.saying(output("a lie"))(s)...)
	})
	id := d.ask()
	s := d.decided(id)
	if r := report(s, liar); s.State != pb.ExecutionState_EXECUTION_STATE_COMPLETE || r == nil || !r.Void || r.Agrees || len(s.Reports) != 4 {
		t.Errorf("a node that contradicts itself: %v", s)
	}
	d.proof(id.String())
	d.replica(t)
	d.awaitHealthy()
}

// TestRemovedKeyAttests: a key that was removed, before the request or between
// the request and the attestation, signs nothing any more.
func TestRemovedKeyAttests(t *testing.T) {
	const liar = "node-2"
	d := newDisputed(t)

	// Removed while the node's word is on its way: it is held back until then.
	removed := make(chan struct{})
	d.script(func(s *provenance.Statement, signed []byte) [][]byte {
		if s.Node == liar {
			<-removed
		} else {
			d.answer(s.Execution, liar)
		}
		return [][]byte{signed}
	})
	id := d.ask()
	old := d.rotate(liar, "attestation")
	close(removed)
	if heard := d.answer(id, liar); !strings.Contains(heard, "attestation_refused") {
		t.Errorf("with a key that was removed since: %q", heard)
	}
	if s := d.decided(id); s.State != pb.ExecutionState_EXECUTION_STATE_COMPLETE || report(s, liar) != nil {
		t.Errorf("with a key that was removed since: %v", s)
	}
	d.proof(id.String())

	// Removed before: the node has its new key, and somebody has the old one.
	p := d.processes[liar]
	p.stop()
	d.copy(d.keyFile(liar, "attestation"), d.dirOf(liar, "keys", "attestation.pem"))
	d.first(liar, func(s *provenance.Statement) [][]byte {
		stolen := *s
		output("a lie")(&stolen)
		return [][]byte{d.sign(&stolen, old)}
	})
	p.start()
	d.awaitNodes(len(foundedNodes))
	id = d.ask()
	if heard := d.answer(id, liar); !strings.Contains(heard, "attestation_refused") {
		t.Errorf("with a removed key: %q", heard)
	}
	if s := d.decided(id); s.State != pb.ExecutionState_EXECUTION_STATE_COMPLETE || report(s, liar) != nil {
		t.Errorf("with a removed key: %v", s)
	}
	d.proof(id.String())
	d.replica(t)
}

// TestTie: three nodes that say three things end the execution as diverged, at
// once and for good, and everything that they said is there for whoever asks.
func TestTie(t *testing.T) {
	d := newDisputed(t)
	d.script(func(s *provenance.Statement, _ []byte) [][]byte { return d.saying(output("of " + s.Node))(s) })
	id := d.ask()
	s := d.decided(id)
	if s.State != pb.ExecutionState_EXECUTION_STATE_DIVERGED || len(s.Reports) != 3 || s.Outcome != nil || s.ExecutionProof != "" {
		t.Fatalf("three ways: %v", s)
	}
	results := map[string]bool{}
	for _, r := range s.Reports {
		results[r.ResultDigest] = true
		if r.Agrees || r.Void {
			t.Errorf("report %v", r)
		}
	}
	if len(results) != 3 {
		t.Errorf("%d results: %v", len(results), s.Reports)
	}
	out, errText, code := d.try("tally", "--profile", filepath.Join(d.dir, "tenant.json"), "status", id.String())
	if code != 3 || !strings.Contains(out, "diverged") || !strings.Contains(errText, "diverged") {
		t.Errorf("tally status: exit %d\n%s%s", code, out, errText)
	}
	d.divergenceProof(t, id)
	d.evidence(t, id)

	// The majority of those who attested is what counts: a void node and two that
	// differ leave nobody.
	d.script(func(s *provenance.Statement, signed []byte) [][]byte {
		if s.Node == "node-1" {
			return append([][]byte{signed}, d.saying(output("a lie"))(s)...)
		}
		d.answer(s.Execution, "node-1")
		return d.saying(output("of " + s.Node))(s)
	})
	id = d.ask()
	if s := d.decided(id); s.State != pb.ExecutionState_EXECUTION_STATE_DIVERGED || len(s.Reports) != 4 {
		t.Errorf("a void node and two that differ: %v", s)
	}
	d.evidence(t, id)
	d.replica(t)
}

// divergenceProof has the bundle of a diverged execution verified: it proves that
// there is no result, by what each node signed.
func (d *disputed) divergenceProof(t *testing.T, id digest.Digest) {
	t.Helper()
	var bundle []byte
	d.eventually("the divergence is proven", func() error {
		res, err := d.Control.RetrieveExecutionProof(context.Background(), connect.NewRequest(&pb.RetrieveExecutionProofRequest{ExecutionId: id.String()}))
		if err == nil {
			bundle = res.Msg.Bundle
		}
		return err
	})
	file := filepath.Join(t.TempDir(), "diverged.tallyproof")
	if err := os.WriteFile(file, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	const noResult = 17 // of the verifier
	out, errText, code := d.try("verifier", append([]string{"proof", file, "--execution", id.String()}, d.trust()...)...)
	if code != noResult || !strings.Contains(out+errText, "diverged") {
		t.Errorf("verifier proof of a diverged execution: exit %d\n%s%s", code, out, errText)
	}
}

// evidence wants the chain of a diverged execution: every attestation as its node
// signed it, and the record that restates them.
func (d *disputed) evidence(t *testing.T, id digest.Digest) {
	t.Helper()
	var links []*pb.ChainLink
	d.eventually("the divergence record is proven", func() error {
		res, err := d.Provenance.VerifyProvenanceChain(context.Background(), connect.NewRequest(&pb.VerifyProvenanceChainRequest{ExecutionId: id.String()}))
		if err != nil {
			return err
		}
		if links = res.Msg.Links; len(links) < 2+len(d.status(id).Reports) {
			return fmt.Errorf("%d links", len(links))
		}
		return nil
	})
	var said [][]byte
	for _, link := range links {
		opened, err := record.ParseOpening(link.Record.Opening)
		if err != nil {
			t.Fatal(err)
		}
		r, err := record.Parse(opened.Record())
		if err != nil {
			t.Fatal(err)
		}
		if a := r.GetAttestation(); a != nil {
			sum := digest.Of(payloadOf(t, a.Envelope))
			said = append(said, sum[:])
		}
		if v := r.GetDivergence(); v != nil {
			if !slices.EqualFunc(v.AttestationDigests, said, func(a, b []byte) bool { return string(a) == string(b) }) {
				t.Errorf("the divergence record names %x, said was %x", v.AttestationDigests, said)
			}
			return
		}
	}
	t.Errorf("no divergence record in %d links", len(links))
}

// TestLateAttestation: what a node says after the execution was decided is kept
// and shown, and changes neither result, chain nor proof; true or false.
func TestLateAttestation(t *testing.T) {
	const late = "node-3"
	d := newDisputed(t)
	for _, test := range []struct {
		name, note string
		alter      func(s *provenance.Statement)
	}{
		{"the same", "after the others had agreed", func(*provenance.Statement) {}},
		{"another result", "DIFFERS", output("a lie")},
	} {
		release := make(chan struct{})
		d.script(func(s *provenance.Statement, signed []byte) [][]byte {
			if s.Node != late {
				return [][]byte{signed}
			}
			<-release
			return d.saying(test.alter)(s)
		})
		id := d.ask()
		before := d.decided(id)
		_, proof := d.proof(id.String())
		close(release)
		if heard := d.answer(id, late); strings.Contains(heard, "refused") {
			t.Errorf("%s: the control plane answers %q", test.name, heard)
		}
		after := d.decided(id)
		if r := report(after, late); r == nil || r.Agrees || len(before.Reports) != 2 || len(after.Reports) != 3 {
			t.Errorf("%s: reports %v, then %v", test.name, before.Reports, after.Reports)
		}
		if before.ExecutionProof != after.ExecutionProof || before.Outcome.ResultDigest != after.Outcome.ResultDigest {
			t.Errorf("%s: the result changed: %v, then %v", test.name, before, after)
		}
		if _, again := d.proof(id.String()); fmt.Sprint(again) != fmt.Sprint(proof) {
			t.Errorf("%s: the proof changed:\n%v\n%v", test.name, proof, again)
		}
		if text := d.tally("tenant", "status", id.String()); !strings.Contains(text, test.note) {
			t.Errorf("%s: tally status does not say %q:\n%s", test.name, test.note, text)
		}
	}
	d.replica(t)
}

// TestCancelAndRetire goes through the command line: what is signed twice is done
// once, and what cannot be done any more is refused by name.
func TestCancelAndRetire(t *testing.T) {
	f := found(t) // no node runs, so that executions stay open
	a := f.agent("tenant")
	hash, err := a.admit(echo(), metered)
	if err != nil {
		t.Fatal(err)
	}
	run := func(wantCode int, want string, args ...string) {
		t.Helper()
		out, errText, code := f.try("tally", append([]string{"--profile", filepath.Join(f.dir, "tenant.json")}, args...)...)
		if code != wantCode || !strings.Contains(out+errText, want) {
			t.Errorf("tally %s: exit %d, want %d and %q\n%s%s", strings.Join(args, " "), code, wantCode, want, out, errText)
		}
	}
	var ids []string
	for i := range 2 {
		envelope, id := a.submission(hash, nil, i)
		if _, err := a.submit(envelope, nil); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id.String())
	}
	run(0, "is cancelled", "cancel", ids[0])
	run(0, "is cancelled", "cancel", ids[0])
	run(3, "state           cancelled", "status", ids[0])
	run(1, "[execution_unknown]", "cancel", hash.String())
	run(2, "hexadecimal", "cancel", "nonsense")
	run(0, "is retired", "contract", "retire", hash.String())
	run(0, "is retired", "contract", "retire", hash.String())
	run(0, "retired", "contract", "list")
	run(1, "[contract_unknown]", "contract", "retire", ids[0])
	envelope, _ := a.submission(hash, nil, 2)
	_, err = a.submit(envelope, nil)
	refused(t, "a request under a retired contract", "contract_retired", err)

	// What was requested before goes on, and ends in one way.
	f.startNodes()
	a.complete(ids[1])
	run(1, "[execution_closed]", "cancel", ids[1])
	run(0, ids[1], "executions", "--state", "complete")
	f.replica(t)
}
