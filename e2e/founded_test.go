//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/membership"
)

// founded is a cluster that was founded by the runbook, every machine a folder
// of its own: the control plane, three witnesses, three nodes, and the folder of
// the people. Nothing supervises the processes: the test starts and stops them.
type founded struct {
	*cluster
	base      string
	processes map[string]*process
	logs      membership.Logs
	vkeys     map[string]string // of the witnesses, by machine
	network   *network          // nil if all machines are in the test's own
}

// The members of a founded cluster. Two of three admins decide, two of three
// witnesses are the quorum.
var (
	foundedAdmins    = []string{"ada", "edsger", "grace"}
	foundedNodes     = []string{"node-1", "node-2", "node-3"}
	foundedWitnesses = []string{"w1", "w2", "w3"}
)

// process is a server on one of the machines.
type process struct {
	t         *testing.T
	binary    string
	args      []string
	addrFile  string // "" if it does not listen
	addr      string // where it listens, also when it is started again
	log       string
	namespace string // network namespace, "" for the test's own
	cmd       *exec.Cmd
	done      chan struct{}
}

func (f *founded) dirOf(machine string, parts ...string) string {
	return filepath.Join(append([]string{f.base, machine}, parts...)...)
}

// process says how a server of a machine is run; start runs it.
func (f *founded) process(machine, binary string, listens bool, args ...string) *process {
	p := &process{t: f.t, binary: binary, args: args, log: f.dirOf(machine, binary+".log")}
	if listens {
		p.addrFile = f.dirOf(machine, "addr")
		p.addr = "127.0.0.1:0"
	}
	if f.network != nil {
		p.namespace = f.network.control
		if binary == "witness" {
			p.namespace, p.addr = f.network.witnesses, f.network.address+":0"
			p.args = append(p.args, "--plain-http") // the cable is theirs alone
		}
	}
	f.processes[machine] = p
	return p
}

// start starts the server, and waits until it listens if it does.
func (p *process) start() {
	p.t.Helper()
	if err := p.launch(); err != nil {
		p.t.Fatal(err)
	}
	if p.addrFile == "" {
		return
	}
	c := &cluster{t: p.t}
	c.eventually(p.binary+" listens", func() error {
		select {
		case <-p.done:
			log, _ := os.ReadFile(p.log)
			p.t.Fatalf("%s ended:\n%s", p.binary, log)
		default:
		}
		data, err := os.ReadFile(p.addrFile)
		if err == nil && len(data) == 0 {
			err = errors.New("not written yet")
		}
		if err == nil {
			p.addr = strings.TrimSpace(string(data))
		}
		return err
	})
}

// launch starts the server and does not wait.
func (p *process) launch() error {
	args := slices.Clone(p.args)
	if p.addrFile != "" {
		if err := os.Remove(p.addrFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		args = append(args, "--listen", p.addr, "--addr-file", p.addrFile)
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	p.cmd = inNamespace(context.Background(), p.namespace, bin(p.t, p.binary), args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(p.cmd, p.done)
	return nil
}

// signal ends the server and waits for its end.
func (p *process) signal(s syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(s)
	<-p.done
}

func (p *process) stop() { p.signal(syscall.SIGTERM) }

// restart stops the server and starts it with other arguments, if any are given.
func (p *process) restart(args ...string) {
	p.t.Helper()
	p.stop()
	if args != nil {
		p.args = args
	}
	p.start()
}

// command runs one of our programs as somebody on a machine would.
func (f *founded) command(name string, args ...string) string {
	f.t.Helper()
	out, errText, code := f.try(name, args...)
	if code != 0 {
		f.t.Fatalf("%s %s: exit %d\n%s%s", name, strings.Join(args, " "), code, out, errText)
	}
	return out
}

// found follows docs/runbooks/found-a-cluster.md, step by step, and stops before
// nodes are started. control are more flags of the control plane.
func found(t *testing.T, control ...string) *founded {
	t.Helper()
	return foundIn(t, nil, control...)
}

// foundIn is found on a network of its own.
func foundIn(t *testing.T, n *network, control ...string) *founded {
	t.Helper()
	f := &founded{cluster: &cluster{t: t, out: &bytes.Buffer{}}, base: t.TempDir(), processes: map[string]*process{}, vkeys: map[string]string{}}
	f.dir = f.dirOf("people")
	if n != nil {
		f.network, f.namespace = n, n.control
	}
	t.Cleanup(func() {
		for _, p := range f.processes {
			p.stop()
		}
		for machine, p := range f.processes {
			if log, err := os.ReadFile(p.log); err == nil && t.Failed() {
				showTail(t, machine, log)
			}
		}
	})

	// 1. The control plane's logs.
	f.command("controlapi", "init", "--dir", f.dirOf("control"), "--cluster", "dev")
	logs, err := os.ReadFile(f.dirOf("control", "logs.json"))
	if err == nil {
		err = strictjson.Unmarshal(logs, &f.logs, 1<<16)
	}
	if err != nil {
		t.Fatal(err)
	}

	// 2. The witnesses.
	args := []string{"cluster", "init", "--dir", f.dir, "--cluster", "dev", "--logs", f.dirOf("control", "logs.json"),
		"--server", "http://127.0.0.1:1", "--tenant", "tenant", "--auditor", "auditor"}
	for _, w := range foundedWitnesses {
		f.addWitness(w)
		args = append(args, "--witness", w+"="+f.vkeys[w]+",http://"+f.processes[w].addr)
	}

	// 3. The cluster.
	for _, admin := range foundedAdmins {
		args = append(args, "--admin", admin)
	}
	for _, node := range foundedNodes {
		args = append(args, "--node", node)
	}
	f.command("tally", args...)
	for _, name := range []string{"genesis.json", "audit.policy", "membership.policy"} {
		f.copy(filepath.Join(f.dir, name), f.dirOf("control", name))
	}

	// 4. Serve.
	f.process("control", "controlapi", true, append([]string{"serve", "--dir", f.dirOf("control"), "--quotas", "development", "--min-interval", "50ms"}, control...)...).start()
	f.server = "http://" + f.processes["control"].addr
	for _, user := range append([]string{"tenant", "auditor"}, foundedAdmins...) {
		f.edit(filepath.Join(f.dir, user+".json"), "http://127.0.0.1:1", f.server)
	}
	return f
}

// addWitness makes the keys of a witness, gives it the logs' keys, and starts it.
func (f *founded) addWitness(machine string) {
	f.t.Helper()
	out := f.command("witness", "init", "--dir", f.dirOf(machine), "--name", machine+".example")
	f.vkeys[machine] = strings.Fields(out)[0]
	f.writeLogsPolicy(machine)
	f.process(machine, "witness", true, "serve", "--dir", f.dirOf(machine), "--policy", f.dirOf(machine, "logs.policy")).start()
}

// writeLogsPolicy tells a witness which keys the logs have.
func (f *founded) writeLogsPolicy(machine string) {
	f.t.Helper()
	text := ""
	for _, vkey := range slices.Concat(f.logs.Audit.Keys, f.logs.Membership.Keys) {
		text += "log " + vkey + "\n"
	}
	f.write(f.dirOf(machine, "logs.policy"), text+"quorum none\n")
}

// startNodes gives each node what is its own and starts it, with more flags.
func (f *founded) startNodes(flags ...string) {
	f.t.Helper()
	for _, id := range foundedNodes {
		if err := os.MkdirAll(f.dirOf(id, "keys"), 0o700); err != nil {
			f.t.Fatal(err)
		}
		for _, name := range []string{"genesis.json", "audit.policy", "membership.policy"} {
			f.copy(filepath.Join(f.dir, name), f.dirOf(id, name))
		}
		for _, use := range []string{"attestation", "token"} {
			f.copy(filepath.Join(f.dir, "keys", id+"-"+use+".pem"), f.dirOf(id, "keys", use+".pem"))
		}
		args := append([]string{"serve", "--dir", f.dirOf(id), "--server", f.server, "--id", id,
			"--genesis", f.dirOf(id, "genesis.json"), "--policy", f.dirOf(id, "audit.policy"),
			"--membership-policy", f.dirOf(id, "membership.policy")}, flags...)
		f.process(id, "node", false, args...).start()
	}
	f.awaitNodes(len(foundedNodes))
}

// awaitNodes waits until the control plane has the streams of n nodes.
func (f *founded) awaitNodes(n int) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%d nodes are connected", n), func() error {
		out, errText, code := f.try("tally", "--profile", filepath.Join(f.dir, "auditor.json"), "--json", "nodes")
		if code != 0 {
			return errors.New(errText)
		}
		var list struct {
			Nodes []struct{ Connected bool }
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return err
		}
		connected := 0
		for _, node := range list.Nodes {
			if node.Connected {
				connected++
			}
		}
		if connected != n {
			return fmt.Errorf("%d are", connected)
		}
		return nil
	})
}

// change proposes a change as ada, has it signed by two admins and by the holders
// of the new keys, and applies it.
func (f *founded) change(newKeys []string, effect ...string) {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "change.json")
	f.tally("ada", append(append([]string{"member", "propose"}, effect...), "-o", file)...)
	f.tally("ada", "member", "sign", file, "--yes")
	f.tally("grace", "member", "sign", file, "--yes")
	for _, key := range newKeys {
		f.tally("ada", "member", "sign", file, "--yes", "--key", key)
	}
	f.tally("ada", "member", "apply", file)
}

// rotate replaces the key that a principal has for one use. The people's folder
// has the new one afterwards; what it had is returned.
func (f *founded) rotate(id, use string) (old string) {
	f.t.Helper()
	current := f.keyFile(id, use)
	next := filepath.Join(f.t.TempDir(), "next.pem")
	newKey(f.t, next)
	key := f.key(id, use)
	f.change([]string{next}, "rotate-key", id, "--add", use+"="+next, "--remove", dsse.KeyID(publicOf(key)))
	old = current + ".old"
	if err := errors.Join(os.Rename(current, old), os.Rename(next, current)); err != nil {
		f.t.Fatal(err)
	}
	return old
}

// health is what the control plane says of itself: "" if it is well.
func (f *founded) health() (string, error) {
	res, err := (&http.Client{Transport: transportIn(f.namespace)}).Get(f.server + "/healthz")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	if res.StatusCode == http.StatusOK {
		return "", err
	}
	return b.String(), err
}

func (f *founded) awaitHealthy() {
	f.t.Helper()
	f.eventually("the control plane is healthy", func() error {
		reason, err := f.health()
		if err == nil && reason != "" {
			err = errors.New(reason)
		}
		return err
	})
}

func (f *founded) copy(from, to string) {
	f.t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *founded) write(path, text string) {
	f.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// edit replaces a part of a file that is there.
func (f *founded) edit(path, old, new string) {
	f.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		f.t.Fatalf("%s has no %q:\n%s", path, old, data)
	}
	f.write(path, strings.ReplaceAll(string(data), old, new))
}

func publicOf(key crypto.Signer) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }
