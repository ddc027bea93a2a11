package controlapi

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

func TestNamedQuotas(t *testing.T) {
	for name, want := range map[string]Quotas{"default": DefaultQuotas(), "development": DevelopmentQuotas()} {
		if got, err := NamedQuotas(name); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := NamedQuotas("none"); err == nil {
		t.Error("quotas can be turned off by a name")
	}
}

// frozen is a clock that stands still.
func frozen() func() time.Time {
	at := time.Now()
	return func() time.Time { return at }
}

func TestRateQuota(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Quotas = Quotas{Writes: Rate{1, 2}, Reads: Rate{1, 3}}
		c.Now = frozen()
	})
	for range 2 {
		if got := w.post("alice", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`); got.code() != "" {
			t.Fatalf("within the quota: %s", got.body)
		}
	}
	got := w.post("alice", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`)
	if got.code() != CodeQuotaRate || got.header.Get("Retry-After") != "1" || got.status != http.StatusTooManyRequests {
		t.Errorf("beyond the quota: %d %v %s", got.status, got.header, got.body)
	}
	for range 3 {
		if got := w.post("alice", rpc.ControlGetClusterRootProcedure, "{}"); got.code() != "" {
			t.Errorf("reads have a quota of their own: %s", got.body)
		}
	}
	for range 3 {
		w.post("eve", rpc.ControlGetClusterRootProcedure, "{}")
	}
	if got := w.post("eve", rpc.ControlGetClusterRootProcedure, "{}").code(); got != CodeQuotaRate {
		t.Errorf("reads beyond their quota: %q", got)
	}
	if got := w.post("bob", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`); got.code() != "" {
		t.Errorf("bob pays for alice: %s", got.body)
	}
}

func TestByteQuota(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Quotas.Bytes = Rate{10, 2_000}
		c.Now = frozen()
	})
	body := `{"data":"` + strings.Repeat("A", 1_200) + `"}`
	if got := w.post("alice", rpc.ControlPutBlobProcedure, body); got.code() != "" {
		t.Fatalf("within the quota: %s", got.body)
	}
	if got := w.post("alice", rpc.ControlPutBlobProcedure, body); got.code() != CodeQuotaBytes || got.header.Get("Retry-After") == "" {
		t.Errorf("in the middle of a body: %s", got.body)
	}
	// Answers count too, and the debt is seen before anything is read.
	incompressible := make([]byte, 3_000)
	_, _ = rand.Read(incompressible)
	w.core.blobs["bob/"+digestOfA] = incompressible
	get := `{"digest":"` + digestOfA + `"}`
	if got := w.post("bob", rpc.ControlGetBlobProcedure, get); got.code() != "" {
		t.Fatalf("an answer is never refused for its size: %s", got.body)
	}
	if got := w.post("bob", rpc.ControlGetBlobProcedure, get).code(); got != CodeQuotaBytes {
		t.Errorf("in debt: %q", got)
	}
}

func TestInFlightQuota(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Quotas.InFlight = 1 })
	release := make(chan struct{})
	w.core.set(func() { w.core.held = release })
	first := make(chan reply, 1)
	go func() { first <- w.post("alice", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`) }()
	<-w.core.recording
	second := make(chan reply, 1)
	go func() { second <- w.post("alice", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`) }()
	<-w.core.recording // the refusal's batch
	w.core.set(func() { w.core.held = nil })
	close(release)
	if got := <-first; got.code() != "" {
		t.Errorf("the first: %s", got.body)
	}
	if got := (<-second).code(); got != CodeQuotaInFlight {
		t.Errorf("the second: %q", got)
	}
	if got := w.post("alice", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`).code(); got != "" {
		t.Errorf("after both: %q", got)
	}
}

func TestStreamQuota(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Quotas.Streams = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := rpc.NewControlClient(as("alice", true), w.url)
	w.core.statuses <- &pb.ExecutionStatus{}
	watch := connect.NewRequest(&pb.WatchExecutionRequest{ExecutionId: execution.String()})
	stream, err := client.WatchExecution(ctx, watch)
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	again, err := client.WatchExecution(ctx, watch)
	if err == nil {
		for again.Receive() {
		}
		err = again.Err()
	}
	if connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "[quota_streams]") {
		t.Errorf("a second stream: %v", err)
	}
}

// TestRefusalQuota: within it each refusal has a record; beyond it they are
// counted, and quota refusals always are.
func TestRefusalQuota(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Quotas.Refusals = Rate{0.001, 2}
		c.Now = frozen()
	})
	bad := `{"executionId":"` + absent.String() + `"}`
	for range 2 {
		w.post("alice", rpc.ControlQueryExecutionStatusProcedure, bad)
	}
	if n := len(w.core.operations); n != 2 {
		t.Errorf("%d records of refusals, want 2", n)
	}
	if got := w.post("alice", rpc.ControlQueryExecutionStatusProcedure, bad).code(); got == "" {
		t.Error("not refused")
	}
	if n := len(w.core.operations); n != 2 {
		t.Errorf("%d records of refusals after the third, want 2", n)
	}
	items := w.core.batches[0].GetOperationBatch().GetItems()
	if len(items) != 1 || items[0].GetCode() != "execution_unknown" || items[0].GetCount() != 1 || items[0].GetObject() != nil {
		t.Errorf("the third is counted as %v", items)
	}
}

// collected runs a collector in a bubble of virtual time.
func collected(t *testing.T, test func(t *testing.T, c *collector, core *fakeCore)) {
	synctest.Test(t, func(t *testing.T) {
		core := newFakeCore(t)
		c := newCollector(core, func(int) {})
		test(t, c, core)
		c.stopAndWait()
	})
}

func read(principal, method string, object []byte) entry {
	return entry{principal: principal, tenant: principal, item: &pb.OperationItem{
		Principal: principal, Method: method, Code: "ok", Object: object,
	}}
}

func refusal(principal string) entry {
	e := read(principal, "m", nil)
	e.item.Code, e.parked = "quota_rate", true
	return e
}

// TestCollectorGathers: what arrives during a commit is in the next one, one
// record for each tenant, equal items counted.
func TestCollectorGathers(t *testing.T) {
	collected(t, func(t *testing.T, c *collector, core *fakeCore) {
		release := make(chan struct{})
		core.set(func() { core.held = release })
		done := make(chan error, 100)
		add := func(e entry) { go func() { done <- c.add(e) }() }
		add(read("alice", "m", nil))
		<-core.recording
		for range 5 {
			add(read("alice", "m", nil))
		}
		add(read("alice", "m", absent[:]))
		add(read("bob", "m", nil))
		c.unauthenticated(CodeTokenMissing)
		c.unauthenticated(CodeTokenMissing)
		synctest.Wait()
		core.set(func() { core.held = nil })
		close(release)
		for range 8 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if core.commits != 2 || len(core.batches) != 3 {
			t.Errorf("%d commits with %d records, want 2 with 3", core.commits, len(core.batches))
		}
		counts := map[string]uint64{}
		for _, r := range core.batches {
			for _, item := range r.GetOperationBatch().GetItems() {
				counts[r.GetOperationBatch().GetTenant()+string(item.GetObject())] += item.GetCount()
			}
		}
		if counts["alice"] != 6 || counts["alice"+string(absent[:])] != 1 || counts["bob"] != 1 {
			t.Errorf("counts %v", counts)
		}
		if len(core.noise) != 1 || core.noise[0].GetCount() != 2 || core.noise[0].GetCode() != "token_missing" {
			t.Errorf("noise %v", core.noise)
		}
	})
}

// TestCollectorSplits: a record has a bounded number of items.
func TestCollectorSplits(t *testing.T) {
	var entries []entry
	for i := range 2*maxBatchItems + 1 {
		object := absent
		object[0], object[1] = byte(i), byte(i>>8)
		e := read("alice", strings.Repeat("m", 60), object[:])
		e.item.Code = strings.Repeat("c", 40)
		entries = append(entries, e)
	}
	records := batches(entries)
	if len(records) != 3 {
		t.Errorf("%d records, want 3", len(records))
	}
	core := newFakeCore(t)
	_ = core.RecordBatches(t.Context(), records, nil) // checks that each fits into a record
}

// TestCollectorParks: refusals over quota alone cause a batch a second.
func TestCollectorParks(t *testing.T) {
	collected(t, func(t *testing.T, c *collector, core *fakeCore) {
		start := time.Now()
		if err := c.add(refusal("alice")); err != nil || time.Since(start) != 0 {
			t.Errorf("the first waited %v: %v", time.Since(start), err)
		}
		for range 3 {
			go func() { _ = c.add(refusal("alice")) }()
		}
		if err := c.add(refusal("alice")); err != nil || time.Since(start) != parkInterval {
			t.Errorf("the second waited %v: %v", time.Since(start), err)
		}
		synctest.Wait()
		if core.commits != 2 || core.batches[1].GetOperationBatch().GetItems()[0].GetCount() != 4 {
			t.Errorf("%d commits: %v", core.commits, core.batches)
		}
		// A read's batch takes them along.
		go func() { _ = c.add(refusal("alice")) }()
		synctest.Wait()
		at := time.Now()
		if err := c.add(read("alice", "m", nil)); err != nil || time.Since(at) != 0 {
			t.Errorf("the read waited %v: %v", time.Since(at), err)
		}
		if core.commits != 3 || len(core.batches[2].GetOperationBatch().GetItems()) != 2 {
			t.Errorf("%d commits: %v", core.commits, core.batches)
		}
		// Another principal's do not wait for alice.
		at = time.Now()
		if err := c.add(refusal("bob")); err != nil || time.Since(at) != 0 {
			t.Errorf("bob waited %v: %v", time.Since(at), err)
		}
		// What still waits at the end is written.
		go func() { _ = c.add(refusal("bob")) }()
		synctest.Wait()
		commits := core.commits
		time.Sleep(parkInterval / 2) // virtual time: the bubble's clock
		if core.commits != commits {
			t.Errorf("written before its time")
		}
		c.count(refusal("bob"))
	})
}

// TestCollectorFails: an error reaches everyone, and the noise is kept.
func TestCollectorFails(t *testing.T) {
	collected(t, func(t *testing.T, c *collector, core *fakeCore) {
		core.set(func() { core.recordErr = context.DeadlineExceeded })
		c.unauthenticated(CodeTokenKey)
		if err := c.add(read("alice", "m", nil)); err == nil {
			t.Error("no error")
		}
		core.set(func() { core.recordErr = nil })
		if err := c.add(read("alice", "m", nil)); err != nil {
			t.Error(err)
		}
		if len(core.noise) != 1 || core.noise[0].GetCount() != 1 {
			t.Errorf("noise %v", core.noise)
		}
	})
}

// TestCollectorIsBounded: beyond the queue operations are refused at once.
func TestCollectorIsBounded(t *testing.T) {
	collected(t, func(t *testing.T, c *collector, core *fakeCore) {
		release := make(chan struct{})
		core.set(func() { core.held = release })
		go func() { _ = c.add(read("alice", "m", nil)) }()
		<-core.recording
		for range maxQueued {
			c.count(read("alice", "m", nil))
		}
		if err := c.add(read("alice", "m", nil)); err == nil {
			t.Error("a full queue took more")
		}
		core.set(func() { core.held = nil })
		close(release)
	})
}

// TestParkedAreBounded: only so many refusals of one principal wait.
func TestParkedAreBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Quotas.Writes = Rate{0.001, 1} })
	acc := w.edge.accounts.of("alice", tenant)
	acc.parked.Store(maxParked)
	w.post("alice", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`)
	got := w.post("alice", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`)
	if got.status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// A node has a multiple of the calls, and of nothing else.
func TestNodesHaveMoreCalls(t *testing.T) {
	a := &accounts{quotas: DefaultQuotas()}
	one, of := a.of("alice", tenant), a.of("node-1", node)
	if of.writes.Burst() != nodeCalls*one.writes.Burst() || of.writes.Limit() != nodeCalls*one.writes.Limit() ||
		of.reads.Burst() != nodeCalls*one.reads.Burst() || of.reads.Limit() != nodeCalls*one.reads.Limit() {
		t.Errorf("a node has %v writes and %v reads a second, a tenant %v and %v", of.writes.Limit(), of.reads.Limit(), one.writes.Limit(), one.reads.Limit())
	}
	if of.bytes.Burst() != one.bytes.Burst() || of.refusals.Burst() != one.refusals.Burst() {
		t.Error("a node has another quota of bytes or refusals")
	}
	if a.of("node-1", node) != of || a.of("node-1", tenant) == of {
		t.Error("an account is not that of a principal and its kind")
	}
}
