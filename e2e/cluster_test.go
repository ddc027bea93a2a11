//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/keyfile"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// patience bounds every wait of this package. It decides no test that is right.
const patience = 2 * time.Minute

// root is the top of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// bin is the path of one of our programs.
func bin(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(root(t), "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run scripts/build first", err)
	}
	return path
}

// module builds one of the examples to WebAssembly, once per test binary.
func module(t *testing.T, example string) string {
	t.Helper()
	modules.Lock()
	defer modules.Unlock()
	if path, ok := modules.built[example]; ok {
		return path
	}
	if modules.dir == "" {
		dir, err := os.MkdirTemp("", "tallystick-e2e-modules")
		if err != nil {
			t.Fatal(err)
		}
		modules.dir, modules.built = dir, map[string]string{}
	}
	path := filepath.Join(modules.dir, example+".wasm")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./examples/"+example)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", example, err, out)
	}
	modules.built[example] = path
	return path
}

var modules struct {
	sync.Mutex
	dir   string
	built map[string]string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if modules.dir != "" {
		os.RemoveAll(modules.dir)
	}
	os.Exit(code)
}

// cluster is a running `tally dev`.
type cluster struct {
	t      *testing.T
	dir    string
	server string
	cmd    *exec.Cmd
	out    *bytes.Buffer
	// namespace is the network namespace that the cluster is reached from, "" for
	// the test's own.
	namespace string
}

// start runs `tally dev` on a folder until the test ends or stop is called.
func start(t *testing.T, dir string, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: dir, out: &bytes.Buffer{}}
	ready := filepath.Join(t.TempDir(), "ready")
	c.cmd = exec.Command(bin(t, "tally"), append([]string{"dev", "--dir", dir, "--listen", "127.0.0.1:0", "--ready-file", ready}, args...)...)
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = c.cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		<-done
		if t.Failed() {
			showTail(t, "tally dev", c.out.Bytes())
			logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
			for _, log := range logs {
				data, _ := os.ReadFile(log)
				showTail(t, filepath.Base(log), data)
			}
		}
	})
	c.eventually("the cluster is ready", func() error {
		select {
		case <-done:
			t.Fatal("tally dev ended; what it said is above")
		default:
		}
		data, err := os.ReadFile(ready)
		if err == nil && len(data) == 0 {
			err = errors.New("not written yet")
		}
		c.server = strings.TrimSuffix(strings.TrimSpace(string(data)), "/")
		return err
	})
	return c
}

// showTail prints the end of what a process said. It goes straight to standard
// output, so that `go test` prints what the test itself reports below it: the
// reason of a failure comes last.
func showTail(t *testing.T, name string, said []byte) {
	const most = 4000
	cut := ""
	if len(said) > most {
		cut, said = "[...]", said[len(said)-most:]
	}
	fmt.Printf("--- %s: %s said:\n%s%s\n", t.Name(), name, cut, bytes.TrimRight(said, "\n"))
}

// stop ends the cluster before the test does.
func (c *cluster) stop() {
	c.t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	c.eventually("the cluster has stopped", func() error {
		if c.cmd.Process.Signal(syscall.Signal(0)) == nil {
			return errors.New("still running")
		}
		return nil
	})
}

// eventually polls until f succeeds.
func (c *cluster) eventually(what string, f func() error) {
	c.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

// kill9 kills a process of the cluster without warning.
func (c *cluster) kill9(name string) {
	c.t.Helper()
	pid, err := c.pid(name)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.eventually(name+" runs again", func() error {
		again, err := c.pid(name)
		if err == nil && again == pid {
			err = errors.New("still the old process")
		}
		return err
	})
}

func (c *cluster) pid(name string) (int, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, "run", name+".pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// tally runs the command line as a principal and returns its standard output.
func (c *cluster) tally(as string, args ...string) string {
	c.t.Helper()
	out, errText, code := c.try("tally", append([]string{"--profile", filepath.Join(c.dir, as+".json")}, args...)...)
	if code != 0 {
		c.t.Fatalf("tally %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errText)
	}
	return out
}

// try runs a program and returns what it said, whatever it was.
func (c *cluster) try(name string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := inNamespace(ctx, c.namespace, bin(c.t, name), args...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// trust are the verifier's flags for this cluster.
func (c *cluster) trust() []string {
	return []string{
		"--policy", filepath.Join(c.dir, "audit.policy"),
		"--membership-policy", filepath.Join(c.dir, "membership.policy"),
		"--genesis", filepath.Join(c.dir, "genesis.json"),
	}
}

// agent is a principal that uses the Go client.
type agent struct {
	c    *cluster
	name string
	*client.Client
}

func (c *cluster) agent(name string) *agent {
	c.t.Helper()
	api, err := client.New(client.Config{Server: c.server, Cluster: "dev", Principal: name, TokenKey: c.key(name, "token"), Transport: transportIn(c.namespace)})
	if err != nil {
		c.t.Fatal(err)
	}
	return &agent{c, name, api}
}

func (c *cluster) keyFile(name, use string) string {
	return filepath.Join(c.dir, "keys", name+"-"+use+".pem")
}

func (c *cluster) key(name, use string) crypto.Signer {
	c.t.Helper()
	key, err := loadKey(c.keyFile(name, use))
	if err != nil {
		c.t.Fatal(err)
	}
	return key
}

func loadKey(file string) (crypto.Signer, error) { return keyfile.LoadEd25519(file, nil) }

// register makes and registers a contract for an example as this tenant.
func (a *agent) register(example string, change func(*contract.Contract)) digest.Digest {
	a.c.t.Helper()
	wasm, err := os.ReadFile(module(a.c.t, example))
	if err != nil {
		a.c.t.Fatal(err)
	}
	return a.registerModule(example, wasm, change)
}

// idle is a module that does nothing, and so is compiled in no time: for tests in
// which nodes start often and what they compute does not matter.
var idle = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x04\x01\x60\x00\x00" + // type 0: func()
	"\x03\x02\x01\x00" + // func 0 of type 0
	"\x05\x03\x01\x00\x01" + // a memory of one page
	"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00" +
	"\x0a\x04\x01\x02\x00\x0b")

// registerModule is register for a module's bytes.
func (a *agent) registerModule(name string, wasm []byte, change func(*contract.Contract)) digest.Digest {
	a.c.t.Helper()
	v := newContract(a.name, name, wasm)
	if change != nil {
		change(v)
	}
	envelope, hash, err := contract.Sign(v, a.c.key(a.name, "contract"))
	if err != nil {
		a.c.t.Fatal(err)
	}
	if _, err := a.Control.RegisterContract(context.Background(), connect.NewRequest(&pb.RegisterContractRequest{Envelope: envelope, Module: wasm})); err != nil {
		a.c.t.Fatal(err)
	}
	return hash
}

func newContract(tenant, name string, wasm []byte) *contract.Contract {
	return &contract.Contract{
		Agreement: 2, Nodes: 3, MaxAssigned: 3,
		Capabilities:    []contract.Capability{contract.CapabilityArgs, contract.CapabilityClock, contract.CapabilityRandom, contract.CapabilityStdio},
		Cluster:         "dev",
		Limits:          contract.Limits{DiagnosticsBytes: 65536, Frames: 1000, Gas: 1_000_000_000, InputBytes: 4 << 20, MemoryPages: 1024, OutputBytes: 1 << 20},
		Module:          digest.Of(wasm),
		Name:            name,
		ProtocolVersion: contract.ProtocolVersion,
		Tenant:          tenant,
		Version:         "1",
		Versions:        contract.Versions{CostTable: 1, HostInterface: 1, Rewriter: 1},
	}
}

// submission signs a submission; n tells one from another.
func (a *agent) submission(hash digest.Digest, input []byte, n int) (envelope []byte, id digest.Digest) {
	a.c.t.Helper()
	envelope, id, err := a.submissionBy(a.c.keyFile(a.name, "submission"), hash, input, n)
	if err != nil {
		a.c.t.Fatal(err)
	}
	return envelope, id
}

// submissionBy is submission with the key in a file.
func (a *agent) submissionBy(keyFile string, hash digest.Digest, input []byte, n int) (envelope []byte, id digest.Digest, err error) {
	v := &contract.Submission{
		Cluster: "dev", Contract: hash, Input: digest.Of(input), LastEpoch: 1000,
		Nonce:           []byte("nonce " + strconv.Itoa(1_000_000_000+n)),
		ProtocolVersion: contract.ProtocolVersion, Tenant: a.name,
	}
	key, err := loadKey(keyFile)
	if err != nil {
		return nil, id, err
	}
	envelope, _, err = contract.Sign(v, key)
	return envelope, v.ExecutionID(), err
}

func (a *agent) submit(envelope, input []byte) (*pb.SubmitExecutionRequestResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := a.Control.SubmitExecutionRequest(ctx, connect.NewRequest(&pb.SubmitExecutionRequestRequest{Submission: envelope, Input: input}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// complete waits until an execution is complete and its proof is ready.
func (a *agent) complete(id string) *pb.ExecutionStatus {
	a.c.t.Helper()
	var status *pb.ExecutionStatus
	a.c.eventually("execution "+id+" is complete", func() error {
		res, err := a.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id}))
		if err != nil {
			return err
		}
		status = res.Msg.Status
		if status.State != pb.ExecutionState_EXECUTION_STATE_COMPLETE || !status.ProofReady {
			return errors.New(status.State.String())
		}
		return nil
	})
	return status
}

// proof fetches a bundle into a file and has it verified.
func (a *agent) proof(id string) (file string, report map[string]any) {
	a.c.t.Helper()
	res, err := a.Control.RetrieveExecutionProof(context.Background(), connect.NewRequest(&pb.RetrieveExecutionProofRequest{ExecutionId: id}))
	if err != nil {
		a.c.t.Fatal(err)
	}
	file = filepath.Join(a.c.t.TempDir(), "proof.tallyproof")
	if err := os.WriteFile(file, res.Msg.Bundle, 0o600); err != nil {
		a.c.t.Fatal(err)
	}
	out, errText, code := a.c.try("verifier", append([]string{"proof", file, "--execution", id, "--json"}, a.c.trust()...)...)
	if code != 0 {
		a.c.t.Fatalf("verifier proof: exit %d\n%s%s", code, out, errText)
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		a.c.t.Fatalf("verifier proof --json: %v\n%s", err, out)
	}
	return file, report
}
