//go:build unix

package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func init() {
	// A process with a pool, which says where that works.
	badWorkers["pool with a directory"] = func() {
		p, err := NewPool(PoolConfig{Workers: 1})
		if err != nil {
			os.Exit(1)
		}
		fmt.Println(p.dir.path)
		forever()
	}
}

// TestKilledPoolIsRemoved kills a process with a pool: its directory stays as
// long as nobody makes another pool, and no longer.
func TestKilledPoolIsRemoved(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process := &exec.Cmd{Path: exe, Args: []string{badWorkerName + "pool with a directory"}}
	out, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	dir := strings.TrimSpace(line)
	if err != nil || filepath.Dir(dir) != temp {
		t.Fatalf("its directory is %q, %v", dir, err)
	}
	lives := testPool(t, PoolConfig{})
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the directory of a pool that lives: %v", err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	process.Wait()
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("a killed process removed its directory: %v", err)
	}
	testPool(t, PoolConfig{})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of a killed process: %v", err)
	}
	if r, err := lives.Run(t.Context(), exitsWith("a", 3)); err != nil || r.Outcome.ExitCode != 3 {
		t.Errorf("the pool that lives: %+v, %v", r, err)
	}
}

// TestOnlyPoolsAreRemoved puts other things beside the directories of pools,
// under their names and others.
func TestOnlyPoolsAreRemoved(t *testing.T) {
	parent, elsewhere := t.TempDir(), t.TempDir()
	make := func(path ...string) {
		t.Helper()
		file := filepath.Join(path...)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	make(elsewhere, "file")
	make(parent, poolPrefix+"file")
	make(parent, "other", "file")
	make(parent, newPoolPrefix+"1", "file") // that another process is about to lock
	make(parent, poolPrefix+"1", "2", "native")
	if err := os.Symlink(elsewhere, filepath.Join(parent, poolPrefix+"link")); err != nil {
		t.Fatal(err)
	}
	one, err := makePoolDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	two, err := makePoolDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []poolDir{one, two} {
		if info, err := os.Stat(d.path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info, err)
		}
	}
	var got []string
	entries, err := os.ReadDir(parent)
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	want := []string{newPoolPrefix + "1", "other", filepath.Base(one.path), filepath.Base(two.path), poolPrefix + "file", poolPrefix + "link"}
	slices.Sort(want)
	if !slices.Equal(got, want) || err != nil {
		t.Errorf("there are %q, want %q; %v", got, want, err)
	}
	if _, err := os.Stat(filepath.Join(elsewhere, "file")); err != nil {
		t.Errorf("behind a link: %v", err)
	}
	for _, d := range []poolDir{one, two} {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := makePoolDir(filepath.Join(parent, "missing")); err == nil {
		t.Error("made in a directory that is missing")
	}
}
