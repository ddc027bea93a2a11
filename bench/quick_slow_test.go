//go:build slow

package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain lets the test binary be the process of a role.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleArgument {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestQuick measures every row in the quick form, for both shapes, and expects
// a figure for each and nothing left behind. How good it is does not matter.
func TestQuick(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	for _, build := range [][]string{
		{"-C", "..", "build", "-o", filepath.Join(bin, "logserver"), "./cmd/logserver"},
		{"build", "-o", filepath.Join(bin, "tessera"), "github.com/transparency-dev/tessera/cmd/conformance/posix"},
	} {
		if out, err := exec.Command("go", build...).CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", build, err, out)
		}
	}
	for _, shape := range []string{"-openings=false", "-openings=true"} {
		t.Run(shape, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rows.json")
			err := run(context.Background(), []string{"-quick", shape, "-dir", dir, "-json", file,
				"-logserver", filepath.Join(bin, "logserver"), "-tessera", filepath.Join(bin, "tessera")})
			if errors.Is(err, errInMemory) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got []jsonRow
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			want := map[string]row{}
			for _, r := range rows {
				if shape == "-openings=false" || !r.plainOnly {
					want[r.name] = r
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d rows, want %d", len(got), len(want))
			}
			for _, r := range got {
				row, ok := want[r.Name]
				switch {
				case !ok || r.Ours == nil:
					t.Errorf("%s has no figure", r.Name)
				case (r.Peer != nil) != (row.peer != ""), r.Peer != nil && *r.Peer != 0 && (r.Ratio == nil || *r.Ratio != *r.Ours / *r.Peer):
					t.Errorf("%s against %q: %v and ratio %v", r.Name, row.peer, r.Peer, r.Ratio)
				}
			}
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
