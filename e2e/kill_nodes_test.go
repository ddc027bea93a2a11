//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

var seedFlag = flag.Uint64("seed", 0, "seed of what TestKillNodes does by chance; 0 takes another one each time")

// killing bounds for how long TestKillNodes goes on killing: what is not decided
// by then is left in peace.
const killing = 80 * time.Second

// leastComplete is how many of a hundred executions have to complete. It is eighty
// to a hundred, the fewer the slower the machine: those expire for which two of the
// three nodes were away longer than the attempt's deadline, and there is no other
// to ask, which are of the contract that asks all of them, a third of all. So fewer
// than half is no matter of speed.
const leastComplete = 50

// TestKillNodes kills nodes without warning and starts them again, at random,
// while executions come in under three contracts: one that asks all three nodes,
// one that asks two and then the third, one that asks one after the other. Every
// execution that was acknowledged ends, complete with what its contract makes of
// its input or for a reason that the log holds; and a replica that folds the log
// finds the same.
func TestKillNodes(t *testing.T) { killNodes(t, 300) }

func killNodes(t *testing.T, executions int) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d executions; again with -seed %d", executions, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	f := found(t, "--attempt-deadline", "3s")
	f.startNodes("--capacity", "2")
	a := f.agent("tenant")
	var contracts []digest.Digest
	for i, asks := range []struct{ nodes, agreement, step uint64 }{{3, 2, 0}, {2, 2, 1}, {1, 1, 1}} {
		hash, err := a.admit(echo(), func(v *contract.Contract) {
			metered(v)
			v.Name = fmt.Sprint("echo-", i)
			v.Nodes, v.Agreement, v.Step, v.MaxAssigned = asks.nodes, asks.agreement, asks.step, 3
		})
		if err != nil {
			t.Fatal(err)
		}
		contracts = append(contracts, hash)
	}

	stop, kills := make(chan struct{}), 0
	var killer sync.WaitGroup
	killer.Go(func() { kills = f.killNodes(t, rng, stop) })

	type asked struct{ contract, input digest.Digest }
	var mu sync.Mutex
	all := map[digest.Digest]asked{}
	var callers sync.WaitGroup
	for w := range 8 {
		callers.Go(func() {
			for i := w; i < executions; i += 8 {
				input := fmt.Appendf(nil, "input %d", i)
				hash := contracts[i%len(contracts)]
				envelope, id, err := a.submissionBy(f.keyFile("tenant", "submission"), hash, input, i)
				if err == nil {
					_, err = a.submit(envelope, input)
				}
				if err != nil {
					t.Errorf("submitting: %v", err)
					return
				}
				mu.Lock()
				all[id] = asked{hash, digest.Of(input)}
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	began := time.Now()
	undecided := func() error {
		if time.Since(began) > killing {
			select {
			case <-stop:
			default:
				close(stop)
			}
		}
		res, err := a.Control.ListExecutions(context.Background(), connect.NewRequest(&pb.ListExecutionsRequest{
			State: pb.ExecutionState_EXECUTION_STATE_OPEN, PageSize: 200}))
		if err == nil && (len(res.Msg.Executions) > 0 || res.Msg.NextPageToken != "") {
			err = fmt.Errorf("%d are open", len(res.Msg.Executions))
		}
		return err
	}
	f.eventually("every execution is decided", undecided)
	select {
	case <-stop:
	default:
		close(stop)
	}
	killer.Wait()

	fold := f.replica(t)
	ends := map[provenance.State]int{}
	attempts := uint64(0)
	for id, asked := range all {
		ex, ok := fold.Execution(id)
		if !ok {
			t.Errorf("execution %s is lost", id)
			continue
		}
		ends[ex.State]++
		attempts += ex.Attempt
		if ex.ContractHash != asked.contract || ex.Submission.Input != asked.input {
			t.Errorf("execution %s is not what was asked for", id)
		}
		switch last := ex.Chain[len(ex.Chain)-1].Kind; {
		case ex.State == provenance.StateComplete && last == record.KindProvenance:
			if ex.Outcome.Kind != contract.OutcomeOK || ex.Outcome.OutputDigest != asked.input {
				t.Errorf("execution %s: outcome %+v, its contract makes %s", id, ex.Outcome, asked.input)
			}
		case ex.State == provenance.StateExpired && last == record.KindExpired: // the reason is recorded
		default:
			t.Errorf("execution %s is %s, and its last record is a %s", id, ex.State, last)
		}
		for _, at := range ex.Attestations {
			if at.Void || at.Statement.Outcome.OutputDigest != asked.input {
				t.Errorf("execution %s: %s says %+v (void %t)", id, at.Node, at.Statement.Outcome, at.Void)
			}
		}
	}
	if least := executions * leastComplete / 100; len(all) != executions || ends[provenance.StateComplete] < least {
		t.Errorf("%d of %d were acknowledged, ends %v, want at least %d complete", len(all), executions, ends, least)
	}
	t.Logf("%d kills, %d reschedules, ends: %v", kills, attempts, ends)
	proven := 0
	for id := range maps.Keys(all) {
		if ex, _ := fold.Execution(id); ex.State == provenance.StateComplete && proven < 10 {
			a.complete(id.String())
			a.proof(id.String())
			proven++
		}
	}
}

// killNodes kills a node and starts it again, one after the other, until stop is
// closed; all of them run then. It returns how often.
func (f *founded) killNodes(t *testing.T, rng *rand.Rand, stop <-chan struct{}) (kills int) {
	pause := func(most time.Duration) bool {
		select {
		case <-time.After(time.Duration(rng.Int64N(int64(most)))):
			return true
		case <-stop:
			return false
		}
	}
	for pause(150 * time.Millisecond) {
		p := f.processes[foundedNodes[rng.IntN(len(foundedNodes))]]
		p.signal(syscall.SIGKILL)
		kills++
		pause(500 * time.Millisecond)
		if err := p.launch(); err != nil {
			t.Errorf("starting a node again: %v", err)
			return kills
		}
	}
	return kills
}
