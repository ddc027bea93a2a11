package controlapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// TestCompressedRequestsAreRefused: a small body must not become a large one,
// whatever the protocol. Without that, neither bound nor quota holds.
func TestCompressedRequestsAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	for name, c := range map[string]struct {
		http2   bool
		options []connect.ClientOption
	}{
		"connect":  {false, nil},
		"gRPC":     {true, []connect.ClientOption{connect.WithGRPC()}},
		"gRPC-Web": {false, []connect.ClientOption{connect.WithGRPCWeb()}},
	} {
		before := len(w.core.recorded())
		client := rpc.NewControlClient(as("alice", c.http2), w.url, append(c.options, connect.WithSendGzip())...)
		_, err := client.PutBlob(t.Context(), connect.NewRequest(&pb.PutBlobRequest{Data: make([]byte, 1<<20)}))
		if connect.CodeOf(err) != connect.CodeUnimplemented || !strings.Contains(err.Error(), "[request_encoding] ") {
			t.Errorf("%s: %v", name, err)
		}
		stream, err := client.WatchExecution(t.Context(), connect.NewRequest(&pb.WatchExecutionRequest{ExecutionId: execution.String()}))
		if err == nil {
			stream.Receive()
			err = stream.Err()
		}
		if connect.CodeOf(err) != connect.CodeUnimplemented {
			t.Errorf("%s: a stream: %v", name, err)
		}
		made := w.core.recorded()[before:]
		if len(made) != 2 || made[0].GetOperation().GetCode() != string(CodeEncoding) {
			t.Errorf("%s: recorded as %v", name, made)
		}
	}
	if len(w.core.blobs) != 0 || w.edge.bodies.peak != 0 {
		t.Errorf("%d blobs stored, %d bytes held", len(w.core.blobs), w.edge.bodies.peak)
	}
}

// TestBodiesStayWithinTheBudget stores many large blobs at once, of known and of
// unknown length, in less memory than they have.
func TestBodiesStayWithinTheBudget(t *testing.T) {
	const (
		payload = 1 << 20
		total   = 4 << 20
	)
	w := newWorld(t, func(c *Config) { c.MaxPayload, c.BodyBudget = payload, total })
	w.edge.bodies.patience = time.Minute
	data := make([]byte, payload)
	tenants := map[string]*http.Client{"alice": as("alice", false), "bob": as("bob", true)}
	var calls sync.WaitGroup
	for principal, client := range tenants {
		options := []connect.ClientOption(nil)
		if principal == "bob" { // gRPC says no length
			options = append(options, connect.WithGRPC())
		}
		for range 30 {
			calls.Go(func() {
				_, err := rpc.NewControlClient(client, w.url, options...).PutBlob(t.Context(), connect.NewRequest(&pb.PutBlobRequest{Data: data}))
				if err != nil {
					t.Errorf("%s: %v", principal, err)
				}
			})
		}
	}
	calls.Wait()
	b := w.edge.bodies
	if b.peak > total || b.peak < payload {
		t.Errorf("at most %d bytes were held, the budget is %d", b.peak, total)
	}
	w.edge.stop()
	w.edge.StopAndWait() // answers go before leases do
	if b.held != 0 || len(b.holders) != 0 || len(b.waiting) != 0 {
		t.Errorf("afterwards: %d held, by %v, and %d wait", b.held, b.holders, len(b.waiting))
	}
}

// TestBudgetRefusals: whoever fills the half of one principal, or all of it, is
// told so in words, and only as long as it lasts.
func TestBudgetRefusals(t *testing.T) {
	w := newWorld(t, nil)
	b := w.edge.bodies
	b.patience = time.Millisecond
	put := func(principal string) reply { return w.post(principal, rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`) }
	must := func(principal string) {
		if err := b.acquire(t.Context(), principal, b.total/2); err != nil {
			t.Fatal(err)
		}
	}
	must("alice")
	if got := put("alice"); got.code() != CodeQuotaBodies || got.header.Get("Retry-After") == "" || got.status != http.StatusTooManyRequests {
		t.Errorf("over its half: %d %s", got.status, got.body)
	}
	if got := put("bob"); got.code() != "" {
		t.Errorf("bob waits for alice: %s", got.body)
	}
	must("eve")
	if got := put("bob"); got.code() != orchestrator.CodeBusy || got.header.Get("Retry-After") == "" {
		t.Errorf("nothing is left: %s", got.body)
	}
	if got := w.post("bob", rpc.ControlGetClusterRootProcedure, "{}"); got.code() != "" {
		t.Errorf("a small request needs none: %s", got.body)
	}
	b.release("alice", b.total/2)
	if got := put("alice"); got.code() != "" {
		t.Errorf("afterwards: %s", got.body)
	}
}

func TestBudgetGrantsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100)
		type outcome struct {
			name string
			err  error
		}
		outcomes := make(chan outcome, 10)
		ask := func(ctx context.Context, name, principal string, n int64) {
			go func() { outcomes <- outcome{name, b.acquire(ctx, principal, n)} }()
			synctest.Wait()
		}
		want := func(names ...string) {
			t.Helper()
			synctest.Wait()
			for range names { // those granted together wake in any order
				if got := <-outcomes; !slices.Contains(names, got.name) || got.err != nil {
					t.Errorf("%s: %v, want %v", got.name, got.err, names)
				}
			}
			if len(outcomes) != 0 {
				t.Errorf("%d more are granted", len(outcomes))
			}
		}
		leaving, leave := context.WithCancel(t.Context())
		ask(t.Context(), "a's half", "a", 50)
		want("a's half")
		ask(t.Context(), "a's next", "a", 30)
		ask(t.Context(), "a's small one", "a", 10)
		want() // the small one does not pass the one before it
		ask(t.Context(), "b's", "b", 40)
		want("b's")
		ask(leaving, "c's large one", "c", 50)
		ask(t.Context(), "d's small one", "d", 10)
		want() // nor here: the large one would wait for ever
		leave()
		synctest.Wait()
		if got := <-outcomes; !errors.Is(got.err, context.Canceled) {
			t.Errorf("%s: %v", got.name, got.err)
		}
		want("d's small one")
		b.release("a", 50)
		want("a's next", "a's small one")
		ask(t.Context(), "too late", "b", 20)
		time.Sleep(patience)
		synctest.Wait()
		if got := <-outcomes; asRefusal(got.err).Code != CodeQuotaBodies {
			t.Errorf("%s: %v", got.name, got.err)
		}
		b.release("a", 40)
		b.release("b", 40)
		b.release("d", 10)
		if b.held != 0 || len(b.holders) != 0 || len(b.waiting) != 0 || b.peak != 100 {
			t.Errorf("at the end: %+v", b)
		}
	})
}

// slowBody is the body of a connection whose deadline the meter sets: rate bytes
// every second of a bubble's clock.
type slowBody struct {
	rate     int
	deadline time.Time
}

func (s *slowBody) SetReadDeadline(at time.Time) error { s.deadline = at; return nil }
func (s *slowBody) Header() http.Header                { return nil }
func (s *slowBody) Write([]byte) (int, error)          { return 0, io.ErrClosedPipe }
func (s *slowBody) WriteHeader(int)                    {}
func (s *slowBody) Close() error                       { return nil }

func (s *slowBody) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	if time.Now().After(s.deadline) {
		return 0, timeoutError{}
	}
	return min(len(p), s.rate), nil
}

// timeoutError is as net's.
type timeoutError struct{}

func (timeoutError) Is(target error) bool { return target.Error() == "i/o timeout" }
func (timeoutError) Error() string        { return "read: i/o timeout" }

func TestSlowBodiesLoseTheirPlace(t *testing.T) {
	for rate, want := range map[int]struct {
		code   Code
		within time.Duration
	}{
		1:           {CodeDeadline, slowStart + 2*time.Second},
		minPace / 2: {CodeDeadline, 3 * slowStart},
		minPace * 4: {CodeBodyTooLarge, DefaultTimeout}, // it never ends, but was never late
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &Server{cfg: Config{Cluster: testCluster, Core: newFakeCore(t), Quotas: DevelopmentQuotas()}}
			if err := s.cfg.ensureDefaults(); err != nil {
				t.Fatal(err)
			}
			s.bodies = newBudget(s.cfg.BodyBudget)
			slow := &slowBody{rate: rate}
			op := &operation{
				method:  methods[rpc.ControlPutBlobProcedure],
				caller:  caller{id: "alice"},
				account: (&accounts{quotas: s.cfg.Quotas}).of("alice", tenant),
				start:   time.Now(),
				control: http.NewResponseController(slow),
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", slow)
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = -1
			m, err := s.newMeter(r, op)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{m}, make([]byte, rate))
			if got := asRefusal(err).Code; got != want.code || time.Since(op.start) > want.within {
				t.Errorf("%d bytes per second: %v after %v", rate, err, time.Since(op.start))
			}
			m.close()
			if s.bodies.held != 0 {
				t.Errorf("%d bytes are held", s.bodies.held)
			}
		})
	}
}

// TestOverQuotaIsLoggedInSums: a principal that is refused without end must not
// fill the disk with what the log says about it.
func TestOverQuotaIsLoggedInSums(t *testing.T) {
	var mu sync.Mutex
	clock := time.Now()
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	w := newWorld(t, func(c *Config) {
		c.Quotas.Reads = Rate{0.001, 1}
		c.Now = now
	})
	var calls sync.WaitGroup
	for range 300 {
		calls.Go(func() { w.post("alice", rpc.ControlGetClusterRootProcedure, "{}") })
	}
	calls.Wait()
	mu.Lock()
	clock = clock.Add(tallyInterval)
	mu.Unlock()
	w.post("alice", rpc.ControlGetClusterRootProcedure, "{}")
	w.edge.StopAndWait()
	lines := 0
	for line := range bytes.Lines(w.logs.Bytes()) {
		if !bytes.Contains(line, []byte("level=DEBUG")) {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("%d lines above DEBUG, want 2:\n%s", lines, w.logs)
	}
	if !strings.Contains(w.logs.String(), `msg="refusals over quota" principal=alice kind=tenant count=299`) {
		t.Errorf("the sum is missing")
	}
}
