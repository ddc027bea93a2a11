package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// syncDelay is by how much a sync is made slower to see who waits for it.
const syncDelay = 20 * time.Millisecond

// syncs shows that everybody syncs before answering: with strace it counts the
// calls for an append, and makes each slower, upon which an append must take
// at least that much longer.
func (b *bench) syncs(options string) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		fmt.Println("syncs     not shown: strace is not installed")
		return
	}
	for _, engine := range []string{engineLog, engineTessera, enginePebble} {
		line, err := b.syncsOf(strace, engine, options)
		if err != nil {
			line = "not shown: " + err.Error()
		}
		fmt.Printf("syncs     %-8s %s\n", engine, line)
	}
}

// syncsOf appends from one caller under strace, as it is and with slow syncs.
func (b *bench) syncsOf(strace, engine, options string) (string, error) {
	usual, _, err := b.traced(strace, engine, options, 0)
	if err != nil {
		return "", err
	}
	slow, trace, err := b.traced(strace, engine, options, syncDelay)
	if err != nil {
		return "", err
	}
	calls, files := countSyncs(trace)
	verdict := "it waits for them"
	if slow.P50-usual.P50 < syncDelay*9/10 {
		verdict = "IT DOES NOT WAIT FOR THEM"
	}
	n := float64(max(slow.Operations, 1))
	return fmt.Sprintf("%.1f syncs and %.1f files written with O_SYNC for a lone append; p50 %v, with each sync slowed by %v %v: %s",
		float64(calls)/n, float64(files)/n, usual.P50.Round(time.Microsecond), syncDelay, slow.P50.Round(time.Microsecond), verdict), nil
}

// traced appends from one caller under strace, which slows each sync, and
// returns what strace wrote.
func (b *bench) traced(strace, engine, options string, delay time.Duration) (report, string, error) {
	j := job{Role: roleLone, Engine: engine, Options: options, Shape: b.shape, Measure: 2 * time.Second, Dir: b.newDir("syncs-" + engine)}
	if engine == engineLog {
		if err := b.initLog(j.Dir); err != nil {
			return report{}, "", err
		}
	}
	cmd, err := roleCommand(b.ctx, j)
	if err != nil {
		return report{}, "", err
	}
	file := j.Dir + ".trace"
	args := []string{strace, "-f", "-qq", "-o", file, "-e", "trace=fsync,fdatasync,openat"}
	if delay > 0 {
		args = append(args, "-e", fmt.Sprintf("inject=fsync,fdatasync:delay_exit=%d", delay.Microseconds()))
	}
	cmd.Path, cmd.Args = strace, append(append(args, cmd.Path), cmd.Args[1:]...)
	r, err := runCommand(cmd, j)
	if err != nil {
		return r, "", err
	}
	text, err := os.ReadFile(file)
	return r, string(text), err
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
