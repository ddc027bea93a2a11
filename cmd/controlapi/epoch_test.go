package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/witness"
)

// The order of an epoch, with real logs on a real disk: the change goes into the
// membership log, its epoch record into the audit log, and only then may a
// witness see the change. The process is ended before and after each of these
// steps, at the first start and at a change, and the witness, which goes on in
// another process, must never have seen an epoch that the audit log does not have.

// stepEnv names the step at which the child ends itself; dirEnv its directory.
const (
	stepEnv = "TALLYSTICK_TEST_END_AT"
	dirEnv  = "TALLYSTICK_TEST_DIRECTORY"
	// endedHere is the child's exit status when it has ended itself.
	endedHere = 77
)

// steps counts what the orchestrator does to the logs, and ends the process at a
// chosen one. It is shared by both logs of a child.
type steps struct {
	mu  sync.Mutex
	n   int
	end int
}

func (s *steps) step() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n++; s.n == s.end {
		os.Exit(endedHere)
	}
}

// steppedLog counts a step before and after everything that changes a log.
type steppedLog struct {
	controlLog
	steps *steps
}

func (l steppedLog) Append(ctx context.Context, entries ...orchestrator.LogEntry) ([]orchestrator.LogResult, orchestrator.Head, error) {
	l.steps.step()
	defer l.steps.step()
	return l.controlLog.Append(ctx, entries...)
}

// AllowWitness returns when the witness has seen what it may see, so that a step
// in the wrong order is never saved by a witness that was slow.
func (l steppedLog) AllowWitness(size int64) {
	l.steps.step()
	l.controlLog.AllowWitness(size)
	if err := l.WaitWitnessed(context.Background(), size); err != nil {
		panic(err)
	}
	l.steps.step()
}

// stepChild is the process that ends: it opens the control plane's core on the
// directory, applies the change that lies there, waits until it is witnessed, and
// says how many steps that took.
func stepChild(dir, end string) error {
	d := directory{path: dir}
	s := &steps{}
	s.end, _ = strconv.Atoi(end)
	genesis, err := d.required(genesisFile, membership.MaxChangeEnvelope)
	if err != nil {
		return err
	}
	config := orchestrator.Config{Cluster: cluster, Genesis: genesis, Blobs: noBlobs{}, Admitter: admission{}}
	var logs []*logserver.Log
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		o, err := d.logOptions(name)
		if err != nil {
			return err
		}
		o.HoldWitness = name == membership.LogMembership
		log, err := logserver.Open(o)
		if err != nil {
			return err
		}
		logs = append(logs, log)
		if err := log.Ready(context.Background()); err != nil {
			return err
		}
		if name == membership.LogAudit {
			config.Audit, config.AuditPolicy = steppedLog{controlLog{log}, s}, o.Policy
		} else {
			config.Membership, config.MembershipPolicy = steppedLog{controlLog{log}, s}, o.Policy
		}
	}
	core, err := orchestrator.Open(context.Background(), config)
	if err != nil {
		return err
	}
	change, err := os.ReadFile(d.file("change"))
	if err != nil {
		return err
	}
	if _, _, _, err := core.ApplyChange(context.Background(), orchestrator.Actor{Principal: "admin", KeyID: strings.Repeat("0", 64), Method: "tallystick.v1.Membership/ApplyChange", TokenID: "0123456789abcdef"}, change); err != nil {
		return err
	}
	if err := logs[1].WaitWitnessed(context.Background(), 2); err != nil {
		return err
	}
	fmt.Println(s.n)
	if err := core.Close(); err != nil {
		return err
	}
	return errors.Join(logs[1].Close(context.Background()), logs[0].Close(context.Background()))
}

// noBlobs is for a core that runs nothing.
type noBlobs struct{ orchestrator.Blobs }

// TestStepChild is not a test of its own: it is what the child runs.
func TestStepChild(t *testing.T) {
	dir := os.Getenv(dirEnv)
	if dir == "" {
		t.Skip("run by TestEpochOrder")
	}
	if err := stepChild(dir, os.Getenv(stepEnv)); err != nil {
		t.Fatal(err)
	}
}

func TestEpochOrder(t *testing.T) { epochOrder(t, 5) }

// epochOrder ends the process at every stride-th step.
func epochOrder(t *testing.T, stride int) {
	// Without an end first, to know how many steps there are.
	all := newStepWorld(t)
	out, status := all.child(0)
	if status != 0 {
		t.Fatalf("uninterrupted: exit %d\n%s", status, out)
	}
	line, _, _ := strings.Cut(out, "\n")
	count, err := strconv.Atoi(line)
	if err != nil || count < 10 {
		t.Fatalf("%q steps, %v", line, err)
	}
	all.check(2)
	for end := 1; end <= count; end += stride {
		w := newStepWorld(t)
		if out, status := w.child(end); status != endedHere {
			t.Fatalf("step %d: exit %d\n%s", end, status, out)
		}
		w.check(-1)
		if out, status := w.child(0); status != 0 {
			t.Fatalf("after step %d: exit %d\n%s", end, status, out)
		}
		w.check(2)
	}
}

// stepWorld is a directory with a genesis, a change to apply, and a witness of
// both logs that lives on.
type stepWorld struct {
	t    *testing.T
	dir  directory
	mu   sync.Mutex
	seen int64 // largest membership size that the witness was shown
}

func newStepWorld(t *testing.T) *stepWorld {
	w := &stepWorld{t: t, dir: newDirectory(t)}
	home := filepath.Join(t.TempDir(), "witness")
	keys := must[*witness.Keys](t)(witness.Init(home, "witness.example", nil))
	logs := must[*membership.Logs](t)(w.dir.logs())
	policy := must[*checkpoint.Policy](t)(checkpoint.ParsePolicy(fmt.Appendf(nil, "log %s\nlog %s\nquorum none\n", logs.Audit.Keys[0], logs.Membership.Keys[0])))
	wit := must[*witness.Witness](t)(witness.Open(witness.Config{Dir: home, Keys: keys, Policy: policy, Logger: slog.New(slog.DiscardHandler)}))
	t.Cleanup(func() { wit.Close() })
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.notice(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		wit.Handler().ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		text := fmt.Sprintf("log %s\nwitness w %s %s\nquorum w\n", logs.Named(name).Keys[0], keys.Vkeys()[0], server.URL)
		if err := os.WriteFile(w.dir.file(policyFile(name)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	state, _, err := membership.Genesis(must[[]byte](t)(os.ReadFile(w.dir.file(genesisFile))))
	if err != nil {
		t.Fatal(err)
	}
	// A new label changes the state, whatever it is.
	node := membership.UpdatePrincipal{ID: "node-1", Name: "one"}
	signer := must[dsse.Signer](t)(dsse.NewSigner(testKey("admin")))
	envelope := must[*dsse.Envelope](t)(dsse.Sign(membership.PayloadType, must[[]byte](t)(state.Propose(node)), signer))
	if err := os.WriteFile(w.dir.file("change"), must[[]byte](t)(envelope.Marshal()), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// notice keeps the largest membership size that was shown to the witness.
func (w *stepWorld) notice(body []byte) {
	request, err := checkpoint.ParseAddRequest(body)
	if err != nil {
		w.t.Errorf("request to the witness: %v", err)
		return
	}
	n, err := checkpoint.ParseNote(request.Checkpoint)
	if err != nil {
		w.t.Errorf("request to the witness: %v", err)
		return
	}
	c, err := checkpoint.Parse(n.Text)
	if err != nil {
		w.t.Errorf("request to the witness: %v", err)
		return
	}
	if strings.HasSuffix(c.Origin, "/membership") {
		w.mu.Lock()
		w.seen = max(w.seen, c.Size)
		w.mu.Unlock()
	}
}

// child runs the core in a process of its own.
func (w *stepWorld) child(end int) (out string, status int) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestStepChild$")
	cmd.Env = append(os.Environ(), dirEnv+"="+w.dir.path, stepEnv+"="+strconv.Itoa(end))
	combined, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return string(combined), cmd.ProcessState.ExitCode()
}

// check compares what the witness was shown with what the audit log has on disk.
// epochs is what both must have, -1 for whatever they have.
func (w *stepWorld) check(epochs int64) {
	w.t.Helper()
	var sizes [2]int64
	for i, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		s := must[*logserver.Store](w.t)(logserver.OpenStore(logserver.StoreOptions{Dir: w.dir.file(string(name)), ReadOnly: true}))
		sizes[i] = must[logserver.Status](w.t)(s.Status()).Integrated
		if err := s.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The audit log has nothing but epoch records here, so that its size is the
	// number of epochs that it mirrors.
	if w.seen > sizes[0] || sizes[0] > sizes[1] {
		w.t.Errorf("the witness saw %d epochs, the audit log has %d, the membership log %d", w.seen, sizes[0], sizes[1])
	}
	if epochs >= 0 && (w.seen != epochs || sizes[0] != epochs || sizes[1] != epochs) {
		w.t.Errorf("the witness saw %d epochs, the audit log has %d, the membership log %d: want %d", w.seen, sizes[0], sizes[1], epochs)
	}
}
