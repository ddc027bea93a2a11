package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/keyfile/kms/kmstest"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"logserver": main, "sigstore-kms-fake": kmstest.Main})
}

// TestScripts runs the real binary. Beside the commands of testscript there are
//
//	serve ARG...                  starts "logserver serve ARG..." and waits until it
//	                              listens; sets URL and ADDR
//	hangup REGEXP                 sends it SIGHUP and waits for a line of its log
//	terminate [KILL]              ends it with SIGTERM (or SIGKILL), waits, and
//	                              checks the exit status; its log becomes stderr.txt
//	witness FILE                  starts a witness that cosigns everything of the log
//	                              whose vkeys are in the file, which it reads each
//	                              time; sets WITNESS_URL and WITNESS_VKEY
//	http METHOD PATH STATUS [FILE]  sends FILE; the answer becomes stdout
//	header NAME VALUE             checks a header of the last answer
//	add FIRST N                   adds entries "entry FIRST" to "entry FIRST+N-1" and
//	                              expects those indexes
//	copied DIR N                  waits until the static copy in DIR has size N
//	await PATH PATTERN            waits until the answer to GET PATH matches
//	setenv NAME FILE              sets a variable to the one line of a file
//	audit VKEY N                  waits until tree size N is published, and checks it
//	                              against tiles and entries with x/mod/sumdb
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serve":     serveCmd,
			"terminate": terminateCmd,
			"hangup":    hangupCmd,
			"witness":   witnessCmd,
			"http":      httpCmd,
			"header":    headerCmd,
			"add":       addCmd,
			"audit":     auditCmd,
			"setenv":    setenvCmd,
			"copied":    copiedCmd,
			"await":     awaitCmd,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values["state"] = &state{}
			return nil
		},
	})
}

// state is what a script has running.
type state struct {
	cmd    *exec.Cmd
	stderr chan []byte // receives all of it when the process has ended
	lines  chan string // receives each line of its log, as long as there is room
	header http.Header // of the last answer
}

func running(ts *testscript.TestScript) *state { return ts.Value("state").(*state) }

func serveCmd(ts *testscript.TestScript, _ bool, args []string) {
	s := running(ts)
	// testscript puts the binaries of TestMain into the script's PATH.
	var binary string
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "logserver")); err == nil {
			binary = filepath.Join(dir, "logserver")
			break
		}
	}
	cmd := exec.Command(binary, append([]string{"serve"}, args...)...)
	cmd.Dir = ts.Getenv("WORK")
	pipe, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { cmd.Process.Kill() })

	all, address, lines := make(chan []byte, 1), make(chan string, 1), make(chan string, 1000)
	s.cmd, s.stderr, s.lines = cmd, all, lines
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
		ts.Fatalf("logserver did not listen:\n%s", <-all)
	}
	ts.Setenv("URL", "http://"+addr)
	ts.Setenv("ADDR", addr)
}

func hangupCmd(ts *testscript.TestScript, _ bool, args []string) {
	s := running(ts)
	want := regexp.MustCompile(args[0])
	ts.Check(s.cmd.Process.Signal(syscall.SIGHUP))
	for line := range s.lines {
		if want.MatchString(line) {
			return
		}
	}
	ts.Fatalf("no line of the log matches %s", want)
}

func terminateCmd(ts *testscript.TestScript, _ bool, args []string) {
	s := running(ts)
	kill := len(args) == 1 && args[0] == "KILL"
	if kill {
		ts.Check(s.cmd.Process.Kill())
	} else {
		ts.Check(s.cmd.Process.Signal(syscall.SIGTERM))
	}
	log := <-s.stderr
	ts.Check(os.WriteFile(ts.MkAbs("stderr.txt"), log, 0o644))
	if err := s.cmd.Wait(); (err != nil) != kill {
		ts.Fatalf("exit: %v\n%s", err, log)
	}
}

// witnessCmd starts a witness that checks no consistency.
func witnessCmd(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	cosigner, err := checkpoint.NewEd25519Cosigner("witness.example/w", key)
	ts.Check(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		request, err := checkpoint.ParseAddRequest(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		origin, keys, err := readVkeys(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		c, err := checkpoint.Open(request.Checkpoint, origin, keys)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		sig, err := cosigner.Cosign(c.Body(), time.Now().Unix())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Write(sig.Line())
	}))
	ts.Defer(server.Close)
	ts.Setenv("WITNESS_URL", server.URL)
	ts.Setenv("WITNESS_VKEY", cosigner.Key().Vkey())
}

// readVkeys reads the keys of a log, one a line.
func readVkeys(file string) (origin string, keys []note.Verifier, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	for _, line := range strings.Fields(string(text)) {
		key, err := checkpoint.ParseVkey(line)
		if err != nil {
			return "", nil, err
		}
		origin, keys = key.Name(), append(keys, key)
	}
	return origin, keys, nil
}

func request(ts *testscript.TestScript, method, path, body string) (status int, answer []byte) {
	req, err := http.NewRequest(method, ts.Getenv("URL")+path, strings.NewReader(body))
	ts.Check(err)
	res, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	ts.Check(err)
	running(ts).header = res.Header
	return res.StatusCode, answer
}

func httpCmd(ts *testscript.TestScript, _ bool, args []string) {
	body := ""
	if len(args) == 4 {
		body = ts.ReadFile(args[3])
	}
	status, answer := request(ts, args[0], args[1], body)
	if strconv.Itoa(status) != args[2] {
		ts.Fatalf("status %d: %s", status, answer)
	}
	ts.Stdout().Write(answer)
}

func headerCmd(ts *testscript.TestScript, neg bool, args []string) {
	if got := running(ts).header.Get(args[0]); (got == args[1]) == neg {
		ts.Fatalf("header %s is %q", args[0], got)
	}
}

func setenvCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

func awaitCmd(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	until(ts, "GET "+args[0]+" answers "+args[1], func() bool {
		_, answer := request(ts, "GET", args[0], "")
		return pattern.Match(answer)
	})
}

// until asks again and again, each time a request to the server, and fails when
// minutes have not helped. It decides no test that is right.
func until(ts *testscript.TestScript, what string, done func() bool) {
	for deadline := time.Now().Add(2 * time.Minute); !done(); {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain until %s", what)
		}
	}
}

func copiedCmd(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, args[0]+" has size "+args[1], func() bool {
		signed, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), "checkpoint"))
		if lines := strings.Split(string(signed), "\n"); err == nil && len(lines) > 1 && lines[1] == args[1] {
			return true
		}
		request(ts, "GET", "/healthz", "") // gives the log time
		return false
	})
}

func addCmd(ts *testscript.TestScript, _ bool, args []string) {
	first, err := strconv.Atoi(args[0])
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := first; i < first+n; i++ {
		if status, answer := request(ts, "POST", "/add", fmt.Sprint("entry ", i)); status != 200 || string(answer) != fmt.Sprint(i) {
			ts.Fatalf("adding entry %d: status %d, %s", i, status, answer)
		}
	}
}

// auditCmd is a stranger's client: it knows the vkey and x/mod/sumdb.
func auditCmd(ts *testscript.TestScript, _ bool, args []string) {
	verifier, err := note.NewVerifier(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	want, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	c := checkpoint.Checkpoint{Size: -1}
	until(ts, "the log publishes size "+args[1], func() bool { // the next round is never far
		status, signed := request(ts, "GET", "/checkpoint", "")
		if status == http.StatusServiceUnavailable {
			return false
		}
		n, err := note.Open(signed, note.VerifierList(verifier))
		ts.Check(err)
		c, err = checkpoint.Parse([]byte(n.Text))
		ts.Check(err)
		return c.Size >= want
	})
	hashes := tlog.TileHashReader(c.Tree(), tileReader{ts})
	for i := range c.Size {
		h, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, i)})
		ts.Check(err)
		if h[0] != tlog.RecordHash(fmt.Append(nil, "entry ", i)) {
			ts.Fatalf("leaf hash %d is not that of its entry", i)
		}
	}
	if c.Size != want {
		ts.Fatalf("tree size %d", c.Size)
	}
}

type tileReader struct{ ts *testscript.TestScript }

func (r tileReader) Height() int { return 8 }

func (r tileReader) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, t := range list {
		status, b := request(r.ts, "GET", "/tile/"+strings.TrimPrefix(t.Path(), "tile/8/"), "")
		if status != 200 {
			return nil, fmt.Errorf("tile %v: status %d", t, status)
		}
		out = append(out, b)
	}
	return out, nil
}

func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}
