package orchestrator_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// recorded stands for the record of an operation.
func recorded() error { return nil }

// record makes the record of an abandonment, as the edge does.
func (w *world) record(node string) func() error {
	return func() error {
		return w.RecordOperation(w.t.Context(), actor(node), &pb.OperationRecord{Code: "ok"})
	}
}

func one(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 1, 1, 1 }

// patient makes a world with one node, whose attempts have a minute of the bubble's
// clock, and the node's stream.
func patient(t *testing.T) (*world, <-chan *pb.Assignment) {
	t.Helper()
	w := prepare(t, 1)
	w.config = func(c *orchestrator.Config) { c.AttemptDeadline = time.Minute }
	w.mustOpen()
	return w, must[<-chan *pb.Assignment](t)(w.Assignments(t.Context(), "node-1"))
}

func (w *world) mustBeOpen(when string, ids ...digest.Digest) {
	w.t.Helper()
	for _, id := range ids {
		if s := must[*pb.ExecutionStatus](w.t)(w.Status(id, "")); s.GetState() != pb.ExecutionState_EXECUTION_STATE_OPEN {
			w.t.Fatalf("%s the execution is %v", when, s.GetState())
		}
	}
}

// A log that takes no records for an hour, as on a full disk, while the node keeps
// its stream: nothing that is open expires, neither during the outage nor in the
// moment of its end, and what the node gave up meanwhile it is told again.
func TestOutageExpiresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stream := patient(t)
		hash := w.register(newContract(one))
		var ids []digest.Digest // a backlog
		for i := range byte(20) {
			ids = append(ids, w.submit(hash, string('a'+rune(i)), i))
			<-stream
		}
		w.audit.faults(func([]orchestrator.LogEntry) fault { return pushback })
		for range 10 { // minutes in which the node tries, and asks for payloads
			wantCode(t, "recording a read", w.record("node-1")(), orchestrator.CodeBusy)
			time.Sleep(time.Minute)
		}
		for _, id := range ids { // then it gives up, and nobody hears of it
			wantCode(t, "abandoning", w.Abandon(t.Context(), "node-1", id, "unavailable", w.record("node-1")), orchestrator.CodeBusy)
		}
		if s := must[*pb.ExecutionStatus](t)(w.Status(ids[0], "")); len(s.GetReports()) != 0 {
			t.Errorf("an effect without a record: %v", s.GetReports())
		}
		w.trying("node-1", stream)
		for range 50 {
			time.Sleep(time.Minute)
			if n := w.trying("node-1", stream); n == 0 || n > len(ids) {
				t.Fatalf("%d of %d were told again within a deadline", n, len(ids))
			}
		}
		w.mustBeOpen("during the outage", ids...)
		w.audit.faults(nil)
		time.Sleep(59 * time.Second)
		w.mustBeOpen("after the outage", ids...)
		n := w.worker("node-1")
		done := make(map[string]bool)
		for len(done) < len(ids) {
			select {
			case a := <-stream:
				if !done[a.GetExecutionId()] {
					done[a.GetExecutionId()] = true
					n.do(a)
				}
			case <-time.After(10 * time.Minute): // the node is coming: it answers others
				t.Fatalf("%d of %d were told again", len(done), len(ids))
			}
		}
		for _, id := range ids {
			w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_COMPLETE)
		}
		w.checkLog()
	})
}

// trying tries whatever the stream has by now, in vain, and returns how many.
func (w *world) trying(node string, stream <-chan *pb.Assignment) (n int) {
	for {
		synctest.Wait()
		select {
		case <-stream:
			wantCode(w.t, "recording a read", w.record(node)(), orchestrator.CodeBusy)
			n++
		default:
			return n
		}
	}
}

// What a node could not do for now does not expire at once: it is told once more,
// with proofs of then, and if that was in vain too the execution ends.
func TestPassingAbandonmentIsOfferedOnceMore(t *testing.T) {
	for _, code := range []string{"unavailable", "membership_stale", "epoch_unproven", ""} { // "" is silence
		t.Run("code "+code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, stream := patient(t)
				id := w.submit(w.register(newContract(one)), "x", 1)
				w.change(membership.AddPrincipal{Principal: principal(membership.KindNode, "node-9")}, "node-9")
				ended := w.ended(id)
				offers := 0
				for {
					var epochs int
					select {
					case a := <-stream:
						offers++
						epochs = len(a.GetEpochs())
					case <-time.After(time.Hour):
						t.Fatal("neither offered nor expired")
					case <-ended:
						w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
						if offers != 2 {
							t.Errorf("offered %d times, want 2", offers)
						}
						w.checkLog()
						return
					}
					if offers == 2 && epochs != 2 {
						t.Errorf("offered again with %d epochs", epochs)
					}
					if code != "" {
						if err := w.Abandon(t.Context(), "node-1", id, code, w.record("node-1")); err != nil {
							t.Fatal(err)
						}
						w.mustBeOpen("after a passing failure", id)
					}
				}
			})
		})
	}
}

// A lasting refusal by all that could be asked ends it at once.
func TestLastingAbandonmentIsNotOfferedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stream := patient(t)
		id := w.submit(w.register(newContract(one)), "x", 1)
		<-stream
		began := time.Now()
		if err := w.Abandon(t.Context(), "node-1", id, "stopped", w.record("node-1")); err != nil {
			t.Fatal(err)
		}
		w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
		if waited := time.Since(began); waited >= time.Minute {
			t.Errorf("it expired after %v", waited)
		}
	})
}

// An expiry that the log does not take gives the attempt another deadline: it does
// not wait for the moment in which the log, and with it the nodes, can again.
func TestExpiryThatTheLogDoesNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stream := patient(t)
		id := w.submit(w.register(newContract(one)), "x", 1)
		<-stream
		<-stream // and once more
		tried := make(chan struct{})
		w.audit.faults(func(entries []orchestrator.LogEntry) fault {
			if kindOf(entries[0]) == record.KindExpired {
				close(tried)
			}
			return pushback
		})
		<-tried // nobody else called
		w.audit.faults(nil)
		time.Sleep(59 * time.Second)
		w.mustBeOpen("after the outage", id)
		w.worker("node-1").do(<-stream) // told again, since the outage does not count
		w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_COMPLETE)
	})
}

// A payload store that fails hinders nodes as a log does.
func TestPayloadOutageExpiresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stream := patient(t)
		id := w.submit(w.register(newContract(one)), "x", 1)
		a := <-stream
		w.blobs.failing(errUnknownOutcome)
		for range 60 {
			_, err := w.GetAssignedBlob(t.Context(), "node-1", digestOf("x"))
			wantCode(t, "fetching a payload", err, orchestrator.CodeUnavailable)
			time.Sleep(time.Minute)
			select {
			case <-stream:
			default:
			}
		}
		w.mustBeOpen("during the outage", id)
		w.blobs.failing(nil)
		w.worker("node-1").do(a)
		w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_COMPLETE)
	})
}

// A payload that is damaged for good is no outage: what needs it expires, and holds
// nothing else open, however often nodes ask for it.
func TestDamagedPayloadHoldsNothingOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stream := patient(t)
		hash := w.register(newContract(one))
		id, other := w.submit(hash, "x", 1), w.submit(hash, "y", 2)
		w.blobs.failing(orchestrator.ErrBlobDamaged)
		ended := []<-chan struct{}{w.ended(id), w.ended(other)}
		for began := time.Now(); len(ended) > 0; {
			if time.Since(began) > 30*time.Minute {
				t.Fatalf("%d are still open", len(ended))
			}
			select {
			case <-stream:
			case <-ended[0]:
				ended = ended[1:]
			case <-time.After(time.Second):
				_, err := w.GetAssignedBlob(t.Context(), "node-1", digestOf("x"))
				if orchestrator.CodeOf(err) != orchestrator.CodeUnavailable && orchestrator.CodeOf(err) != orchestrator.CodeBlobUnknown {
					t.Fatalf("fetching a payload: %v", err)
				}
			}
		}
		w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
		w.awaitState(other, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
	})
}

// A log that refuses some records of many is busy, and no outage.
func TestBusyLogHoldsNothingOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stream := patient(t)
		id := w.submit(w.register(newContract(one)), "x", 1)
		ended := w.ended(id)
		for began := time.Now(); ; {
			if time.Since(began) > 30*time.Minute {
				t.Fatal("it is still open")
			}
			select {
			case <-stream:
			case <-ended:
				w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
				return
			case <-time.After(time.Second):
				w.audit.faults(func([]orchestrator.LogEntry) fault { return pushback })
				wantCode(t, "recording a read", w.record("node-1")(), orchestrator.CodeBusy)
				w.audit.faults(nil)
				if err := w.record("node-1")(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// ended is closed when an execution is not open any more.
func (w *world) ended(id digest.Digest) <-chan struct{} {
	done := make(chan struct{})
	statuses := must[<-chan *pb.ExecutionStatus](w.t)(w.Watch(w.t.Context(), id, ""))
	go func() {
		for s := range statuses {
			if s.GetState() != pb.ExecutionState_EXECUTION_STATE_OPEN {
				close(done)
				return
			}
		}
	}()
	return done
}
