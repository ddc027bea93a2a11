package witness

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// benchServer, in the environment, makes the test binary a witness that serves
// from the directory it names until its standard input ends.
const benchServer = "TALLYSTICK_WITNESS_BENCH"

func TestMain(m *testing.M) {
	if dir := os.Getenv(benchServer); dir != "" {
		if err := serveBench(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveBench is the server: what cmd/witness does, with its log going to a file.
func serveBench(dir string) error {
	policy, err := checkpoint.ParsePolicy(must(os.ReadFile(filepath.Join(dir, "policy"))))
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(log, nil))
	w, err := Open(Config{Dir: dir, Keys: testKeys(), Policy: policy, Logger: logger})
	if err != nil {
		return err
	}
	defer w.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return Server{Handler: w.Handler(), Logger: logger}.Serve(ctx, ln)
}

// benchLogs are many logs over one tree, so that a proof is made once.
type benchLogs struct {
	signers []note.Signer
	tree    *testLog
	proofs  map[int64][]tlog.Hash // from a size to the next
}

// firstSize is the size that every log begins with: its proofs are as long as
// those of a log of some size.
const firstSize = 60_000

func newBenchLogs(logs, steps int) (*benchLogs, []byte) {
	b := &benchLogs{tree: newTestLog("tree", "entry", firstSize+int64(steps)), proofs: map[int64][]tlog.Hash{}}
	var policy strings.Builder
	for i := range logs {
		origin := fmt.Sprintf("example.com/log/%d", i)
		key := edKey(origin)
		b.signers = append(b.signers, must(checkpoint.NewSigner(origin, key)))
		fmt.Fprintf(&policy, "log %s\n", must(checkpoint.Vkey(origin, key.Public().(ed25519.PublicKey))))
	}
	policy.WriteString("quorum none\n")
	return b, []byte(policy.String())
}

// request is the step-th request of a log, as bytes of HTTP/1.1.
func (b *benchLogs) request(log, step int, prefix string) []byte {
	size := firstSize + int64(step)
	old, proof := int64(0), []tlog.Hash(nil)
	if step > 0 {
		old = size - 1
		if b.proofs[old] == nil {
			b.proofs[old] = b.tree.proof(old, size)
		}
		proof = b.proofs[old]
	}
	c := checkpoint.Checkpoint{Origin: b.signers[log].Name(), Size: size, Root: b.root(size)}
	body := checkpoint.AddRequest{OldSize: old, Hashes: proof, Checkpoint: must(checkpoint.Sign(c, b.signers[log]))}.Format()
	return fmt.Appendf(nil, "POST %s/add-checkpoint HTTP/1.1\r\nHost: witness\r\nContent-Length: %d\r\n\r\n%s", prefix, len(body), body)
}

var benchRoots sync.Map

func (b *benchLogs) root(size int64) tlog.Hash {
	if root, ok := benchRoots.Load(size); ok {
		return root.(tlog.Hash)
	}
	root := must(tlog.TreeHash(size, b.tree))
	benchRoots.Store(size, root)
	return root
}

// BenchmarkServe measures the whole witness as a process with one CPU of Go's
// (GOMAXPROCS=1) and a real disk: add-checkpoint requests of many logs over
// keep-alive connections, each of which waits for its answer. It reports
// checkpoints a second, and a second of the server's CPU time, which does not
// depend on who else is on the machine.
func BenchmarkServe(b *testing.B) {
	for _, prefix := range []string{"/ed25519", "/mldsa", ""} {
		for _, logs := range []int{64, 4096} {
			name := strings.TrimPrefix(prefix, "/")
			if name == "" {
				name = "both"
			}
			b.Run(fmt.Sprintf("%s/logs=%d", name, logs), func(b *testing.B) { benchmarkServe(b, prefix, logs) })
		}
	}
}

func benchmarkServe(b *testing.B, prefix string, logs int) {
	const connections = 64
	logs = min(logs, max(b.N, connections))
	made, policy := newBenchLogs(logs, b.N/logs+1)
	dir := b.TempDir()
	if err := createStore(dir, osDisk{}); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "policy"), policy, 0o600); err != nil {
		b.Fatal(err)
	}
	requests := make([][]byte, b.N) // request i is of log i % logs, and so of one connection
	for i := range requests {
		requests[i] = made.request(i%logs, i/logs, prefix)
	}
	made.tree.hashes = nil
	runtime.GC()
	address, end := startBench(b, dir)
	var clients sync.WaitGroup
	b.ResetTimer()
	for first := range connections {
		clients.Go(func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			in := bufio.NewReaderSize(conn, 8<<10)
			for row := 0; row < len(requests); row += logs { // one step of every log
				for i := row + first; i < min(row+logs, len(requests)); i += connections {
					if _, err := conn.Write(requests[i]); err != nil {
						b.Error(err)
						return
					}
					if err := readOK(in); err != nil {
						b.Errorf("request %d: %v", i, err)
						return
					}
				}
			}
		})
	}
	clients.Wait()
	b.StopTimer()
	usage := end()
	cpu := float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checkpoints/s")
	b.ReportMetric(float64(b.N)/cpu, "checkpoints/cpu-s")
	b.ReportMetric(float64(usage.Maxrss)/1024, "MiB")
	b.ReportMetric(0, "ns/op")
}

// startBench starts the server process; end stops it and returns what it took.
func startBench(b *testing.B, dir string) (address string, end func() *syscall.Rusage) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchServer+"="+dir, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	stdin := must(cmd.StdinPipe())
	stdout := must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(address), func() *syscall.Rusage {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		return cmd.ProcessState.SysUsage().(*syscall.Rusage)
	}
}

// readOK reads an answer of status 200 with as little work as possible.
func readOK(in *bufio.Reader) error {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	ok := bytes.HasPrefix(status, []byte("HTTP/1.1 200 "))
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if value, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if !ok {
		body := make([]byte, length)
		io.ReadFull(in, body)
		return fmt.Errorf("answer %q", body)
	}
	_, err = in.Discard(length)
	return err
}
