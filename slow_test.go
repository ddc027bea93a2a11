package tallystick_test

import (
	"go/build/constraint"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSlowTestsStandByThemselves holds the tests that scripts/test-slow selects:
// those in files with the build tag slow, and no others. The tag therefore only
// adds tests. It must not change what another test does, for that one would never
// run in its changed form.
func TestSlowTestsStandByThemselves(t *testing.T) {
	var (
		tagged   = regexp.MustCompile(`(?m)^//go:build .*\bslow\b.*$`)
		selected = regexp.MustCompile(`^//go:build (e2e && )?slow\b`) // by scripts/test-slow
		changes  = regexp.MustCompile(`(?m)^func (init|TestMain)\(`)
	)
	found := 0
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		line := string(tagged.Find(source))
		if line == "" {
			return nil
		}
		found++
		expr, err := constraint.Parse(line)
		if err != nil {
			return err
		}
		if expr.Eval(func(tag string) bool { return tag != "slow" }) || !selected.MatchString(line) {
			t.Errorf("%s: %s: scripts/test-slow does not select its tests, or the tag slow takes the file away", path, line)
		}
		if name := changes.FindSubmatch(source); name != nil && !strings.HasPrefix(path, "bench/") {
			t.Errorf("%s: %s may change what the other tests of the package do", path, name[1])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 10 {
		t.Errorf("%d files with slow tests: not what is tested", found)
	}
}
