package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"witness": main})
}

// TestScripts runs the real binary. Beside the commands of testscript there are
//
//	serve ARG...                  starts "witness serve ARG..." and waits until it
//	                              listens; sets URL
//	hangup REGEXP                 sends it SIGHUP and waits for a line of its log
//	terminate [KILL]              ends it with SIGTERM (or SIGKILL), waits, and
//	                              checks the exit status; its log becomes stderr.txt
//	vkey ORIGIN                   prints the verifier key of the log ORIGIN
//	request ORIGIN VIEW OLD NEW   prints an add-checkpoint request of the log's
//	                              VIEW, a word: two views are two histories
//	origin-hash ORIGIN            sets HASH
//	http METHOD PATH STATUS [FILE]  sends FILE; the answer becomes stdout
//	verify REQUEST VKEYS ANSWER N   checks that ANSWER is N cosignatures, by keys in
//	                              VKEYS, of the checkpoint in REQUEST
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serve":       serveCmd,
			"terminate":   terminateCmd,
			"hangup":      hangupCmd,
			"vkey":        vkeyCmd,
			"request":     requestCmd,
			"origin-hash": originHashCmd,
			"http":        httpCmd,
			"verify":      verifyCmd,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values["witness"] = &process{}
			return nil
		},
	})
}

// process is the witness that a script has running.
type process struct {
	cmd    *exec.Cmd
	stderr chan []byte // receives all of it when the process has ended
	lines  chan string // receives each line of its log, as long as there is room
}

func running(ts *testscript.TestScript) *process { return ts.Value("witness").(*process) }

func serveCmd(ts *testscript.TestScript, _ bool, args []string) {
	p := running(ts)
	// testscript puts the binaries of TestMain into the script's PATH.
	var binary string
	for _, dir := range strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		if _, err := os.Stat(dir + "/witness"); err == nil {
			binary = dir + "/witness"
			break
		}
	}
	p.cmd = exec.Command(binary, append([]string{"serve"}, args...)...)
	p.cmd.Dir = ts.Getenv("WORK")
	p.cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
	pipe, err := p.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	cmd := p.cmd
	ts.Defer(func() { cmd.Process.Kill() })

	// Copied here: the goroutine must not read the field while a script goes on.
	all, lines := make(chan []byte, 1), make(chan string, 1000)
	p.stderr, p.lines = all, lines
	address := make(chan string, 1)
	go func() {
		var log bytes.Buffer
		for scanner := bufio.NewScanner(io.TeeReader(pipe, &log)); scanner.Scan(); {
			if addr, ok := strings.CutPrefix(scanner.Text(), "listening addr="); ok {
				address <- addr
			}
			select {
			case lines <- scanner.Text():
			default:
			}
		}
		close(address)
		close(lines)
		all <- log.Bytes()
	}()
	addr, ok := <-address
	if !ok {
		ts.Fatalf("witness did not listen:\n%s", <-all)
	}
	ts.Setenv("URL", "http://"+addr)
	ts.Setenv("ADDR", addr)
}

func hangupCmd(ts *testscript.TestScript, _ bool, args []string) {
	p := running(ts)
	want := regexp.MustCompile(args[0])
	ts.Check(p.cmd.Process.Signal(syscall.SIGHUP))
	for line := range p.lines {
		if want.MatchString(line) {
			return
		}
	}
	ts.Fatalf("no line of the log matches %s", want)
}

func terminateCmd(ts *testscript.TestScript, _ bool, args []string) {
	p := running(ts)
	kill := len(args) == 1 && args[0] == "KILL"
	if kill {
		ts.Check(p.cmd.Process.Kill())
	} else {
		ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	}
	log := <-p.stderr
	ts.Check(os.WriteFile(ts.MkAbs("stderr.txt"), log, 0o644))
	if err := p.cmd.Wait(); (err != nil) != kill {
		ts.Fatalf("exit: %v\n%s", err, log)
	}
}

// signer is the key of a log, derived from its origin.
func signer(ts *testscript.TestScript, origin string) (note.Signer, string) {
	seed := sha256.Sum256([]byte("log key " + origin))
	key := ed25519.NewKeyFromSeed(seed[:])
	s, err := checkpoint.NewSigner(origin, key)
	ts.Check(err)
	vkey, err := checkpoint.Vkey(origin, key.Public().(ed25519.PublicKey))
	ts.Check(err)
	return s, vkey
}

func vkeyCmd(ts *testscript.TestScript, _ bool, args []string) {
	_, vkey := signer(ts, args[0])
	ts.Stdout().Write([]byte(vkey + "\n"))
}

func requestCmd(ts *testscript.TestScript, _ bool, args []string) {
	origin, view := args[0], args[1]
	old, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	size, err := strconv.ParseInt(args[3], 10, 64)
	ts.Check(err)
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = hashes[index]
		}
		return out, nil
	})
	for i := range size {
		more, err := tlog.StoredHashes(i, fmt.Appendf(nil, "%s %d", view, i), reader)
		ts.Check(err)
		hashes = append(hashes, more...)
	}
	root, err := tlog.TreeHash(size, reader)
	ts.Check(err)
	s, _ := signer(ts, origin)
	signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: origin, Size: size, Root: root}, s)
	ts.Check(err)
	r := checkpoint.AddRequest{OldSize: old, Checkpoint: signed}
	if 0 < old && old < size {
		r.Hashes, err = tlog.ProveTree(size, old, reader)
		ts.Check(err)
	}
	ts.Stdout().Write(r.Format())
}

func originHashCmd(ts *testscript.TestScript, _ bool, args []string) {
	sum := sha256.Sum256([]byte(args[0]))
	ts.Setenv("HASH", hex.EncodeToString(sum[:]))
}

func httpCmd(ts *testscript.TestScript, _ bool, args []string) {
	var body io.Reader
	if len(args) == 4 {
		body = strings.NewReader(ts.ReadFile(args[3]))
	}
	req, err := http.NewRequest(args[0], ts.Getenv("URL")+args[1], body)
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if got := strconv.Itoa(resp.StatusCode); got != args[2] {
		ts.Fatalf("status %s: %s", got, answer)
	}
	ts.Stdout().Write(answer)
}

func verifyCmd(ts *testscript.TestScript, _ bool, args []string) {
	var keys []note.Verifier
	for _, vkey := range strings.Fields(ts.ReadFile(args[1])) {
		key, err := checkpoint.ParseCosignerVkey(vkey)
		ts.Check(err)
		keys = append(keys, key)
	}
	_, signed, _ := strings.Cut(ts.ReadFile(args[0]), "\n\n")
	n, err := checkpoint.ParseNote([]byte(signed + ts.ReadFile(args[2])))
	ts.Check(err)
	good, err := n.Verified(keys)
	ts.Check(err)
	if strconv.Itoa(len(good)) != args[3] {
		ts.Fatalf("%d good cosignatures", len(good))
	}
}
