package tallystick_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/build"
	"io"
	"os/exec"
	"path"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/tallystick/tallystick"

// pkg is what `go list -json` says about one package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// goList returns the packages of the module, as the products are built: without
// cgo.
func goList(t *testing.T) map[string]pkg {
	t.Helper()
	pkgs, err := listOnce()
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

var listOnce = sync.OnceValues(func() (map[string]pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.Bytes())
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		pkgs[strings.TrimPrefix(p.ImportPath, module+"/")] = p
	}
})

// within reports whether the package path p is root or below it.
func within(p, root string) bool { return p == root || strings.HasPrefix(p, root+"/") }

func ours(name string) string { return module + "/" + name }

var (
	pure     = []string{"record", "membership", "contract", "provenance", "internal/digest", "internal/strictjson", "internal/dsse", "internal/edkey", "internal/printable", "verifier/checkpoint"}
	services = []string{"logserver", "witness", "sandbox", "node", "controlapi", "webui"}
	heavy    = []string{
		"github.com/cockroachdb/pebble", "connectrpc.com", "github.com/prometheus",
		"github.com/tetratelabs/wazero", "github.com/sigstore", "gocloud.dev",
	}
)

// TestLinkedPackages holds what a package may link, directly or not.
func TestLinkedPackages(t *testing.T) {
	pkgs := goList(t)
	rules := []struct {
		from   []string
		forbid []string
		why    string
	}{
		{append([]string{"verifier"}, pure...), heavy,
			"auditors and the browser link these; they stay small and know nothing of servers"},
		{append([]string{"verifier"}, pure...), oursAll(services),
			"the direction is pure, verifier, services, cmd"},
		{pure, []string{ours("verifier")}, "pure packages come before the verifier (checkpoint, which is pure itself, excepted)"},
		{[]string{"witness"}, oursAll([]string{"logserver", "controlapi", "node", "sandbox"}),
			"a witness fails and is reviewed independently of what it watches"},
		{[]string{"logserver"}, oursAll([]string{"witness", "controlapi", "node", "sandbox", "webui"}), "only cmd joins services"},
		{[]string{"logserver/internal/direct"}, append([]string{module}, heavy...),
			"it reads what strangers send: it stands by itself and asks the log through an interface of its own"},
		{[]string{"sandbox"}, oursAll([]string{"witness", "controlapi", "node", "logserver", "webui"}), "only cmd joins services"},
		{[]string{"node"}, oursAll([]string{"witness", "logserver", "sandbox", "webui", "controlapi/orchestrator", "controlapi/blobstore"}), "only cmd joins services"},
		{[]string{"controlapi"}, oursAll([]string{"witness", "logserver", "node", "sandbox", "webui"}), "only cmd joins services"},
		{[]string{"logclient"}, append(oursAll(services), heavy...), "submitters link a client and no server"},
		{[]string{"webui"}, oursAll([]string{"witness", "logserver", "node", "sandbox", "controlapi"}), "the page talks to the public APIs only"},
	}
	for _, rule := range rules {
		for name, p := range pkgs {
			if !anyWithin(name, rule.from) || isMain(name) {
				continue
			}
			for _, dep := range p.Deps {
				if dep == ours("verifier/checkpoint") && anyWithin(name, pure) {
					continue
				}
				for _, bad := range rule.forbid {
					if within(dep, bad) {
						t.Errorf("%s links %s: %s", name, dep, rule.why)
					}
				}
			}
		}
	}
}

// TestPureImports holds that pure packages do no I/O and read no clock.
func TestPureImports(t *testing.T) {
	for name, p := range goList(t) {
		if !anyWithin(name, pure) {
			continue
		}
		for _, imp := range p.Imports {
			switch imp {
			case "net", "net/http", "os", "os/exec", "log", "log/slog", "io/fs", "path/filepath", "math/rand", "math/rand/v2":
				t.Errorf("pure package %s imports %q: bytes in, values out", name, imp)
			}
		}
	}
}

// TestPebbleImports holds that only the log's storage imports Pebble.
func TestPebbleImports(t *testing.T) {
	for name, p := range goList(t) {
		for _, imp := range p.Imports {
			if within(imp, "github.com/cockroachdb/pebble/v2") && !within(name, "logserver") {
				t.Errorf("%s imports %s: storage stays behind logserver", name, imp)
			}
		}
	}
}

// TestOnlyExportLinksBuckets holds that a log can be embedded without the
// machinery of buckets, and that no cloud's driver is linked anywhere.
func TestOnlyExportLinksBuckets(t *testing.T) {
	for name, p := range goList(t) {
		for _, dep := range p.Deps {
			if within(dep, "gocloud.dev") && within(name, "logserver") && name != "logserver/export" {
				t.Errorf("%s links %s: only logserver/export knows buckets", name, dep)
			}
			for _, driver := range []string{"s3blob", "gcsblob", "azureblob"} {
				if dep == "gocloud.dev/blob/"+driver {
					t.Errorf("%s links %s: drivers are linked by cmd/logserver-cloud, which is a module of its own", name, dep)
				}
			}
		}
	}
}

// TestOnlyTestsMakeClustersInMemory holds that internal/testcluster, which
// signs for everybody, stays out of every program.
func TestOnlyTestsMakeClustersInMemory(t *testing.T) {
	for name, p := range goList(t) {
		for _, dep := range p.Deps {
			if dep == ours("internal/testcluster") {
				t.Errorf("%s links %s", name, dep)
			}
		}
	}
}

// TestVerifierCompilesForTheBrowser builds what the web page runs.
func TestVerifierCompilesForTheBrowser(t *testing.T) {
	cmd := exec.Command("go", "build", "./verifier/...")
	cmd.Env = append(cmd.Environ(), "GOOS=js", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("GOOS=js GOARCH=wasm go build ./verifier/...: %v\n%s", err, out)
	}
}

// TestPackageNames refuses names that say nothing.
func TestPackageNames(t *testing.T) {
	for name := range goList(t) {
		switch path.Base(name) {
		case "util", "utils", "common", "types", "helpers", "misc":
			t.Errorf("package %s: name it for what it provides", name)
		}
	}
}

// TestPackageDocs wants one package comment in each package.
func TestPackageDocs(t *testing.T) {
	for name := range goList(t) {
		if name == module || within(name, "proto") {
			continue
		}
		p, err := build.ImportDir(name, build.ImportComment)
		if err != nil {
			continue // no Go files for this platform
		}
		if p.Doc == "" {
			t.Errorf("package %s has no package comment", name)
		}
	}
}

func anyWithin(name string, roots []string) bool {
	for _, r := range roots {
		if r == "verifier/checkpoint" {
			if name == r {
				return true
			}
			continue
		}
		if within(name, r) {
			return true
		}
	}
	return false
}

func oursAll(names []string) []string {
	full := make([]string, len(names))
	for i, n := range names {
		full[i] = ours(n)
	}
	return full
}

func isMain(name string) bool {
	return within(name, "cmd") || within(name, "examples") || name == "webui/wasm"
}
