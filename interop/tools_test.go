package interop

import (
	"context"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"testing"
)

// TestMain removes the programs that build has made.
func TestMain(m *testing.M) {
	status := m.Run()
	if tools.dir != "" {
		os.RemoveAll(tools.dir)
	}
	os.Exit(status)
}

// tools are other people's programs, built once from the versions in go.mod.
var tools struct {
	sync.Mutex
	dir   string
	built map[string]string
}

// build returns the path of a program, or of a package's test binary if the
// package has no program.
func build(t *testing.T, pkg string, flags ...string) string {
	t.Helper()
	tools.Lock()
	defer tools.Unlock()
	if bin, ok := tools.built[pkg]; ok {
		return bin
	}
	if tools.dir == "" {
		dir, err := os.MkdirTemp("", "interop-")
		if err != nil {
			t.Fatal(err)
		}
		tools.dir, tools.built = dir, map[string]string{}
	}
	bin := filepath.Join(tools.dir, path.Base(path.Dir(pkg))+"-"+path.Base(pkg))
	args := []string{"build"}
	if len(flags) > 0 {
		args = flags
	}
	if out, err := exec.Command("go", append(args, "-o", bin, pkg)...).CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	tools.built[pkg] = bin
	return bin
}

// run runs a program to its end, with a limit to its time, and returns what it
// said.
func run(t *testing.T, bin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return string(out), err
}
