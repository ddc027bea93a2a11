//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// network is two network namespaces of the kernel, joined by a cable that can be
// pulled: the control plane, the nodes and the people are in one, the witnesses
// in the other.
type network struct {
	t                  *testing.T
	control, witnesses string // names of the namespaces
	address            string // of the witnesses
}

// newNetwork makes a network, or skips the test where that is not allowed.
func newNetwork(t *testing.T) *network {
	t.Helper()
	id := os.Getpid()
	n := &network{t: t, control: fmt.Sprintf("tallystick-c-%d", id), witnesses: fmt.Sprintf("tallystick-w-%d", id), address: "10.98.76.2"}
	if out, err := exec.Command("ip", "netns", "add", n.control).CombinedOutput(); err != nil {
		t.Skipf("network namespaces cannot be made here, it takes root and iproute2: %v: %s", err, out)
	}
	t.Cleanup(func() {
		for _, name := range []string{n.control, n.witnesses} {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	})
	for _, args := range [][]string{
		{"netns", "add", n.witnesses},
		{"-n", n.control, "link", "set", "lo", "up"},
		{"-n", n.witnesses, "link", "set", "lo", "up"},
		{"-n", n.control, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", n.witnesses},
		{"-n", n.control, "addr", "add", "10.98.76.1/30", "dev", "cable"},
		{"-n", n.witnesses, "addr", "add", n.address + "/30", "dev", "cable"},
		{"-n", n.control, "link", "set", "cable", "up"},
		{"-n", n.witnesses, "link", "set", "cable", "up"},
	} {
		n.ip(args...)
	}
	return n
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// cut pulls the cable, mend puts it back.
func (n *network) cut()  { n.ip("-n", n.witnesses, "link", "set", "cable", "down") }
func (n *network) mend() { n.ip("-n", n.witnesses, "link", "set", "cable", "up") }

// inNamespace is a command in a network namespace, "" for the test's own.
func inNamespace(ctx context.Context, namespace, name string, args ...string) *exec.Cmd {
	if namespace != "" {
		name, args = "ip", append([]string{"netns", "exec", namespace, name}, args...)
	}
	return exec.CommandContext(ctx, name, args...)
}

// transportIn connects from a network namespace; nil for the test's own.
func transportIn(namespace string) http.RoundTripper {
	if namespace == "" {
		return nil
	}
	return &http.Transport{DialContext: func(ctx context.Context, kind, address string) (net.Conn, error) {
		// A socket belongs to the namespace of the thread that makes it.
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return nil, err
		}
		defer home.Close()
		there, err := os.Open("/run/netns/" + namespace)
		if err != nil {
			return nil, err
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, kind, address)
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, err // the thread stays locked, and ends with the goroutine
		}
		runtime.UnlockOSThread()
		return conn, err
	}}
}
