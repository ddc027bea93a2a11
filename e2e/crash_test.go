//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// TestKillControlPlane kills the control plane without warning, again and
// again, while submissions come in. Whatever was acknowledged must be there
// afterwards with the same receipt, complete, and have a proof.
func TestKillControlPlane(t *testing.T) {
	const kills, workers, each = 4, 4, 8
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	hash := a.register("canonjson", nil)

	type acknowledged struct {
		envelope, input []byte
		res             *pb.SubmitExecutionRequestResponse
	}
	var mu sync.Mutex
	acks := map[string]acknowledged{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				input := fmt.Appendf(nil, `{"worker":%d,"i":%d}`, w, i)
				envelope, id := a.submission(hash, input, w*each+i)
				for {
					res, err := a.submit(envelope, input)
					if err == nil {
						mu.Lock()
						acks[id.String()] = acknowledged{envelope, input, res}
						mu.Unlock()
						break
					}
					// A lost connection leaves the outcome open, so the same
					// submission is made again; an answer is another matter.
					if connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable {
						t.Errorf("submitting: %v", err)
						return
					}
					<-time.After(20 * time.Millisecond)
				}
			}
		})
	}
	for range kills {
		c.kill9("controlapi")
		// Let something be acknowledged between two kills.
		mu.Lock()
		before := len(acks)
		mu.Unlock()
		c.eventually("more is acknowledged", func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(acks) == before && before < workers*each {
				return fmt.Errorf("%d acknowledged", before)
			}
			return nil
		})
	}
	wg.Wait()

	chains := map[string]string{}
	for id, ack := range acks {
		a.complete(id)
		again, err := a.submit(ack.envelope, ack.input)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Duplicate || again.Receipt.Index != ack.res.Receipt.Index || string(again.Receipt.Opening) != string(ack.res.Receipt.Opening) {
			t.Errorf("execution %s: acknowledged at index %d, now %d (duplicate %t)", id, ack.res.Receipt.Index, again.Receipt.Index, again.Duplicate)
		}
		_, report := a.proof(id)
		chains[id] = fmt.Sprint(report["chain"])
	}
	if len(acks) != workers*each {
		t.Errorf("%d of %d submissions were acknowledged", len(acks), workers*each)
	}

	// The provenance chain is the same after another restart.
	c.kill9("controlapi")
	for id, chain := range chains {
		a.complete(id)
		if _, report := a.proof(id); fmt.Sprint(report["chain"]) != chain {
			t.Errorf("execution %s has another chain after the restart", id)
		}
		break
	}
	auditTree(t, c)
}

// TestSubmissionsRaceMembership: submissions that meet a change of epoch are
// pinned again and run; none is left dead behind its receipt.
func TestSubmissionsRaceMembership(t *testing.T) {
	const changes, workers = 5, 4
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	hash := a.register("canonjson", nil)
	stop := make(chan struct{})
	var mu sync.Mutex
	var ids []string
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			// A worker waits for what it submitted a while ago, so that the nodes keep
			// up however slow the machine is.
			const ahead = 3
			var own []string
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				input := fmt.Appendf(nil, "[%d,%d]", w, i)
				envelope, id := a.submission(hash, input, 1000*w+i)
				if _, err := a.submit(envelope, input); err != nil {
					t.Errorf("submitting: %v", err)
					return
				}
				mu.Lock()
				ids = append(ids, id.String())
				mu.Unlock()
				if own = append(own, id.String()); len(own) > ahead {
					if err := a.ended(own[0]); err != nil {
						t.Errorf("execution %s: %v", own[0], err)
						return
					}
					own = own[1:]
				}
			}
		})
	}
	dir := t.TempDir()
	for n := range changes {
		file := filepath.Join(dir, fmt.Sprint(n))
		c.tally("admin", "member", "propose", "node-quorum", fmt.Sprint(1+n%2), "-o", file)
		c.tally("admin", "member", "sign", file, "--yes")
		c.tally("admin", "member", "apply", file)
	}
	close(stop)
	wg.Wait()
	if len(ids) == 0 {
		t.Fatal("nothing was submitted")
	}
	for _, id := range ids {
		a.complete(id)
	}
	a.proof(ids[0])
	a.proof(ids[len(ids)-1])
	res, err := a.Membership.GetMembershipHash(context.Background(), connect.NewRequest(&pb.GetMembershipHashRequest{}))
	if err != nil || res.Msg.Epoch != changes+1 {
		t.Errorf("epoch %d, %v", res.Msg.GetEpoch(), err)
	}
}

// ended waits until an execution is open no more. Unlike complete it may be called
// by any goroutine.
func (a *agent) ended(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	watch, err := a.Control.WatchExecution(ctx, connect.NewRequest(&pb.WatchExecutionRequest{ExecutionId: id}))
	if err != nil {
		return err
	}
	defer watch.Close()
	for watch.Receive() {
		if watch.Msg().GetStatus().GetState() != pb.ExecutionState_EXECUTION_STATE_OPEN {
			return nil
		}
	}
	return watch.Err()
}

// TestTenantsAreApart: another tenant's execution, contract and payload are
// indistinguishable from those that do not exist.
func TestTenantsAreApart(t *testing.T) {
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	hash := a.register("canonjson", nil)
	input := []byte(`{"secret":1}`)
	envelope, id := a.submission(hash, input, 1)
	if _, err := a.submit(envelope, input); err != nil {
		t.Fatal(err)
	}
	status := a.complete(id.String())

	other := c.addPrincipal(membership.KindTenant, "other", membership.UseContract, membership.UseSubmission, membership.UseToken)
	nobody := "00" + id.String()[2:]
	ask := func(id string) []error {
		_, e1 := other.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id}))
		_, e2 := other.Control.RetrieveExecutionProof(context.Background(), connect.NewRequest(&pb.RetrieveExecutionProofRequest{ExecutionId: id}))
		_, e3 := other.Provenance.GetExecutionProvenance(context.Background(), connect.NewRequest(&pb.GetExecutionProvenanceRequest{ExecutionId: id}))
		_, e4 := other.Provenance.VerifyProvenanceChain(context.Background(), connect.NewRequest(&pb.VerifyProvenanceChainRequest{ExecutionId: id}))
		_, e5 := other.Control.GetContract(context.Background(), connect.NewRequest(&pb.GetContractRequest{ContractHash: id}))
		_, e6 := other.Control.GetBlob(context.Background(), connect.NewRequest(&pb.GetBlobRequest{Digest: id}))
		return []error{e1, e2, e3, e4, e5, e6}
	}
	same := func(what string, have, want error) {
		t.Helper()
		if have == nil || want == nil || connect.CodeOf(have) != connect.CodeOf(want) || have.Error() != want.Error() {
			t.Errorf("%s: a foreign one answers %v, an unknown one %v", what, have, want)
		}
	}
	unknown := ask(nobody)
	foreign := ask(id.String())
	for i, what := range []string{"status", "proof", "provenance", "chain"} {
		same(what, foreign[i], unknown[i])
	}
	same("contract", ask(hash.String())[4], unknown[4])
	for _, d := range []string{status.InputDigest, status.Outcome.OutputDigest} {
		same("payload", ask(d)[5], unknown[5])
	}
	stolen, _ := other.submission(hash, input, 2)
	if _, err := other.submit(stolen, input); err == nil {
		t.Error("a tenant ran another tenant's contract")
	}
	list, err := other.Control.ListExecutions(context.Background(), connect.NewRequest(&pb.ListExecutionsRequest{}))
	if err != nil || len(list.Msg.Executions) != 0 {
		t.Errorf("another tenant's list has %d executions, %v", len(list.Msg.GetExecutions()), err)
	}
}

// addPrincipal makes keys and adds a principal through the command line.
func (c *cluster) addPrincipal(kind membership.Kind, id string, uses ...membership.Use) *agent {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), id+".change")
	args := []string{"member", "propose", "add", string(kind), id, "-o", file}
	var keys []string
	for _, use := range uses {
		key := filepath.Join(c.dir, "keys", id+"-"+string(use)+".pem")
		newKey(c.t, key)
		keys = append(keys, key)
		args = append(args, "--key", string(use)+"="+key)
	}
	c.tally("admin", args...)
	c.tally("admin", "member", "sign", file, "--yes")
	for _, key := range keys {
		c.tally("admin", "member", "sign", file, "--yes", "--key", key)
	}
	c.tally("admin", "member", "apply", file)
	return c.agent(id)
}
