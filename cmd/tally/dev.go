package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// The cluster that `tally dev` makes. One admin with threshold 1 is lawful for
// development, and shown as such.
const (
	devCluster   = "dev"
	devWitnesses = 3
	devQuorum    = 2 // of the witnesses
	devLawful    = "lawful-1"
)

var devFounding = founding{
	cluster:    devCluster,
	admins:     []string{"admin"},
	nodes:      []string{"node-1", "node-2", "node-3"},
	tenants:    []string{"tenant"},
	auditors:   []string{"auditor"},
	threshold:  1,
	nodeQuorum: 2,
}

func devCommand(a *app) *cobra.Command {
	var dir, listen, ready string
	var deadline time.Duration
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine",
		Long: `Run a control plane with its two logs, three witnesses, a cosigner of lawful
membership and three nodes, each a process of its own, until interrupted. The
folder keeps everything: keys, profiles, policies, genesis and logs; started
again on the same folder, the same cluster goes on. It is for development: one
admin governs alone, all keys lie in one place, and contracts may run unmetered.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch loopback, err := wiring.CheckAddress(listen); {
			case err != nil:
				return wiring.Usage(cmd, fmt.Errorf("--listen: %w", err))
			case !loopback:
				return wiring.Usage(cmd, fmt.Errorf("--listen %q: this cluster is served without TLS, so at a loopback address only, such as 127.0.0.1:8420", listen))
			}
			d := &devRun{dir: dir, listen: listen, deadline: deadline, out: cmd.OutOrStdout(), bar: newProgress()}
			return d.run(cmd.Context(), ready)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "tally-dev", "folder of the cluster")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8420", "address of the control plane and its page; port 0 takes any")
	cmd.Flags().StringVar(&ready, "ready-file", "", "write the page's address to this file when everything runs")
	cmd.Flags().DurationVar(&deadline, "attempt-deadline", time.Minute, "how long nodes may stay away before others are asked")
	return cmd
}

// devRun is one running development cluster. It owns its children: what
// start adds to the list, stop ends in reverse order.
type devRun struct {
	dir, listen string
	deadline    time.Duration
	out         io.Writer
	bar         *progress

	children []*child
	unlock   func() // nil before the folder is locked
}

func (d *devRun) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

// run starts everything, says what to do next, and waits for the end.
func (d *devRun) run(ctx context.Context, ready string) (err error) {
	defer d.stop()
	server, err := d.start(ctx)
	d.bar.done()
	if err != nil {
		return interrupted(ctx, err)
	}
	page := server + "/"
	d.welcome(server)
	if ready != "" {
		if err := writeFile(ready, []byte(page+"\n")); err != nil {
			return err
		}
		defer os.Remove(ready)
	}
	return d.wait(ctx)
}

// start brings up the processes in the order in which they need each other:
// the control plane's log keys, the witnesses that know them, the policies that
// name the witnesses, the genesis, the control plane, the nodes.
func (d *devRun) start(ctx context.Context) (server string, err error) {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return "", err
	}
	if d.unlock, err = lockFolder(d.path("lock")); err != nil {
		return "", withHint(fmt.Errorf("%q: %w", d.dir, err), "use the cluster that runs, stop it first, or name another folder with --dir")
	}
	control := d.path("control")
	if _, err := os.Stat(filepath.Join(control, "logs.json")); errors.Is(err, fs.ErrNotExist) {
		d.bar.show("making the logs and their keys")
		if _, err := run(ctx, "controlapi", "init", "--dir", control, "--cluster", devCluster); err != nil {
			return "", err
		}
	}
	f := devFounding
	f.limits = contract.DefaultClusterLimits()
	if f.logs, err = readLogs(filepath.Join(control, "logs.json")); err != nil {
		return "", err
	}
	if _, err := os.Stat(d.path(genesisName)); errors.Is(err, fs.ErrNotExist) {
		d.bar.show("making keys and the genesis")
		if err := found(d.dir, f); err != nil {
			return "", err
		}
	}
	witnesses, err := d.startWitnesses(ctx, f)
	if err != nil {
		return "", err
	}
	listen, release, err := fixedAddress(d.listen)
	if err != nil {
		return "", err
	}
	defer release()
	lawful, err := d.startLawful(ctx, f, "http://"+listen+"/membership")
	if err != nil {
		return "", err
	}
	if err := policies(d.dir, f.logs, cosigners{witnesses: witnesses, quorum: devQuorum, lawful: []checkpoint.Witness{lawful}}); err != nil {
		return "", err
	}
	for _, name := range []string{genesisName, auditPolicyName, membershipPolicyName} {
		data, err := os.ReadFile(d.path(name))
		if err != nil {
			return "", err
		}
		if err := writeFile(filepath.Join(control, name), data); err != nil {
			return "", err
		}
	}
	d.bar.show("starting the control plane")
	addr, err := d.serve(ctx, "controlapi", "controlapi", "serve", "--dir", control, "--listen", listen,
		"--attempt-deadline", d.deadline.String(), "--quotas", "development")
	if err != nil {
		return "", err
	}
	server = "http://" + addr
	if err := profiles(d.dir, server, f); err != nil {
		return "", err
	}
	return server, d.startNodes(ctx, server, f)
}

// fixedAddress returns an address with a port that is known before anybody
// listens there: the cosigner of lawful membership is told where the log will
// be, and the log's policy where the cosigner is. Release is called when the
// listener is there.
func fixedAddress(listen string) (addr string, release func(), err error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port != "0" {
		return listen, func() {}, nil // the control plane says what is wrong with it
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", nil, fmt.Errorf("port 0 takes an IP address beside it, not %q", host)
	}
	return reserve(ip)
}

// startWitnesses starts the witnesses and returns what the policies say of
// them: their Ed25519 keys and where they answer now.
func (d *devRun) startWitnesses(ctx context.Context, f founding) ([]checkpoint.Witness, error) {
	policy := d.path("witness-logs.policy")
	if err := writeLogs(policy, f.logs.Audit, f.logs.Membership); err != nil {
		return nil, err
	}
	var list []checkpoint.Witness
	for i := 1; i <= devWitnesses; i++ {
		w, err := d.startWitness(ctx, fmt.Sprintf("witness-%d", i), "--policy", policy)
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

// startLawful starts the cosigner of lawful membership.
func (d *devRun) startLawful(ctx context.Context, f founding, log string) (checkpoint.Witness, error) {
	policy := d.path("lawful-log.policy")
	if err := writeLogs(policy, f.logs.Membership); err != nil {
		return checkpoint.Witness{}, err
	}
	return d.startWitness(ctx, devLawful, "--policy", policy, "--lawful-genesis", d.path(genesisName), "--lawful-log", log)
}

// writeLogs writes what a witness has to know of logs.
func writeLogs(path string, logs ...membership.Log) error {
	var keys []checkpoint.LogKey
	for _, log := range logs {
		keys = append(keys, checkpoint.LogKey{Vkey: log.Keys[0], Origin: log.Origin})
	}
	text, err := checkpoint.FormatPolicy(keys, nil, 0)
	if err != nil {
		return err
	}
	return writeFile(path, text)
}

// startWitness makes a witness, if it is not there, and starts it. Only its
// Ed25519 cosignature is asked for: it is the quicker one.
func (d *devRun) startWitness(ctx context.Context, name string, args ...string) (checkpoint.Witness, error) {
	d.bar.show("starting " + name)
	vkeys := d.path(name, "vkeys")
	if _, err := os.Stat(vkeys); errors.Is(err, fs.ErrNotExist) {
		if _, err := run(ctx, "witness", "init", "--dir", d.path(name), "--name", devCluster+"."+name); err != nil {
			return checkpoint.Witness{}, err
		}
	}
	data, err := os.ReadFile(vkeys)
	if err != nil {
		return checkpoint.Witness{}, err
	}
	key, err := ed25519Vkey(string(data))
	if err != nil {
		return checkpoint.Witness{}, fmt.Errorf("%q: %w", vkeys, err)
	}
	addr, err := d.serve(ctx, name, "witness", append([]string{"serve", "--dir", d.path(name), "--listen", "127.0.0.1:0"}, args...)...)
	if err != nil {
		return checkpoint.Witness{}, err
	}
	return checkpoint.Witness{Name: name, Vkey: key.Vkey(), Key: key, URL: "http://" + addr + "/ed25519"}, nil
}

// ed25519Vkey picks the Ed25519 cosigner key from what `witness init` printed.
func ed25519Vkey(text string) (*checkpoint.Key, error) {
	for _, line := range strings.Fields(text) {
		key, err := checkpoint.ParseCosignerVkey(line)
		if err != nil {
			return nil, err
		}
		if key.Alg() == checkpoint.AlgEd25519Cosignature {
			return key, nil
		}
	}
	return nil, errors.New("no Ed25519 cosigner key")
}

// startNodes starts the nodes and waits until the control plane has their
// streams.
func (d *devRun) startNodes(ctx context.Context, server string, f founding) error {
	for _, id := range f.nodes {
		d.bar.show("starting " + id)
		c := d.child(id, "node", "serve",
			"--dir", d.path(id), "--server", server, "--id", id, "--genesis", d.path(genesisName),
			"--policy", d.path(auditPolicyName), "--membership-policy", d.path(membershipPolicyName),
			"--attestation-key", d.path(keyPath(id, "attestation")), "--token-key", d.path(keyPath(id, "token")))
		c.listened = true // it does not tell where
		if err := d.launch(c); err != nil {
			return err
		}
	}
	d.bar.show("waiting for the nodes")
	a := &app{profilePath: d.path(f.auditors[0] + ".json")}
	_, cl, err := a.client()
	if err != nil {
		return err
	}
	timeout := time.After(startTimeout)
	for {
		res, err := cl.Control.ListClusterNodes(ctx, connect.NewRequest(&pb.ListClusterNodesRequest{}))
		if err == nil && allConnected(res.Msg.Nodes) {
			return nil
		}
		select {
		case <-time.After(10 * startPoll):
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return withHint(errors.Join(errors.New("the nodes did not connect"), err), "their logs are in "+d.path("logs"))
		}
		for _, c := range d.children {
			select {
			case <-c.exited:
				return c.died()
			default:
			}
		}
	}
}

func allConnected(nodes []*pb.ClusterNode) bool {
	for _, n := range nodes {
		if !n.Connected {
			return false
		}
	}
	return len(nodes) > 0
}

// serve starts a server and returns the address it listens on. Should it be
// started again, it listens there again.
func (d *devRun) serve(ctx context.Context, name, binary string, args ...string) (string, error) {
	addrFile := d.path("run", name+".addr")
	if err := os.MkdirAll(filepath.Dir(addrFile), 0o755); err != nil {
		return "", err
	}
	if err := os.Remove(addrFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	c := d.child(name, binary, append(args, "--addr-file", addrFile)...)
	if err := d.launch(c); err != nil {
		return "", err
	}
	addr, err := c.address(ctx, addrFile)
	if err != nil {
		return "", err
	}
	c.listenAt(addr)
	return addr, nil
}

func (d *devRun) child(name, binary string, args ...string) *child {
	return &child{
		name: name, binary: binary, args: args,
		log: d.path("logs", name+".log"), pidFile: d.path("run", name+".pid"),
		notify: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "tally: "+format+"\n", args...) },
	}
}

func (d *devRun) launch(c *child) error {
	if err := c.start(); err != nil {
		return err
	}
	d.children = append(d.children, c)
	return nil
}

// wait returns when the user ends the cluster or a part of it dies.
func (d *devRun) wait(ctx context.Context) error {
	died := make(chan *child, len(d.children))
	for _, c := range d.children {
		go func() {
			<-c.exited
			died <- c
		}()
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(d.out, "\nstopping; start it again with the same --dir to go on")
		return nil
	case c := <-died:
		return c.died()
	}
}

// stop ends the children, last started first.
func (d *devRun) stop() {
	for i := len(d.children) - 1; i >= 0; i-- {
		d.children[i].stop()
	}
	if d.unlock != nil {
		d.unlock()
	}
}

// interrupted turns an error that the user's own interruption caused into it.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// welcome says what to do next.
func (d *devRun) welcome(server string) {
	abs, err := filepath.Abs(d.dir)
	if err != nil {
		abs = d.dir
	}
	fmt.Fprintf(d.out, `cluster %q is running
  page             %s/
  control API      %s
  public logs      %s/audit/  %s/membership/
  profiles         %s/{tenant,admin,auditor}.json
  trust            %s/{genesis.json,audit.policy,membership.policy}
  logs of the processes in %s/logs

one admin governs this cluster alone: it is for development

next, in another terminal:
  export TALLY_PROFILE=%s/tenant.json
  tally root
  tally contract new hello --module YOUR.wasm && tally contract sign hello.json && tally contract register hello.dsse --module YOUR.wasm
  tally submit --contract hello.dsse --input FILE --wait
  tally proof EXECUTION
the page wants a token: open %s/#token=$(tally token)

Ctrl-C stops it
`, devCluster, server, server, server, server, abs, abs, abs, abs, server)
}
