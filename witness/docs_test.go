package witness

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDocs: every test that docs/witness.md names is there, so that a row whose
// test has gone is noticed; and so is every quoted row of TestAnswers.
func TestDocs(t *testing.T) {
	page := must(os.ReadFile(filepath.Join("..", "docs", "witness.md")))
	var source []byte
	for _, pattern := range []string{"*_test.go", "../verifier/lawful/*_test.go"} {
		for _, file := range must(filepath.Glob(pattern)) {
			source = append(source, must(os.ReadFile(file))...)
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)`").FindAllSubmatch(page, -1)
	if len(named) < 40 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, m := range named {
		if !bytes.Contains(source, append([]byte("func "), append(m[1], '(')...)) {
			t.Errorf("there is no %s", m[1])
		}
	}
	for _, list := range regexp.MustCompile(`TestAnswers. \(([^)]*)\)`).FindAllSubmatch(page, -1) {
		for _, m := range regexp.MustCompile(`\*([^*]+)\*`).FindAllSubmatch(list[1], -1) {
			if !bytes.Contains(source, append([]byte(`{"`), m[1]...)) {
				t.Errorf("TestAnswers has no row %q", m[1])
			}
		}
	}
}
