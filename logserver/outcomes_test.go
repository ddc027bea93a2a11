package logserver

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestOutcomes: every refusal has a code of the documented set, a status, and
// Retry-After exactly if it is temporary; operators' errors stay with them.
func TestOutcomes(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	page, err := os.ReadFile("../docs/formats/log-http.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9]+) \\|").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]+" "+m[2]] = true
	}
	all := append([]outcome{unknownOutcome}, outcomes...)
	for _, o := range all {
		if !documented[fmt.Sprint(o.code, " ", o.status)] {
			t.Errorf("%s, status %d, is not documented", o.code, o.status)
		}
		cause := o.err
		if cause == nil {
			cause = errors.New("disk 7 of host db3 is gone")
		}
		w := httptest.NewRecorder()
		code := tl.refuse(w, fmt.Errorf("secret of the operator: %w", cause))
		switch {
		case code != o.code, w.Header().Get(codeHeader) != o.code, w.Code != o.status:
			t.Errorf("%v: %s, %d %v, want %s, %d", o.err, code, w.Code, w.Header(), o.code, o.status)
		case (w.Header().Get("Retry-After") != "") != (o.retryAfter > 0), (o.status == 503) != (o.retryAfter > 0):
			t.Errorf("%s: status %d with Retry-After %q", o.code, o.status, w.Header().Get("Retry-After"))
		case o.operator == strings.Contains(w.Body.String(), "secret"):
			t.Errorf("%s: told %q", o.code, w.Body)
		case w.Header().Get("Cache-Control") != "no-store", strings.Count(w.Body.String(), "\n") != 1:
			t.Errorf("%s: %v %q", o.code, w.Header(), w.Body)
		}
	}
	for name := range documented {
		found := false
		for _, o := range all {
			found = found || name == fmt.Sprint(o.code, " ", o.status)
		}
		if !found {
			t.Errorf("%s is documented and never sent", name)
		}
	}
}
