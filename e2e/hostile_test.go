//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// hostileSource is a module that does what its input says.
const hostileSource = `package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	input, _ := io.ReadAll(os.Stdin)
	word, _, _ := strings.Cut(string(input), " ")
	switch word {
	case "hog":
		var all [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
	case "flood":
		for {
			os.Stdout.Write(make([]byte, 1<<16))
		}
	case "noise":
		for i := 0; i < 1000; i++ {
			os.Stderr.Write(make([]byte, 1<<16))
		}
	case "deep":
		deep(0)
	case "exit":
		os.Exit(77)
	case "panic":
		panic("on purpose")
	case "sleep":
		time.Sleep(1000 * time.Hour)
		fmt.Print("slept")
	case "probe":
		_, e1 := os.ReadFile("/etc/passwd")
		_, e2 := os.ReadDir(".")
		_, e3 := net.Dial("tcp", "127.0.0.1:1")
		e4 := os.WriteFile("x", nil, 0o600)
		_, e5 := os.FindProcess(1)
		host, _ := os.Hostname()
		fmt.Println(e1, e2, e3, e4, e5, host, os.Getpid(), os.Getuid(), os.Environ(), os.Args, time.Now().UTC())
	}
}

func deep(n int) int {
	var pad [1024]byte
	pad[n%1024] = 1
	return deep(n+1) + int(pad[7])
}
`

// hostile builds the hostile module.
func hostile(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	source, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "hostile.wasm")
	if err := os.WriteFile(source, []byte(hostileSource), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, source)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the hostile module: %v\n%s", err, text)
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

// admit registers a contract for a module as it is.
func (a *agent) admit(wasm []byte, change func(*contract.Contract)) (digest.Digest, error) {
	v := newContract(a.name, "hostile", wasm)
	if change != nil {
		change(v)
	}
	envelope, hash, err := contract.Sign(v, a.c.key(a.name, "contract"))
	if err != nil {
		return hash, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = a.Control.RegisterContract(ctx, connect.NewRequest(&pb.RegisterContractRequest{Envelope: envelope, Module: wasm}))
	return hash, err
}

// TestHostileModules: whatever a module does, it ends in the outcome that the
// formats name for it or is refused with the reason, it sees nothing of the
// machine, and the cluster works on.
func TestHostileModules(t *testing.T) {
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	wasm := hostile(t)

	grant := func(list ...contract.Capability) func(*contract.Contract) {
		return func(v *contract.Contract) { v.Capabilities = list }
	}
	// One function that an engine compiles for minutes, or with gigabytes.
	bomb := func(unit []byte, n int) []byte { return wasmtest.Command().Start("", bytes.Repeat(unit, n)).Bytes() }
	foreign := wasmtest.Command()
	foreign.Import("env", "system", "i:i")
	foreign.Start("")
	for _, bad := range []struct {
		what, code string
		reason     string // among the words of the refusal
		module     []byte
		change     func(*contract.Contract)
	}{
		{"text", "module_refused", "malformed", []byte("hello"), nil},
		{"a component", "module_refused", `feature "component-model"`, []byte("\x00asm\x0d\x00\x01\x00"), nil},
		{"no entry point", "module_refused", `export "_start"`, []byte("\x00asm\x01\x00\x00\x00"), nil},
		{"a cut module", "module_refused", "malformed", wasm[:len(wasm)/2], nil},
		{"a module and a byte", "module_refused", "malformed", append(slices.Clone(wasm), 0), nil},
		{"a module over the limit", "request_too_large", "", make([]byte, 16<<20+1), nil},
		{"ungranted imports", "module_refused", "grant capability", wasm, grant(contract.CapabilityStdio)},
		{"another module", "module_digest", "", wasm, func(v *contract.Contract) { v.Module = digest.Of([]byte("other")) }},
		{"another tenant", "wrong_tenant", "", wasm, func(v *contract.Contract) { v.Tenant = "other" }},
		{"another cluster", "wrong_tenant", "", wasm, func(v *contract.Contract) { v.Cluster = "other" }},
		{"too much memory", "contract_refused", "", wasm, func(v *contract.Contract) { v.Limits.MemoryPages = 65_536 }},
		{"a bomb of blocks", "module_refused", "control", bomb([]byte{0x02, 0x40, 0x0b}, 100_000), nil},
		{"a bomb of loads", "module_refused", "compile_work", bomb([]byte{0x41, 0, 0x28, 2, 0, 0x1a}, 300_000), nil},
		{"an import of the host", "module_refused", `import "env.system"`, foreign.Bytes(), nil},
	} {
		_, err := a.admit(bad.module, bad.change)
		refused(t, bad.what, bad.code, err)
		if err != nil && !strings.Contains(err.Error(), bad.reason) {
			t.Errorf("%s: refused with %v, which lacks %q", bad.what, err, bad.reason)
		}
	}

	hash, err := a.admit(wasm, nil)
	if err != nil {
		t.Fatal(err)
	}
	deeds := []struct{ word, kind, output string }{
		{"hog", "exit", ""},
		{"flood", "output_too_large", ""},
		{"noise", "ok", ""},
		{"deep", "stack_exhausted", ""},
		{"exit", "exit", ""},
		{"panic", "exit", ""},
		{"sleep", "ok", "slept"},
		{"probe", "ok", ""},
	}
	ids := make([]string, len(deeds))
	for i, deed := range deeds {
		input := []byte(deed.word + " ")
		envelope, id := a.submission(hash, input, i)
		if _, err := a.submit(envelope, input); err != nil {
			t.Fatal(err)
		}
		ids[i] = id.String()
	}
	for i, deed := range deeds {
		status := a.complete(ids[i])
		if status.Outcome.Kind != deed.kind {
			t.Errorf("%s: outcome %v, want %s", deed.word, status.Outcome, deed.kind)
		}
		if deed.kind == "output_too_large" {
			continue
		}
		res, err := a.Control.GetBlob(context.Background(), connect.NewRequest(&pb.GetBlobRequest{Digest: status.Outcome.OutputDigest}))
		if err != nil {
			t.Fatal(err)
		}
		output := string(res.Msg.Data)
		if deed.word == "probe" {
			host, _ := os.Hostname()
			if strings.Contains(output, "root:") || host != "" && strings.Contains(output, host) || strings.Contains(output, "<nil> <nil>") {
				t.Errorf("a module saw something of the machine: %s", output)
			}
		} else if output != deed.output {
			t.Errorf("%s: output %.80q, want %q", deed.word, output, deed.output)
		}
	}
	c.healthy()
}
