//go:build !linux

package sandbox

import (
	"os"
	"os/exec"
	"runtime/debug"
)

// selfPath is empty where the binary has to be found by its name.
const selfPath = ""

func prepareChild(*exec.Cmd) {}

func killGroup(p *os.Process) { _ = p.Kill() }

// confineAndExec has nothing to do: confine is all there is here.
func confineAndExec(string, bool) error { return nil }

// confine sets what the Go runtime offers everywhere.
func confine(c workerConfig, _ role) Enforcement {
	if c.memoryBytes > 0 {
		debug.SetMemoryLimit(c.memoryBytes - c.memoryBytes/8)
	}
	return Enforcement{Process: len(os.Environ()) == 0, Note: "only a separate process on this system"}
}
