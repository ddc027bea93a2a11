package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// roleArgument makes the binary run a role instead of the benchmark.
const roleArgument = "role"

// job is what a role is asked for: the second argument of its process, in JSON.
type job struct {
	Role          string
	Engine        string // log, tessera or pebble
	Dir           string
	Options       string // for pebble: a store of ours whose options to take
	Shape         shape
	Callers       int
	Batch         int // entries of an append; 0 appends them singly
	Warm, Measure time.Duration
	Until         int64 // instead of Measure: the size to reach
	Settle        bool  // wait until the store has stopped changing its files
	// For load.
	Addr    string
	Kind    string
	Conns   int
	Rate    float64
	Watch   int // process id of the server
	Tiles   int
	KeyFile string // public key that proofs are under
	Proofs  int    // of inclusion: hot or random indexes
}

// report is what a role measured: one line of JSON on its standard output.
type report struct {
	Operations int64 // entries or requests in the measured time
	Total      int64 // entries before and after it, too
	Elapsed    time.Duration
	P50, P99   time.Duration
	Value      float64
	Missing    string
	CPU        cores
	// Scan is how long an opened log went through its deduplication keys, and
	// ScanOperations how many entries were appended meanwhile.
	Scan           time.Duration
	ScanOperations int64
}

func (r report) rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Operations) / r.Elapsed.Seconds()
}

// roleTimeout bounds any one role; filling the large log takes longest.
const roleTimeout = 10 * time.Minute

// role runs a role to its end and returns its report. Variables are added to
// its environment.
func (b *bench) role(j job, variables ...string) (report, error) {
	cmd, err := roleCommand(b.ctx, j, variables...)
	if err != nil {
		return report{}, err
	}
	return runCommand(cmd, j)
}

func roleCommand(ctx context.Context, j job, variables ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, roleArgument, string(text))
	cmd.Env = append(os.Environ(), variables...)
	// Nothing outlives the benchmark, however it ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

func runCommand(cmd *exec.Cmd, j job) (report, error) {
	timer := time.AfterFunc(roleTimeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return report{}, fmt.Errorf("role %s %s: %w: %s", j.Role, j.Engine, err, lastLine(stderr.Bytes()))
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		return report{}, fmt.Errorf("role %s %s: reading its report: %w", j.Role, j.Engine, err)
	}
	return r, nil
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// server is a process that serves HTTP on the loopback interface.
type server struct {
	addr    netip.AddrPort
	pid     int
	cmd     *exec.Cmd
	stdin   io.Closer
	dir     string // of our log
	started time.Time
}

// serveRole starts a role that serves, prints "listening ADDR" and ends when
// its standard input does.
func (b *bench) serveRole(j job) (*server, error) {
	cmd, err := roleCommand(b.ctx, j)
	if err != nil {
		return nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	s := &server{cmd: cmd, stdin: stdin, started: time.Now()}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.pid = cmd.Process.Pid
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		s.addr, err = netip.ParseAddrPort(strings.TrimSpace(strings.TrimPrefix(line, "listening ")))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", j.Role, err), s.kill())
	}
	return s, nil
}

// initLog creates a log with the logserver binary.
func (b *bench) initLog(dir string) error {
	out, err := exec.CommandContext(b.ctx, b.logserver, "init", "--dir", dir, "--origin", origin).CombinedOutput()
	if err != nil {
		return fmt.Errorf("logserver init: %w: %s", err, lastLine(out))
	}
	return nil
}

// serveLog starts the logserver binary and waits until it answers.
func (b *bench) serveLog(dir string) (*server, error) { return b.serveBinary(dir, b.logCommand(dir)) }

// logCommand says how to start the logserver binary on an address.
func (b *bench) logCommand(dir string) func(addr string) *exec.Cmd {
	return func(addr string) *exec.Cmd {
		return exec.CommandContext(b.ctx, b.logserver, "serve", "--dir", dir, "--listen", addr)
	}
}

// serveTessera starts Tessera's conformance server and waits until it answers.
func (b *bench) serveTessera(dir string) (*server, error) {
	command, err := b.tesseraCommand(dir)
	if err != nil {
		return nil, err
	}
	return b.serveBinary(dir, command)
}

// tesseraCommand says how to start Tessera's conformance server on an address.
func (b *bench) tesseraCommand(dir string) (func(addr string) *exec.Cmd, error) {
	key, err := tesseraKey(dir)
	return func(addr string) *exec.Cmd {
		return exec.CommandContext(b.ctx, b.tessera, "--storage_dir", dir, "--listen", addr, "--private_key", key)
	}, err
}

// serveBinary starts a server on a free port and waits until it has a
// checkpoint.
func (b *bench) serveBinary(dir string, command func(addr string) *exec.Cmd) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd := command(addr.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	logFile, err := os.Create(dir + ".stderr")
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd.Stderr = logFile
	s := &server{addr: addr, cmd: cmd, dir: dir, started: time.Now()}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.pid = cmd.Process.Pid
	if err := s.waitFor("/checkpoint", time.Minute); err != nil {
		text, _ := os.ReadFile(logFile.Name())
		return nil, errors.Join(fmt.Errorf("starting %s: %w: %s", filepath.Base(cmd.Path), err, lastLine(text)), s.kill())
	}
	return s, nil
}

// freeAddr returns an address on the loopback interface where nobody listens.
func freeAddr() (netip.AddrPort, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer ln.Close()
	return netip.ParseAddrPort(ln.Addr().String())
}

// stop lets a server end in its own way and waits for it.
func (s *server) stop() error {
	if s.stdin != nil {
		s.stdin.Close()
	} else if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.AfterFunc(time.Minute, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == -1 && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil // Tessera's server does not catch it
	}
	return err
}

// kill ends a server without warning.
func (s *server) kill() error {
	err := s.cmd.Process.Kill()
	_ = s.cmd.Wait() // says that it was killed
	return err
}
