// Command benchsubmit measures a running development cluster through its API:
// submissions a second and their latency, and the time from a submission to
// its proof. It prints one line for each figure; docs/benchmarks.md says how it is
// run.
package main

import (
	"context"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/keyfile"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

func main() {
	var b bench
	flag.StringVar(&b.dir, "dir", "tally-dev", "folder of the cluster")
	flag.StringVar(&b.server, "server", "", "address of the control plane (default: that of the folder's profile)")
	flag.StringVar(&b.modulePath, "module", "", "WebAssembly module that reads JSON")
	flag.IntVar(&b.total, "n", 5000, "submissions")
	flag.IntVar(&b.workers, "c", 64, "concurrent callers")
	flag.IntVar(&b.proofs, "proofs", 20, "executions to follow from submission to proof, one after the other, on an idle cluster")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "benchsubmit:", err)
		os.Exit(1)
	}
}

type bench struct {
	dir, server, modulePath string
	total, workers, proofs  int

	c        *client.Client
	sign     crypto.Signer
	contract digest.Digest
	nonce    atomic.Uint64
}

func (b *bench) key(use string) (crypto.Signer, error) {
	return keyfile.LoadEd25519(filepath.Join(b.dir, "keys", "tenant-"+use+".pem"), nil)
}

// profileServer returns the address that the profile of the cluster's tenant has.
func (b *bench) profileServer() (string, error) {
	data, err := os.ReadFile(filepath.Join(b.dir, "tenant.json"))
	if err != nil {
		return "", err
	}
	var profile struct{ Server string }
	err = json.Unmarshal(data, &profile)
	return profile.Server, err
}

func (b *bench) run(ctx context.Context) error {
	tokenKey, err := b.key("token")
	if err != nil {
		return err
	}
	if b.server == "" {
		if b.server, err = b.profileServer(); err != nil {
			return err
		}
	}
	if b.c, err = client.New(client.Config{Server: b.server, Cluster: "dev", Principal: "tenant", TokenKey: tokenKey}); err != nil {
		return err
	}
	if b.sign, err = b.key("submission"); err != nil {
		return err
	}
	if err := b.register(ctx); err != nil {
		return err
	}
	b.nonce.Store(uint64(time.Now().UnixNano()))
	if err := b.submitToProof(ctx); err != nil {
		return err
	}
	return b.throughput(ctx)
}

func (b *bench) register(ctx context.Context) error {
	module, err := os.ReadFile(b.modulePath)
	if err != nil {
		return err
	}
	key, err := b.key("contract")
	if err != nil {
		return err
	}
	envelope, hash, err := contract.Sign(&contract.Contract{
		Agreement: 2, Nodes: 3, MaxAssigned: 3, Cluster: "dev", Tenant: "tenant", Name: "bench", Version: "1",
		Capabilities:    []contract.Capability{contract.CapabilityArgs, contract.CapabilityClock, contract.CapabilityRandom, contract.CapabilityStdio},
		Limits:          contract.Limits{DiagnosticsBytes: 65536, Frames: 1000, Gas: 1_000_000_000, InputBytes: 1 << 20, MemoryPages: 1024, OutputBytes: 1 << 20},
		Module:          digest.Of(module),
		ProtocolVersion: contract.ProtocolVersion,
		Versions:        contract.Versions{CostTable: 1, HostInterface: 1, Rewriter: 1},
	}, key)
	if err != nil {
		return err
	}
	b.contract = hash
	_, err = b.c.Control.RegisterContract(ctx, connect.NewRequest(&pb.RegisterContractRequest{Envelope: envelope, Module: module}))
	return err
}

// submit asks for one execution that nobody asked for before.
func (b *bench) submit(ctx context.Context) (string, error) {
	input := []byte(`{"b":[1,2,3],"a":"x"}`)
	nonce := binary.BigEndian.AppendUint64(make([]byte, 8), b.nonce.Add(1))
	envelope, _, err := contract.Sign(&contract.Submission{
		Cluster: "dev", Contract: b.contract, Input: digest.Of(input), LastEpoch: 1000, Nonce: nonce,
		ProtocolVersion: contract.ProtocolVersion, Tenant: "tenant",
	}, b.sign)
	if err != nil {
		return "", err
	}
	res, err := b.c.Control.SubmitExecutionRequest(ctx, connect.NewRequest(&pb.SubmitExecutionRequestRequest{Submission: envelope, Input: input}))
	if err != nil {
		return "", err
	}
	return res.Msg.ExecutionId, nil
}

func (b *bench) throughput(ctx context.Context) error {
	var left atomic.Int64
	left.Store(int64(b.total))
	latencies := make([][]time.Duration, b.workers)
	errs := make([]error, b.workers)
	var wg sync.WaitGroup
	start := time.Now()
	for w := range b.workers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				began := time.Now()
				if _, err := b.submit(ctx); err != nil {
					errs[w] = err
					return
				}
				latencies[w] = append(latencies[w], time.Since(began))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	all := slices.Concat(latencies...)
	fmt.Printf("submissions    %d by %d callers: %.0f a second\n", len(all), b.workers, float64(len(all))/took.Seconds())
	fmt.Printf("submit         p50 %v, p99 %v\n", percentile(all, 50), percentile(all, 99))
	return nil
}

// submitToProof follows single executions on a cluster that does nothing else.
func (b *bench) submitToProof(ctx context.Context) error {
	var all []time.Duration
	var size int
	for i := range b.proofs + 1 {
		began := time.Now()
		id, err := b.submit(ctx)
		if err != nil {
			return err
		}
		stream, err := b.c.Control.WatchExecution(ctx, connect.NewRequest(&pb.WatchExecutionRequest{ExecutionId: id}))
		if err != nil {
			return err
		}
		ready := false
		for !ready && stream.Receive() {
			ready = stream.Msg().Status.ProofReady
		}
		if err := errors.Join(stream.Err(), stream.Close()); err != nil || !ready {
			return errors.Join(err, fmt.Errorf("execution %s has no proof", id))
		}
		res, err := b.c.Control.RetrieveExecutionProof(ctx, connect.NewRequest(&pb.RetrieveExecutionProofRequest{ExecutionId: id}))
		if err != nil {
			return err
		}
		size = len(res.Msg.Bundle)
		if i > 0 { // the first one compiles the module on the nodes
			all = append(all, time.Since(began))
		}
	}
	fmt.Printf("submit to proof p50 %v, p99 %v, of %d\n", percentile(all, 50), percentile(all, 99), len(all))
	fmt.Printf("proof bundle   %d bytes\n", size)
	return nil
}

func percentile(all []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(10 * time.Microsecond)
}
