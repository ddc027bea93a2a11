//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// server is one of our programs that listens.
type server struct {
	url  string
	cmd  *exec.Cmd
	err  *lines
	done chan struct{} // closed when it has ended
}

// lines collects what a process says; the test may read while it runs.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serve starts a program that writes its address to --addr-file.
func serve(t *testing.T, name string, args ...string) *server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "addr")
	s := &server{err: &lines{}, done: make(chan struct{})}
	s.cmd = exec.Command(bin(t, name), append(args, "--listen", "127.0.0.1:0", "--addr-file", file)...)
	s.cmd.Stderr = s.err
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	t.Cleanup(func() { s.kill() })
	wait(t, name+" listens", func() error {
		select {
		case <-s.done:
			t.Fatalf("%s ended: %s", name, s.err)
		default:
		}
		data, err := os.ReadFile(file)
		if err == nil && len(data) == 0 {
			err = errors.New("no address yet")
		}
		s.url = "http://" + strings.TrimSpace(string(data))
		return err
	})
	return s
}

// kill ends the process without warning.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// wait polls until f succeeds.
func wait(t *testing.T, what string, f func() error) {
	t.Helper()
	(&cluster{t: t}).eventually(what, f)
}

// add posts an entry and returns the status and the answer.
func (s *server) add(entry string) (int, string, error) {
	res, err := http.Post(s.url+"/add", "application/octet-stream", strings.NewReader(entry))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	return res.StatusCode, strings.TrimSpace(string(body)), err
}

// newLog makes a log and returns its vkey.
func newLog(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command(bin(t, "logserver"), "init", "--dir", dir, "--origin", "example.com/e2e").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// entries reads the whole log from its bundles and checks it against the
// published checkpoint.
func (s *server) entries(t *testing.T) [][]byte {
	t.Helper()
	note, err := get(s.url + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := headOf(note)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for first := int64(0); first < tree.N; first += 256 {
		path := "/tile/entries/" + tilePath(first/256)
		if width := tree.N - first; width < 256 {
			path += fmt.Sprintf(".p/%d", width)
		}
		res, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, res.Status, err)
		}
		for len(data) >= 2 {
			n := 2 + int(data[0])<<8 + int(data[1])
			all = append(all, data[2:n])
			data = data[n:]
		}
	}
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i, entry := range all {
		hashes, err := tlog.StoredHashes(int64(i), entry, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
	}
	if root, err := tlog.TreeHash(tree.N, read); err != nil || root != tree.Hash {
		t.Errorf("the entries make root %v, the checkpoint says %v (%v)", root, tree.Hash, err)
	}
	return all
}

// headOf reads a checkpoint, whoever signed it.
func headOf(note []byte) (tlog.Tree, error) {
	body, _, _ := bytes.Cut(note, []byte("\n\n"))
	head, err := checkpoint.Parse(append(body, '\n'))
	return head.Tree(), err
}

// tilePath writes a tile's number as c2sp.org/tlog-tiles does.
func tilePath(n int64) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	return path
}

// holds checks that every acknowledged index is in the published history with
// the entry it was given to.
func (s *server) holds(t *testing.T, acks map[string]string) {
	t.Helper()
	wait(t, "everything is published", func() error {
		note, err := get(s.url + "/checkpoint")
		if err != nil {
			return err
		}
		tree, err := headOf(note)
		if err == nil && tree.N < int64(len(acks)) {
			err = fmt.Errorf("%d of %d", tree.N, len(acks))
		}
		return err
	})
	all := s.entries(t)
	for index, entry := range acks {
		i, err := strconv.Atoi(index)
		if err != nil || i >= len(all) || string(all[i]) != entry {
			t.Errorf("index %s was acknowledged for %.20q and does not hold it", index, entry)
		}
	}
}

// witnessed starts a witness for the log and returns its directory and the
// policy file under which it must cosign everything.
func witnessed(t *testing.T, vkey string) (dir, policy string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "witness")
	out, err := exec.Command(bin(t, "witness"), "init", "--dir", dir, "--name", "witness.example/e2e").Output()
	if err != nil {
		t.Fatal(err)
	}
	key, _, _ := strings.Cut(string(out), "\n") // the Ed25519 one
	logs := filepath.Join(t.TempDir(), "logs.policy")
	if err := os.WriteFile(logs, fmt.Appendf(nil, "log %s\nquorum none\n", vkey), 0o644); err != nil {
		t.Fatal(err)
	}
	w := serve(t, "witness", "serve", "--dir", dir, "--policy", logs)
	policy = filepath.Join(t.TempDir(), "policy")
	text := fmt.Appendf(nil, "log %s\nwitness w %s %s/ed25519\nquorum w\n", vkey, key, w.url)
	if err := os.WriteFile(policy, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, policy
}

// TestKillLogserver kills a log without warning, again and again, while entries
// come in. Every acknowledged index holds its entry afterwards, in one history,
// and the witness has never been shown another one.
func TestKillLogserver(t *testing.T) { killLoop(t, 5) }

func killLoop(t *testing.T, kills int) {
	const workers, between = 8, 150
	dir := filepath.Join(t.TempDir(), "log")
	vkey := newLog(t, dir)
	witness, policy := witnessed(t, vkey)
	var mu sync.Mutex
	acks := map[string]string{} // index → entry
	state := filepath.Join(t.TempDir(), "state")
	c := &cluster{t: t}
	for round := range kills {
		s := serve(t, "logserver", "serve", "--dir", dir, "--policy", policy)
		s.ready(t)
		if out, errText, code := c.try("verifier", "log", s.url, "--vkey", vkey, "--state", state); code != 0 {
			t.Fatalf("after %d kills: verifier log: exit %d\n%s%s", round, code, out, errText)
		}
		var wg sync.WaitGroup
		enough := make(chan struct{})
		count := 0
		for w := range workers {
			wg.Go(func() {
				for i := 0; ; i++ {
					entry := fmt.Sprintf("%d/%d/%d %s", round, w, i, strings.Repeat("x", i%700))
					status, index, err := s.add(entry)
					if err != nil {
						return // killed
					}
					if status != http.StatusOK {
						t.Errorf("adding: %d %s", status, index)
						return
					}
					mu.Lock()
					if other, taken := acks[index]; taken {
						t.Errorf("index %s was given to %.20q and to %.20q", index, other, entry)
					}
					acks[index] = entry
					if count++; count == between {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		s.kill()
		wg.Wait()
	}
	s := serve(t, "logserver", "serve", "--dir", dir, "--policy", policy)
	s.ready(t)
	s.holds(t, acks)
	if found, err := filepath.Glob(filepath.Join(witness, "*evidence*", "*")); err != nil || len(found) > 0 {
		t.Errorf("the witness has evidence against the log: %q, %v", found, err)
	}
	if out, errText, code := c.try("verifier", "log", s.url, "--vkey", vkey, "--state", state); code != 0 {
		t.Errorf("verifier log: exit %d\n%s%s", code, out, errText)
	}
}

// ready waits until the witnesses have confirmed the last signed head.
func (s *server) ready(t *testing.T) {
	t.Helper()
	wait(t, "the log is healthy", func() error {
		_, err := get(s.url + "/healthz")
		return err
	})
}

// smallDisk mounts a file system of its own, and returns where.
func smallDisk(t *testing.T, kind string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system wants root")
	}
	disk := t.TempDir()
	options := "size=128m"
	if kind == "few files" {
		options += ",nr_inodes=2000"
	}
	mount := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", disk)
	if kind == "ext4" {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 128<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", image).CombinedOutput(); err != nil {
			t.Skipf("no mkfs.ext4: %v %s", err, out)
		}
		mount = exec.Command("mount", "-o", "loop", image, disk)
	}
	if out, err := mount.CombinedOutput(); err != nil {
		t.Skipf("no small file system: %v %s", err, out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	return disk
}

// TestFilesRunOut takes every inode of a log's file system, with bytes left:
// appends are refused, reads go on, and the process does not end.
func TestFilesRunOut(t *testing.T) {
	disk := smallDisk(t, "few files")
	dir := filepath.Join(disk, "log")
	newLog(t, dir)
	s := serve(t, "logserver", "serve", "--dir", dir)
	acks := map[string]string{}
	status, answer, err := s.add("first")
	if err != nil || status != http.StatusOK {
		t.Fatalf("adding: %d %s %v\n%s", status, answer, err, s.err)
	}
	acks[answer] = "first"

	others := filepath.Join(disk, "others")
	if err := os.Mkdir(others, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(others, strconv.Itoa(i)), nil, 0o600); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		status, answer, err := s.add("refused")
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(answer, "disk is full") {
			t.Fatalf("without inodes: %d %s %v\n%s", status, answer, err, s.err)
		}
	}
	s.holds(t, acks)

	if err := os.RemoveAll(others); err != nil {
		t.Fatal(err)
	}
	wait(t, "appends resume", func() error {
		status, answer, err := s.add("last")
		if err == nil && status != http.StatusOK {
			err = errors.New(answer)
		}
		return err
	})
}

// fillDisk writes a file until the disk has no byte left.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// TestFullDisk fills the disk of a log, by its own entries and then with
// somebody else's file, on real file systems: the process never ends, nothing
// acknowledged is lost, reads go on, and appends resume by themselves.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) { fullDisk(t, smallDisk(t, kind)) })
	}
}

func fullDisk(t *testing.T, disk string) {
	spare := filepath.Join(disk, "room for later")
	if err := os.WriteFile(spare, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(disk, "log")
	newLog(t, dir)
	s := serve(t, "logserver", "serve", "--dir", dir)
	acks := map[string]string{}
	entry := func(i int) string { return fmt.Sprintf("%d %s", i, strings.Repeat("0123456789abcdef", 4000)) }

	// Its own entries, up to the reserve.
	refused := false
	for i := 0; !refused; i++ {
		status, answer, err := s.add(entry(i))
		switch {
		case err != nil:
			t.Fatalf("adding: %v\n%s", err, s.err)
		case status == http.StatusOK:
			acks[answer] = entry(i)
		case status == http.StatusServiceUnavailable:
			refused = strings.Contains(answer, "disk is full")
		default:
			t.Fatalf("adding: %d %s", status, answer)
		}
		if len(acks)*len(entry(0)) > 128<<20 {
			t.Fatal("the disk is smaller than what it took")
		}
	}
	s.holds(t, acks)

	// Somebody else, to the last byte, and entries all the while.
	greedy := filepath.Join(disk, "somebody else's")
	fillDisk(t, greedy)
	for i := range 20 {
		if status, answer, err := s.add(entry(i)); err != nil || status != http.StatusServiceUnavailable {
			t.Fatalf("on a full disk: %d %s %v\n%s", status, answer, err, s.err)
		}
	}
	if _, err := get(s.url + "/healthz"); err == nil {
		t.Error("a log with a full disk is healthy")
	}
	s.entries(t)

	// A race: room for the check, none for the write.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if os.Remove(greedy) == nil {
				fillDisk(t, greedy)
			}
		}
	})
	inTime := &http.Client{Timeout: 500 * time.Millisecond} // a caller may have to wait
	for i := range 60 {
		res, err := inTime.Post(s.url+"/add", "application/octet-stream", strings.NewReader(entry(i)))
		if err != nil {
			continue
		}
		answer, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode == http.StatusOK {
			acks[strings.TrimSpace(string(answer))] = entry(i)
		}
	}
	close(stop)
	wg.Wait()
	if err := os.Remove(greedy); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(spare); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.done:
		t.Fatalf("the process ended:\n%s", s.err)
	default:
	}
	wait(t, "appends resume", func() error {
		status, answer, err := s.add("after")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, answer)
		}
		if err == nil {
			acks[answer] = "after"
		}
		return err
	})
	s.holds(t, acks)
}
