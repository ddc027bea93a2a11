package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// By how much a sync is made slower to see who waits for it: much more than what
// an append takes else differs by. That of Tessera's server takes a second, in which
// it waits for others.
const (
	engineDelay = 20 * time.Millisecond
	serverDelay = 100 * time.Millisecond
)

// Sides whose syncs are shown: the engines in process, and the two servers.
const (
	logServer     = "log server"
	tesseraServer = "Tessera's server"
)

var (
	inProcess = []string{engineLog, engineTessera, enginePebble}
	overHTTP  = []string{logServer, tesseraServer}
)

// synced are the sides that append for a row that is wanted.
func (b *bench) synced() []string {
	var sides []string
	for _, g := range groups {
		if !slices.ContainsFunc(g.rows, b.wants) {
			continue
		}
		for _, side := range g.appends {
			if !slices.Contains(sides, side) {
				sides = append(sides, side)
			}
		}
	}
	return sides
}

// syncs shows that everybody syncs before answering: with strace it counts the
// calls for an append, and makes each slower, upon which an append must take
// at least that much longer.
func (b *bench) syncs() {
	sides := b.synced()
	if len(sides) == 0 {
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		fmt.Println("syncs     NOT SHOWN: strace is not installed")
		return
	}
	options, err := b.storeOptions()
	for _, side := range sides {
		line := ""
		if err == nil {
			line, err = b.syncsOf(&tracer{b, strace, side, options})
		}
		if err != nil {
			line, err = "NOT SHOWN: "+err.Error(), nil
		}
		fmt.Printf("syncs     %-16s %s\n", side, line)
	}
}

// tracer has one side append under strace.
type tracer struct {
	*bench
	strace, side string
	options      string // a store of ours whose options raw Pebble takes
}

// syncsOf appends from one caller under strace, as it is and with slow syncs.
func (b *bench) syncsOf(t *tracer) (string, error) {
	traced, delay := t.engine, engineDelay
	if slices.Contains(overHTTP, t.side) {
		traced, delay = t.server, serverDelay
	}
	usual, _, err := traced(0)
	if err != nil {
		return "", err
	}
	slow, trace, err := traced(delay)
	if err != nil {
		return "", err
	}
	if usual.Operations == 0 || slow.Operations == 0 {
		return "", fmt.Errorf("nothing was answered in %v", t.window())
	}
	calls, files := countSyncs(trace)
	verdict := "it waits for them"
	if slow.P50-usual.P50 < delay*9/10 {
		verdict = "IT DOES NOT WAIT FOR THEM"
	}
	n := float64(slow.Operations)
	return fmt.Sprintf("%.1f syncs and %.1f files written with O_SYNC for a lone append; p50 %v, with each sync slowed by %v %v: %s",
		float64(calls)/n, float64(files)/n, usual.P50.Round(time.Microsecond), delay, slow.P50.Round(time.Microsecond), verdict), nil
}

// window is how long appends are traced.
func (t *tracer) window() time.Duration {
	if slices.Contains(overHTTP, t.side) {
		return 5 * time.Second
	}
	return 2 * time.Second
}

// command puts strace before a command. It slows each sync and writes to a file.
func (t *tracer) command(cmd *exec.Cmd, file string, delay time.Duration, flags ...string) {
	args := append([]string{t.strace, "-f", "-o", file, "-e", "trace=fsync,fdatasync,openat"}, flags...)
	if delay > 0 {
		args = append(args, "-e", fmt.Sprintf("inject=fsync,fdatasync:delay_exit=%d", delay.Microseconds()))
	}
	cmd.Path, cmd.Args = t.strace, append(append(args, cmd.Path), cmd.Args[1:]...)
}

// engine has an engine append from one caller, and returns what strace wrote.
func (t *tracer) engine(delay time.Duration) (report, string, error) {
	j := job{Role: roleLone, Engine: t.side, Options: t.options, Shape: t.shape, Measure: t.window(), Dir: t.newDir("syncs-" + t.side)}
	if t.side == engineLog {
		if err := t.initLog(j.Dir); err != nil {
			return report{}, "", err
		}
	}
	cmd, err := roleCommand(t.ctx, j)
	if err != nil {
		return report{}, "", err
	}
	file := j.Dir + ".trace"
	t.command(cmd, file, delay, "-qq")
	r, err := runCommand(cmd, j)
	if err != nil {
		return r, "", err
	}
	text, err := os.ReadFile(file)
	return r, string(text), err
}

// server has a server take entries over one connection, and returns what strace
// wrote, the start of the server included.
func (t *tracer) server(delay time.Duration) (r report, trace string, err error) {
	dir := t.newDir("syncs")
	command := t.logCommand(dir)
	if t.side == logServer {
		err = t.initLog(dir)
	} else {
		command, err = t.tesseraCommand(dir)
	}
	if err != nil {
		return r, "", err
	}
	file := dir + ".trace"
	s, err := t.serveBinary(dir, func(addr string) *exec.Cmd {
		cmd := command(addr)
		// The tracer is no parent: the process that is started is the server.
		t.command(cmd, file, delay, "-D", "-q")
		return cmd
	})
	if err != nil {
		return r, "", err
	}
	r, err = t.loadOn(s, job{Kind: kindAdd, Conns: 1, Measure: t.window()})
	if err := errors.Join(err, s.stop()); err != nil {
		return r, "", err
	}
	trace, err = ended(file, s.pid)
	return r, trace, err
}

// ended waits until strace has written that a process has ended, which is after
// its end, and returns all that it wrote.
func ended(file string, pid int) (string, error) {
	const every, most = 10 * time.Millisecond, 10 * time.Second
	for waited := time.Duration(0); waited < most; waited += every {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(text)) {
			if first, rest, _ := strings.Cut(line, " "); first == fmt.Sprint(pid) && strings.HasPrefix(strings.TrimSpace(rest), "+++ ") {
				return string(text), nil
			}
		}
		time.Sleep(every)
	}
	return "", fmt.Errorf("strace did not write in %v that process %d has ended: %q", most, pid, filepath.Base(file))
}

// countSyncs counts, in what strace wrote, the syncs and the files that were
// opened to be synced by each write.
func countSyncs(trace string) (calls, files int) {
	for line := range strings.Lines(trace) {
		switch {
		case strings.Contains(line, "resumed>"): // the second half of a call
		case strings.Contains(line, "sync("):
			calls++
		case strings.Contains(line, "O_SYNC"), strings.Contains(line, "O_DSYNC"):
			files++
		}
	}
	return calls, files
}
