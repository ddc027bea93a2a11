package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// An honest control plane is believed, and every node's attestation is one that
// the fold accepts and that completes the execution.
func TestNodesCompleteAnExecution(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	for _, node := range w.Execution(id).Assigned() {
		n := w.node(node)
		n.do(t.Context(), w.assignment(id))
		if s := n.Stats(); s.Attested != 1 {
			t.Fatalf("%s did not attest: %+v\n%s", node, s, w.log)
		}
		s := w.take((<-w.plane.received).GetEnvelope())
		if s.Node != node || s.Outcome.OutputDigest != digest.Of([]byte("HELLO")) {
			t.Errorf("%s attested %+v", node, s)
		}
	}
	if ex := w.Execution(id); ex.Outcome == nil || len(ex.Provenance().GetNodes()) != 2 {
		t.Errorf("execution is %s", ex.State)
	}
	if data, ok := w.plane.blob(digest.Of([]byte("HELLO")).String()); !ok || string(data) != "HELLO" {
		t.Error("the output was not stored")
	}
}

// A lie is an assignment that differs from the honest one in one respect. The
// node must refuse it for the reason given, and run nothing.
func TestVerifyRefusesLies(t *testing.T) {
	t.Parallel()
	type state struct {
		*world
		id   digest.Digest
		a    *pb.Assignment
		c    *Config
		base int64 // size of the audit log before the lie
	}
	resign := func(s *state, size int64, witnesses int) []byte {
		return s.Audit.Sign(s.Audit.Checkpoint(size), witnesses)
	}
	// raw appends a record to the log whatever the fold says, and proves it.
	raw := func(s *state, r *pb.Record) int64 {
		index, _ := s.Append(r)
		return index
	}
	var w *world // shared by the lies that change the assignment only
	var id digest.Digest
	parent := t
	for _, tc := range []struct {
		name string
		lie  func(s *state)
		want RefusalCode
	}{
		{"no assignment", func(s *state) { s.a = &pb.Assignment{} }, RefusedMalformed},
		{"execution id of another form", func(s *state) { s.a.ExecutionId = strings.ToUpper(s.a.ExecutionId) }, RefusedMalformed},
		{"another execution", func(s *state) { s.a.ExecutionId = digest.Of([]byte("x")).String() }, RefusedExecution},

		{"membership checkpoint without quorum", func(s *state) {
			s.a.MembershipCheckpoint = s.Membership.Sign(s.Membership.Checkpoint(1), 1)
		}, RefusedMembership},
		{"membership checkpoint of the audit log", func(s *state) { s.a.MembershipCheckpoint = s.a.AuditCheckpoint }, RefusedMembership},
		{"membership checkpoint missing", func(s *state) { s.a.MembershipCheckpoint = nil }, RefusedMembership},
		{"membership cosignatures too old", func(s *state) {
			s.c.Now = func() time.Time { return s.now().Add(time.Hour) }
		}, RefusedStale},
		{"membership cosignatures from the future", func(s *state) {
			s.c.Now = func() time.Time { return s.now().Add(-time.Hour) }
		}, RefusedStale},
		{"membership root that no changes have", func(s *state) {
			c := s.Membership.Checkpoint(1)
			c.Root[0] ^= 1
			s.a.MembershipCheckpoint = s.Membership.Sign(c, 3)
		}, RefusedChanges},

		{"audit checkpoint without quorum", func(s *state) { s.a.AuditCheckpoint = resign(s, s.base, 1) }, RefusedAudit},
		{"audit checkpoint of another log", func(s *state) { s.a.AuditCheckpoint = s.a.MembershipCheckpoint }, RefusedAudit},
		{"request checkpoint without quorum", func(s *state) { s.a.RequestCheckpoint = resign(s, s.base, 1) }, RefusedRequest},
		{"request checkpoint with another root", func(s *state) {
			c := s.Audit.Checkpoint(s.base)
			c.Root[0] ^= 1
			s.a.RequestCheckpoint = s.Audit.Sign(c, 3)
		}, RefusedFork},
		{"request checkpoint with another root at another size", func(s *state) {
			c := s.Audit.Checkpoint(s.base - 1)
			c.Root[0] ^= 1
			s.a.RequestCheckpoint = s.Audit.Sign(c, 3)
		}, RefusedFork},
		{"request checkpoint that does not cover the request", func(s *state) {
			s.a.RequestCheckpoint = s.Audit.Signed(s.Execution(s.id).RequestIndex)
		}, RefusedInclusion},

		{"contract missing", func(s *state) { s.a.Contract = nil }, RefusedMalformed},
		{"request missing", func(s *state) { s.a.Request = nil }, RefusedMalformed},
		{"contract and request exchanged", func(s *state) { s.a.Contract, s.a.Request = s.a.Request, s.a.Contract }, RefusedMalformed},
		{"contract that is not in the log", func(s *state) {
			s.a.Contract.Opening = s.opening(s.record(s.Execution(s.id).ContractIndex))
		}, RefusedInclusion},
		{"request that is not in the log", func(s *state) {
			s.a.Request.Opening = s.opening(s.record(s.Execution(s.id).RequestIndex))
		}, RefusedInclusion},
		{"request at another index", func(s *state) { s.a.Request.Index-- }, RefusedInclusion},
		{"request beyond the tree", func(s *state) { s.a.Request.Index = 1 << 63 }, RefusedInclusion},
		{"proof with a short hash", func(s *state) { s.a.Request.InclusionProof[0] = s.a.Request.InclusionProof[0][:31] }, RefusedMalformed},
		{"proof with too many hashes", func(s *state) {
			s.a.Request.InclusionProof = make([][]byte, 64)
		}, RefusedInclusion},
		{"opening without a record", func(s *state) { s.a.Request.Opening = make([]byte, 31) }, RefusedRecord},
		{"too many epoch records", func(s *state) { s.a.Epochs = make([]*pb.ProvenRecord, maxAssignmentRecords+1) }, RefusedMalformed},

		{"request that the tenant did not sign", func(s *state) {
			sub := s.Submission(s.Execution(s.id).ContractHash, []byte("hello"))
			r := s.RequestRecord(sub)
			forged, _, err := contract.Sign(sub, testcluster.Key(testcluster.Other+"/submission"))
			if err != nil {
				t.Fatal(err)
			}
			r.GetRequest().Envelope = forged
			index := raw(s, r)
			s.retarget(s.a, sub.ExecutionID(), index)
		}, RefusedRecord},
		{"request of another tenant's contract", func(s *state) {
			sub := s.Submission(s.Execution(s.id).ContractHash, []byte("hello"))
			sub.Tenant = testcluster.Other
			index := raw(s, s.RequestRecord(sub))
			s.retarget(s.a, sub.ExecutionID(), index)
		}, RefusedRecord},
		{"contract signed by another tenant", func(s *state) {
			c := s.Contract()
			c.Version = "forged"
			r := s.ContractRecord(c)
			forged, hash, err := contract.Sign(c, testcluster.Key(testcluster.Other+"/contract"))
			if err != nil {
				t.Fatal(err)
			}
			r.GetContract().Envelope = forged
			contractIndex := raw(s, r)
			sub := s.Submission(hash, []byte("hello"))
			index := raw(s, s.RequestRecord(sub))
			s.retarget(s.a, sub.ExecutionID(), index)
			s.a.Contract = s.Proven(contractIndex, s.Audit.Size())
		}, RefusedRecord},
		{"another contract than the request's", func(s *state) {
			c := s.Contract()
			c.Version = "2"
			s.Register(c)
			s.retarget(s.a, s.id, s.Execution(s.id).RequestIndex)
			s.a.Contract = s.Proven(s.Audit.Size()-1, s.Audit.Size())
		}, RefusedRecord},

		{"attempt that has not begun", func(s *state) { s.a.Attempt = 1 }, RefusedAttempt},
		{"reschedule record that is not in the log", func(s *state) {
			s.a.Attempt = 1
			s.a.Reschedules = []*pb.ProvenRecord{{Index: 0, Opening: s.opening(s.Fill(s.RescheduleRecord(s.id))), InclusionProof: s.a.Request.InclusionProof}}
		}, RefusedInclusion},
		{"reschedule record of another execution", func(s *state) {
			other := s.submit("other")
			index := raw(s, s.RescheduleRecord(other))
			s.retarget(s.a, s.id, s.Execution(s.id).RequestIndex)
			s.a.Attempt = 1
			s.a.Reschedules = []*pb.ProvenRecord{s.Proven(index, s.Audit.Size())}
		}, RefusedRecord},
		{"schedule that does not name the node", func(s *state) {
			_, s.c.ID = s.assigned(s.id)
			s.c.AttestationKey = testcluster.Key(s.c.ID + "/attestation")
		}, RefusedNotAssigned},
		{"stranger", func(s *state) { s.c.ID = "stranger" }, RefusedNotAssigned},
		{"key that is not the member's", func(s *state) { s.c.AttestationKey = testcluster.Key("another") }, RefusedNotMember},

		{"epoch record in force missing", func(s *state) { s.a.Epochs = nil }, RefusedRecord},
		{"later epoch not shown", func(s *state) {
			s.AddNode("node-9")
			old := s.a.Epochs
			s.a = s.assignment(s.id)
			s.a.Epochs = s.a.Epochs[:len(old)]
		}, RefusedEpoch},
		{"epoch that membership does not show", func(s *state) {
			old := s.a.MembershipCheckpoint
			s.AddNode("node-9")
			s.a = s.assignment(s.id)
			s.a.MembershipCheckpoint = old
		}, RefusedEpoch},
		{"epoch record with a false root", func(s *state) {
			s.AddNode("node-9")
			r := s.EpochRecord(2)
			r.GetEpoch().MembershipRoot = make([]byte, 32)
			index := raw(s, r)
			s.a = s.assignment(s.id)
			s.a.Epochs = []*pb.ProvenRecord{s.a.Epochs[0], s.Proven(index, s.Audit.Size())}
		}, RefusedRecord},

		{"versions that the sandbox lacks", func(s *state) { s.runner.unsupported = errors.New("no rewriter 7") }, RefusedUnsupported},
		{"limits above the node's", func(s *state) {
			s.c.Limits = contract.DefaultClusterLimits()
			s.c.Limits.MemoryPages = 1023
		}, RefusedCapacity},
		{"another module digest", func(s *state) { s.a.ModuleDigest = s.a.InputDigest }, RefusedMalformed},
		{"another input digest", func(s *state) { s.a.InputDigest = s.a.ModuleDigest }, RefusedMalformed},
		{"bundle of a parent that nobody named", func(s *state) { s.a.ParentBundles = [][]byte{nil} }, RefusedParent},

		{"module missing", func(s *state) { s.plane.replace(digest.Of(testcluster.Module), nil) }, RefusedMissing},
		{"input missing", func(s *state) { s.plane.replace(digest.Of([]byte("hello")), nil) }, RefusedMissing},
		{"another module", func(s *state) { s.plane.replace(digest.Of(testcluster.Module), []byte("x")) }, RefusedModule},
		{"another input", func(s *state) { s.plane.replace(digest.Of([]byte("hello")), []byte("x")) }, RefusedInput},
		{"module that the sandbox refuses", func(s *state) { s.runner.err = ErrNotAdmitted }, RefusedAdmission},
		{"input above the node's limit", func(s *state) {
			big := strings.Repeat("x", 1<<20+1) // the contract takes 1 MiB
			s.id = s.submit(big)
			s.a = s.assignment(s.id)
			s.c.ID, _ = s.assigned(s.id)
			s.c.AttestationKey = testcluster.Key(s.c.ID + "/attestation")
		}, RefusedInput},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if w == nil {
				w = newWorld(parent, testcluster.Options{Nodes: 4})
				id = w.submit("hello")
			}
			w.t, w.log = t, &syncBuffer{}
			before := w.fingerprint()
			defer func() {
				if w.fingerprint() != before { // what one lie has changed is no world for the next
					w = nil
				}
			}()
			name, _ := w.assigned(id)
			config := w.config(name)
			s := &state{world: w, id: id, a: w.assignment(id), c: &config, base: w.Audit.Size()}
			tc.lie(s)
			n := w.open(config)
			n.do(t.Context(), s.a)
			stats := n.Stats()
			if stats.Refused[tc.want] != 1 || stats.Attested != 0 {
				t.Errorf("refused %v, attested %d, want %q refused\n%s", stats.Refused, stats.Attested, tc.want, w.log)
			}
			if len(w.plane.received) > 0 {
				t.Error("an attestation left the node")
			}
			if !strings.Contains(w.log.String(), "code="+string(tc.want)) {
				t.Errorf("the log does not name the code: %s", w.log)
			}
		})
	}
}

// fingerprint tells whether anything but an assignment was changed.
func (w *world) fingerprint() string {
	w.plane.mu.Lock()
	defer w.plane.mu.Unlock()
	return fmt.Sprint(w.Audit.Size(), w.Membership.Size(), *w.runner, w.plane.blobs, len(w.plane.refuse), w.logs.get == nil, len(w.logs.checkpoint))
}

// opening makes an opening of a record that is in no log: the salt is another.
func (w *world) opening(r *pb.Record) []byte {
	w.t.Helper()
	b, err := record.Marshal(r)
	if err != nil {
		w.t.Fatal(err)
	}
	opening, err := record.NewOpening([record.SaltSize]byte{1}, b)
	if err != nil {
		w.t.Fatal(err)
	}
	return opening.Bytes()
}

// retarget makes the assignment one of another request, proven as well as can be.
func (w *world) retarget(a *pb.Assignment, id digest.Digest, index int64) {
	size := w.Audit.Size()
	a.ExecutionId = id.String()
	a.RequestCheckpoint, a.AuditCheckpoint = w.Audit.Signed(size), w.Audit.Signed(size)
	a.Contract = w.Proven(int64(a.Contract.Index), size)
	a.Request = w.Proven(index, size)
	for i, e := range a.Epochs {
		a.Epochs[i] = w.Proven(int64(e.Index), size)
	}
}

// verify is Node.verify, for tests that need no payloads.
func verify(t *testing.T, n *Node, a *pb.Assignment, want error) {
	t.Helper()
	task, err := n.verify(t.Context(), a)
	if want == nil && err != nil || want != nil && (task != nil || !errors.Is(err, want)) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// A checkpoint that contradicts a kept one is refused, also after a restart, and
// both are kept as a file that anybody can judge.
func TestForkLeavesEvidence(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		extra int // entries of the second history beyond the first's size
	}{{"same size", 0}, {"larger", 3}, {"smaller", -1}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, testcluster.Options{})
			id := w.submit("hello")
			w.submit("more")
			name, _ := w.assigned(id)
			config := w.config(name)
			n := w.open(config)
			verify(t, n, w.assignment(id), nil)
			n.Close()

			// The same keys sign another history.
			fork := newWorld(t, testcluster.Options{})
			for range 2 + tc.extra {
				fork.submit("forked")
			}
			forked := fork.submit("hello")
			fork.submit("and more")
			a := fork.assignment(forked)
			a.AuditCheckpoint = fork.Audit.Signed(w.Audit.Size() + int64(tc.extra))
			a.RequestCheckpoint = a.AuditCheckpoint
			if tc.extra >= 0 {
				w.logs.trees[membership.LogAudit] = fork.Audit
			}
			n = w.open(config)
			verify(t, n, a, RefusedFork)
			verify(t, n, w.assignment(id), nil) // the kept history goes on
			files, err := filepath.Glob(filepath.Join(config.Dir, "evidence", "*.json"))
			if err != nil || len(files) != 1 {
				t.Fatalf("evidence files %q, %v", files, err)
			}
			data, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			e, err := checkpoint.ParseEvidence(data)
			if err != nil {
				t.Fatal(err)
			}
			if string(e.Submitted) != string(a.AuditCheckpoint) {
				t.Error("the evidence does not hold the checkpoint as received")
			}
			finding, err := e.Judge(w.AuditPolicy.LogKeys(w.Audit.Origin))
			if err != nil || finding != checkpoint.Fork {
				t.Errorf("evidence judged %v, %v; want a fork", finding, err)
			}
		})
	}
}

// A tile that does not hash to the checkpoint proves nothing, in either
// direction; a log that does not answer is tried again.
func TestTilesAreAuthenticated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	n := w.node(name)
	verify(t, n, w.assignment(id), nil)
	w.submit("more")
	a := w.assignment(id)
	for _, tc := range []struct {
		name string
		get  func(log membership.LogName, path string) ([]byte, error)
		want error
	}{
		{"flipped bit", func(log membership.LogName, path string) ([]byte, error) {
			data, err := w.logs.serve(log, path)
			if len(data) > 0 {
				data[0] ^= 1
			}
			return data, err
		}, RefusedConsistency},
		{"short tile", func(log membership.LogName, path string) ([]byte, error) {
			data, err := w.logs.serve(log, path)
			return data[:len(data)/2], err
		}, RefusedConsistency},
		{"no tile", func(membership.LogName, string) ([]byte, error) { return nil, ErrNotFound }, ErrUnavailable},
		{"no answer", func(membership.LogName, string) ([]byte, error) { return nil, errors.New("down") }, ErrUnavailable},
		{"honest", nil, nil},
	} {
		w.logs.get = tc.get
		verify(t, n, a, tc.want)
	}
}

// Full tiles, partial tiles that are gone and entry bundles beyond the first.
func TestLargeLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	n := w.open(config)
	verify(t, n, w.assignment(id), nil)
	for i := range 200 { // the changes below make as many epoch records
		w.Append(&pb.Record{Body: &pb.Record_Operation{Operation: &pb.OperationRecord{Code: "ok"}}})
		if i == 100 {
			verify(t, n, w.assignment(id), nil)
		}
	}
	for i := range 300 {
		w.Change(membership.SetNodeQuorum{Quorum: uint64(2 + i%2)})
	}
	verify(t, n, w.assignment(id), nil)
	if got := n.view.history.Size(); got != 301 {
		t.Errorf("epoch %d, want 301", got)
	}
	n.Close()
	requests := w.logs.requests
	n = w.open(config)
	if got := n.view.history.Size(); got != 301 || w.logs.requests != requests {
		t.Errorf("after a restart epoch %d with %d requests, want 301 from disk", got, w.logs.requests-requests)
	}
	verify(t, n, w.assignment(id), nil)
}

// A stale assignment is good again with the checkpoint that the log publishes.
func TestFreshCheckpointIsFetched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	a := w.assignment(id)
	for range 30 {
		w.Change(membership.SetNodeQuorum{Quorum: w.History.Current().NodeQuorum()%3 + 1})
	}
	n := w.open(config)
	verify(t, n, a, RefusedStale)
	w.logs.checkpoint = w.Membership.Signed(w.Membership.Size())
	verify(t, n, a, RefusedEpoch) // and the newer epochs must be shown
	a.Epochs = w.assignment(id).Epochs
	a.AuditCheckpoint = w.assignment(id).AuditCheckpoint
	verify(t, n, a, nil)
	// The log publishing something else does not help.
	w.logs.checkpoint = []byte("x")
	config = w.config(name)
	config.Now = func() time.Time { return w.now().Add(time.Hour) }
	verify(t, w.open(config), a, RefusedStale)
}

// The membership log must be lawful from the pinned genesis on, whoever cosigned.
func TestMembershipMustBeLawful(t *testing.T) {
	t.Parallel()
	t.Run("another genesis", func(t *testing.T) {
		w := newWorld(t, testcluster.Options{})
		other := newWorld(t, testcluster.Options{Nodes: 4})
		other.AddNode("node-9")
		id := other.submit("hello")
		name, _ := other.assigned(id)
		config := other.config(name)
		config.Trust.Genesis = w.Genesis
		verify(t, other.open(config), other.assignment(id), RefusedChanges)
	})
	t.Run("unlawful change", func(t *testing.T) {
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		name, _ := w.assigned(id)
		config := w.config(name)
		n := w.open(config)
		w.AddNode("node-9")
		w.Membership.Append(w.Genesis, nil)
		a := w.assignment(id)
		verify(t, n, a, RefusedChanges)
		if got := n.view.history.Size(); got != 2 {
			t.Errorf("epoch %d, want the lawful 2", got)
		}
		n.Close()
		if got := w.open(config).view.history.Size(); got != 2 {
			t.Errorf("after a restart epoch %d, want the lawful 2", got)
		}
	})
	t.Run("entry that was not cosigned", func(t *testing.T) {
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		name, _ := w.assigned(id)
		n := w.node(name)
		w.AddNode("node-9")
		w.logs.get = func(log membership.LogName, path string) ([]byte, error) {
			data, err := w.logs.serve(log, path)
			if strings.Contains(path, "entries") {
				data[len(data)-1] ^= 1
			}
			return data, err
		}
		verify(t, n, w.assignment(id), RefusedConsistency)
		w.logs.get = func(log membership.LogName, path string) ([]byte, error) {
			data, err := w.logs.serve(log, path)
			if strings.Contains(path, "entries") {
				data = data[:len(data)-1]
			}
			return data, err
		}
		verify(t, n, w.assignment(id), RefusedConsistency)
		w.logs.get = nil
		verify(t, n, w.assignment(id), nil)
	})
}

// A policy that also accepts a key of which the membership knows nothing does
// not make that key one of the log's.
func TestLogKeyMustBeNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	vkey, err := checkpoint.Vkey(w.Audit.Origin, testcluster.Public("intruder"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(w.PolicyText.Audit), "\nlog ", "\nlog "+vkey+"\nlog ", 1)
	if strings.HasPrefix(string(w.PolicyText.Audit), "log ") {
		text = "log " + vkey + "\n" + string(w.PolicyText.Audit)
	}
	config := w.config(name)
	if config.Trust.AuditPolicy, err = checkpoint.ParsePolicy([]byte(text)); err != nil {
		t.Fatal(err)
	}
	signer, err := checkpoint.NewSigner(w.Audit.Origin, testcluster.Key("intruder"))
	if err != nil {
		t.Fatal(err)
	}
	a := w.assignment(id)
	honest := a.AuditCheckpoint
	c := w.Audit.Checkpoint(w.Audit.Size())
	intruded, err := checkpoint.Sign(c, []note.Signer{signer}...)
	if err != nil {
		t.Fatal(err)
	}
	// The witnesses' cosignatures do not depend on the log's.
	if a.AuditCheckpoint, err = checkpoint.AddCosignatures(intruded, honest[strings.Index(string(honest), "\n\n")+2:], w.AuditPolicy.WitnessKeys()); err != nil {
		t.Fatal(err)
	}
	n := w.open(config)
	verify(t, n, a, RefusedLogKey)
	a.AuditCheckpoint = honest
	verify(t, n, a, nil)
}

// From the index at which a node has seen epoch E's record it refuses an older
// pin, though a second record of E, without effect, is shown further on; and it
// remembers.
func TestStalePin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	con := w.Register(nil)
	w.plane.put([]byte("hello"))
	stale := w.Submission(con, []byte("hello"))
	request := w.RequestRecord(stale) // pins epoch 1
	honest := w.Submit(con, []byte("hello"))
	w.AddNode("node-9") // epoch 2
	name, _ := w.assigned(honest)
	config := w.config(name)
	n := w.open(config)
	verify(t, n, w.assignment(honest), nil)

	index, effect := w.Append(request)
	if !effect.Void {
		t.Fatal("the stale request is valid")
	}
	again, _ := w.Append(w.EpochRecord(2))
	a := w.assignment(honest)
	w.retarget(a, stale.ExecutionID(), index)
	a.Epochs[1] = w.Proven(again, w.Audit.Size())
	a.Epochs = a.Epochs[:2]
	if _, ok := w.History.Current().Principal(name); !ok {
		t.Fatal("no such node")
	}
	verify(t, n, a, RefusedStalePin)
	n.Close()
	n = w.open(config)
	verify(t, n, a, RefusedStalePin)
	// A newcomer cannot know; the attesting nodes and an audit of the whole log do.
	verify(t, w.node(name), a, nil)
	// The true record later in the newcomer's life corrects what it knows.
	newcomer := w.node(name)
	verify(t, newcomer, a, nil)
	verify(t, newcomer, w.assignment(honest), nil)
	verify(t, newcomer, a, RefusedStalePin)
}

// What was pinned before a change is finished after it, unless the change
// removes the node itself.
func TestMembershipChangesDuringWork(t *testing.T) {
	t.Parallel()
	t.Run("another node is added", func(t *testing.T) {
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		name, _ := w.assigned(id)
		w.AddNode("node-9")
		n := w.node(name)
		n.do(t.Context(), w.assignment(id))
		w.take((<-w.plane.received).GetEnvelope())
	})
	t.Run("the node itself is removed before", func(t *testing.T) {
		w := newWorld(t, testcluster.Options{Nodes: 4})
		id := w.submit("hello")
		name, _ := w.assigned(id)
		w.Change(membership.RemovePrincipal{ID: name})
		verify(t, w.node(name), w.assignment(id), RefusedNotMember)
	})
	t.Run("the node itself is removed while it runs", func(t *testing.T) {
		w := newWorld(t, testcluster.Options{Nodes: 4})
		id, other := w.submit("hello"), w.submit("other")
		name, _ := w.assigned(id)
		w.runner.running, w.runner.release = make(chan struct{}), make(chan struct{})
		n := w.node(name)
		a := w.assignment(id)
		done := make(chan struct{})
		go func() {
			n.do(context.Background(), a)
			close(done)
		}()
		<-w.runner.running
		w.Change(membership.RemovePrincipal{ID: name})
		n.verify(t.Context(), w.assignment(other)) // brings the news
		close(w.runner.release)
		<-done
		if s := n.Stats(); s.Refused[RefusedNotMember] != 1 || s.Attested != 0 {
			t.Errorf("a removed node attested: %+v", s)
		}
	})
	t.Run("its key is revoked", func(t *testing.T) {
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		name, _ := w.assigned(id)
		next := testcluster.NewKey(name+"/next", membership.UseAttestation)
		w.Change(membership.RotateKey{ID: name, Add: &next}, name+"/next")
		p, _ := w.History.Current().Principal(name)
		for _, k := range p.Keys {
			if k.ID() == testcluster.NewKey(name+"/attestation", membership.UseAttestation).ID() {
				w.Change(membership.RotateKey{ID: name, Remove: k.ID()})
			}
		}
		verify(t, w.node(name), w.assignment(id), RefusedNotMember)
	})
}

func TestReschedule(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{Nodes: 4})
	id := w.submit("hello")
	_, out := w.assigned(id)
	n := w.node(out)
	verify(t, n, w.assignment(id), RefusedNotAssigned)
	w.Append(w.RescheduleRecord(id))
	n.do(t.Context(), w.assignment(id))
	if s := w.take((<-w.plane.received).GetEnvelope()); s.Attempt != 1 {
		t.Errorf("attested attempt %d, want 1", s.Attempt)
	}
}

func TestParents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	con := w.Register(nil)
	theirs := w.Contract()
	theirs.Tenant = testcluster.Other
	foreignContract := w.Register(theirs)
	parent, failed := w.Submit(con, []byte("a")), w.Submit(con, []byte("b"))
	sub := w.Submission(foreignContract, []byte("c"))
	sub.Tenant = testcluster.Other
	w.Append(w.RequestRecord(sub))
	foreign := sub.ExecutionID()
	trapped := testcluster.OK("")
	trapped.Kind = contract.OutcomeTrap
	w.Run(parent, testcluster.OK("first "))
	w.Run(failed, trapped)
	w.Run(foreign, testcluster.OK("theirs"))
	for _, data := range []string{"first ", "own"} {
		w.plane.put([]byte(data))
	}
	id := w.Submit(con, []byte("own"), parent)
	name, _ := w.assigned(id)
	n := w.node(name)
	for name, bundles := range map[string][][]byte{
		"no bundle":                   nil,
		"bundle of another execution": {w.bundle(failed)},
		"damaged bundle":              {w.bundle(parent)[:1000]},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.assignment(id)
			a.ParentBundles = bundles
			verify(t, n, a, RefusedParent)
		})
	}
	// The rules on tenant and outcome, which the fold of the whole log applies
	// too: a log in which such a request stands holds a void one.
	for _, other := range []digest.Digest{foreign, failed} {
		index, effect := w.Append(w.RequestRecord(w.Submission(con, []byte("own"), other)))
		if !effect.Void {
			t.Fatal("the request is valid")
		}
		sub, err := contract.OpenSubmission(w.record(index).GetRequest().GetEnvelope(), contract.Authority{Cluster: w.Name,
			Keys: func(string) []ed25519.PublicKey {
				return []ed25519.PublicKey{testcluster.Public(testcluster.Tenant + "/submission")}
			}})
		if err != nil {
			t.Fatal(err)
		}
		state := w.History.Current()
		schedule, err := state.Schedule(sub.Value.ExecutionID(), provenance.ScheduleRequest(w.Contract()))
		if err != nil {
			t.Fatal(err)
		}
		a := w.assignment(id)
		w.retarget(a, sub.Value.ExecutionID(), index)
		a.ParentBundles = [][]byte{w.bundle(other)}
		verify(t, w.node(schedule.Ranking[0]), a, RefusedParent)
	}
	n.do(t.Context(), w.assignment(id))
	s := w.take((<-w.plane.received).GetEnvelope())
	if len(s.ParentOutputs) != 1 || s.ParentOutputs[0] != digest.Of([]byte("first ")) || s.Outcome.OutputDigest != digest.Of([]byte("FIRST OWN")) {
		t.Errorf("attested %+v", s)
	}
}

// A parent's provenance record that says otherwise than its nodes attested is named
// as what it is, though the log has it and all else in the bundle is true.
func TestParentWithUntrueProvenance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	con := w.Register(nil)
	parent := w.Submit(con, []byte("a"))
	var untrue int64
	for _, node := range w.Execution(parent).Assigned()[:2] {
		_, effect := w.Append(w.AttestationRecord(w.Statement(parent, node, testcluster.OK("first "))))
		if effect.Derived != nil {
			lie := proto.CloneOf(effect.Derived)
			other := digest.Of([]byte("other"))
			lie.GetProvenance().OutputDigest = other[:]
			untrue, _ = w.Append(lie)
			w.Append(effect.Derived)
		}
	}
	for _, data := range []string{"first ", "own"} {
		w.plane.put([]byte(data))
	}
	id := w.Submit(con, []byte("own"), parent)
	name, _ := w.assigned(id)
	n := w.node(name)
	content, _ := w.Fold.BundleContent(parent)
	content.Records[len(content.Records)-1] = untrue
	file, err := provenance.FormatBundle(w.BundleOf(parent, content))
	if err != nil {
		t.Fatal(err)
	}
	a := w.assignment(id)
	a.ParentBundles = [][]byte{file}
	const why = `record (provenance) is void: differs: "output_digest" differs from what the records before imply`
	if _, err := n.verify(t.Context(), a); !errors.Is(err, RefusedParent) || !strings.Contains(strings.Replace(err.Error(), fmt.Sprintf("record %d ", untrue), "record ", 1), why) {
		t.Errorf("%v, want %s: %s", err, RefusedParent, why)
	}
	if _, err := n.verify(t.Context(), w.assignment(id)); err != nil {
		t.Errorf("with the true record: %v", err)
	}
}

// A parent proven in another history of the log is caught though its bundle is
// perfect by itself.
func TestParentOfAnotherHistory(t *testing.T) {
	t.Parallel()
	w, fork := newWorld(t, testcluster.Options{}), newWorld(t, testcluster.Options{})
	other := fork.Contract()
	other.Version = "forked"
	fork.Register(other)
	var parents []digest.Digest
	for _, c := range []*world{w, fork} {
		id := c.Submit(c.Register(nil), []byte("a"))
		c.Run(id, testcluster.OK("first "))
		parents = append(parents, id)
	}
	if parents[0] != parents[1] {
		t.Fatal("the two histories have different executions")
	}
	id := w.Submit(w.Execution(parents[0]).ContractHash, []byte("own"), parents[0])
	a := w.assignment(id)
	a.ParentBundles = [][]byte{fork.bundle(parents[1])}
	name, _ := w.assigned(id)
	n := w.node(name)
	verify(t, n, a, RefusedFork)
	verify(t, n, w.assignment(id), nil)
}

// A parent's proof under another history of the membership log, whose changes are
// as lawful as those that this node knows, is evidence of a fork.
func TestParentUnderForkedMembership(t *testing.T) {
	t.Parallel()
	w, fork := newWorld(t, testcluster.Options{}), newWorld(t, testcluster.Options{})
	con := w.Register(nil)
	parent := w.Submit(con, []byte("a"))
	w.Run(parent, testcluster.OK("first "))
	w.AddNode("node-x")
	fork.AddNode("node-y")
	id := w.Submit(con, []byte("own"), parent)
	name, _ := w.assigned(id)
	for title, test := range map[string]struct {
		changes func(b *pb.ProofBundle)
		want    RefusalCode
	}{
		"forked": {func(b *pb.ProofBundle) {
			_, envelope, err := fork.History.Change(2)
			if err != nil {
				t.Fatal(err)
			}
			b.MembershipChanges = append(b.MembershipChanges[:1:1], envelope)
			b.MembershipCheckpoint = fork.Membership.Signed(2)
		}, RefusedFork},
		"left out": {func(b *pb.ProofBundle) { b.MembershipChanges, b.ExternalMembership = nil, true }, ""},
		"as it is": {func(*pb.ProofBundle) {}, ""},
	} {
		t.Run(title, func(t *testing.T) {
			a, b := w.assignment(id), w.Bundle(parent)
			test.changes(b)
			file, err := provenance.FormatBundle(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := verifier.VerifyBundle(file, w.config(name).Trust, verifier.Options{Changes: b.GetMembershipChanges()}); err != nil && !b.GetExternalMembership() {
				t.Fatalf("the bundle is not good by itself: %v", err)
			}
			a.ParentBundles = [][]byte{file}
			n := w.node(name)
			if test.want == "" {
				verify(t, n, a, nil)
				return
			}
			verify(t, n, a, test.want)
			if files, err := os.ReadDir(filepath.Join(n.config.Dir, "evidence")); err != nil || len(files) != 1 {
				t.Errorf("evidence: %v, %v", files, err)
			}
		})
	}
}

// A fresh checkpoint of the membership log from before the pinned epoch would make
// a void attestation of an honest run, and the node would never make another.
func TestMembershipCheckpointBeforeThePin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	first := w.submit("of the first epoch")
	w.AddNode("node-x")
	id := w.submit("of the second")
	name, _ := w.assigned(id)
	n := w.node(name)
	old := w.Membership.Signed(1)
	// The node learns the epoch, whether or not this one is its own.
	if _, err := n.verify(t.Context(), w.assignment(first)); err != nil && !errors.Is(err, RefusedNotAssigned) {
		t.Fatal(err)
	}
	a := w.assignment(id)
	a.MembershipCheckpoint = old
	verify(t, n, a, RefusedMembership)
	verify(t, n, w.assignment(id), nil)
}
