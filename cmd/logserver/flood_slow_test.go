//go:build slow && unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFloodOfConnections: with few files to open, more connections than that do not
// keep the log from writing what it must, and clients that it has are served.
func TestFloodOfConnections(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if out, err := exec.Command("logserver", "init", "--dir", dir, "--origin", "example.com/flood").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Both limits: the runtime raises the soft one to the hard one.
	cmd := exec.Command("sh", "-c", `ulimit -n 300 && exec logserver serve --dir "$0" --listen 127.0.0.1:0`, dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines, addr := bufio.NewScanner(stderr), ""
	for addr == "" && lines.Scan() {
		addr, _ = strings.CutPrefix(lines.Text(), "listening addr=")
	}
	go io.Copy(io.Discard, stderr)

	client := &http.Client{Timeout: 30 * time.Second}
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(answer)
	}
	const floods, each = 5, 100
	for flood := range floods {
		for i := range each {
			entry := flood*each + i
			if status, answer := ask("POST", "/add", fmt.Sprint("entry ", entry)); status != 200 || answer != fmt.Sprint(entry) {
				t.Fatalf("entry %d: %d %s", entry, status, answer)
			}
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, "POST /add HTTP/1.1\r\nHost: x\r\nContent-") // refused, or half of a request
		}
		if status, answer := ask("GET", "/healthz", ""); status != 200 {
			t.Fatalf("after %d connections: %d %s", (flood+1)*each, status, answer)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("logserver", "fsck", "--dir", dir).CombinedOutput(); err != nil || !strings.Contains(string(out), fmt.Sprint(floods*each, " entries")) {
		t.Errorf("%v: %s", err, out)
	}
}
