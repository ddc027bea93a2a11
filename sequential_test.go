package tallystick_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSequentialPackages holds scripts/sequential, the packages that scripts/test
// leaves to run without the race detector: neither they, nor their tests, nor
// anything of ours that they use starts a goroutine, so there is nothing to find.
// Where others use them from goroutines, the others' tests have the detector.
func TestSequentialPackages(t *testing.T) {
	list, err := os.ReadFile(filepath.Join("scripts", "sequential"))
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(list))
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Error("scripts/sequential is not sorted, or names a package twice")
	}
	args := []string{"list", "-deps", "-test", "-json=ImportPath,ForTest,Dir,Module,GoFiles"}
	for _, name := range names {
		args = append(args, "./"+name)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir string
			Module          *struct{ Main bool }
			GoFiles         []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module == nil || !p.Module.Main || strings.HasSuffix(p.ImportPath, ".test") {
			continue // another's, or the main program that the go command makes of tests
		}
		for _, file := range p.GoFiles {
			files++
			if at := goroutineIn(t, filepath.Join(p.Dir, file)); at != "" {
				t.Errorf("%s may start a goroutine at %s, and is linked into the tests of a package in scripts/sequential", p.ImportPath, at)
			}
		}
	}
	if files < 80 {
		t.Errorf("%d files were read: not what is tested", files)
	}
}

// goroutineIn is where a file starts a goroutine, or may have one started, "" if
// it does not.
func goroutineIn(t *testing.T, path string) (at string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		starts := false
		switch n := n.(type) {
		case *ast.GoStmt:
			starts = true
		case *ast.SelectorExpr:
			starts = slices.Contains([]string{"Go", "Parallel", "RunParallel", "AfterFunc"}, n.Sel.Name)
		case *ast.ImportSpec:
			starts = slices.Contains([]string{`"net"`, `"net/http"`, `"net/http/httptest"`, `"net/rpc"`}, n.Path.Value)
		}
		if starts && at == "" {
			at = set.Position(n.Pos()).String()
		}
		return true
	})
	return at
}
