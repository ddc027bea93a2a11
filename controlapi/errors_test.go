package controlapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	jwt "github.com/tallystick/tallystick/controlapi/token"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// declaredCodes reads the constants of type Code from a source file.
func declaredCodes(t *testing.T, file string) []Code {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []Code
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); ok && name.Name == "Code" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, Code(text))
		}
		return true
	})
	return codes
}

// TestEveryCodeIsMapped: only a fault of this program is Internal.
func TestEveryCodeIsMapped(t *testing.T) {
	codes := append(declaredCodes(t, "errors.go"), declaredCodes(t, "orchestrator/errors.go")...)
	if len(codes) < 40 {
		t.Fatalf("found %d codes only", len(codes))
	}
	seen := map[Code]bool{}
	for _, code := range codes {
		if seen[code] {
			t.Errorf("code %q is declared twice", code)
		}
		seen[code] = true
		if code == codeOK {
			continue
		}
		if got := connectCode(code); (got == connect.CodeInternal) != (code == CodeInternal) {
			t.Errorf("code %q is mapped to %v", code, got)
		}
		if !regexp.MustCompile(`^[a-z][a-z_]*$`).MatchString(string(code)) {
			t.Errorf("code %q is not in the form of codes", code)
		}
		err := wireError(refuse(code, "text: what to do"))
		if err.Message() != fmt.Sprintf("[%s] text: what to do", code) {
			t.Errorf("code %q: message %q", code, err.Message())
		}
	}
}

func TestWireErrorHidesCauses(t *testing.T) {
	for _, err := range []error{
		errors.New("secret"),
		fmt.Errorf("wrapped: %w", &orchestrator.Error{Code: orchestrator.CodeBusy, Message: "later: try again", Cause: errors.New("secret")}),
		errRecord(errors.New("secret")),
		connect.NewError(connect.CodeUnknown, errors.New("secret")),
	} {
		if got := wireError(err).Message(); strings.Contains(got, "secret") || !strings.HasPrefix(got, "[") {
			t.Errorf("%v becomes %q", err, got)
		}
	}
	if got := wireError(retryAfter(CodeQuotaBytes, 2500*time.Millisecond, "x")).Meta().Get("Retry-After"); got != "3" {
		t.Errorf("Retry-After %q, want 3", got)
	}
}

// TestTokens sends tokens of every kind of fault through the whole edge, and
// looks for the counts in the next batch.
func TestTokens(t *testing.T) {
	clock := time.Now()
	w := newWorld(t, func(c *Config) { c.Now = func() time.Time { return clock } })
	issue := func(principal, cluster, key string, at time.Time) string {
		raw, err := jwt.New(principal, cluster, keyOf(key), at)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + raw
	}
	good := issue("alice", testCluster, "alice", clock)
	for name, c := range map[string]struct {
		header string
		want   Code
	}{
		"none":          {"", CodeTokenMissing},
		"basic":         {"Basic YTpi", CodeTokenMissing},
		"empty":         {"Bearer ", CodeTokenMissing},
		"no token":      {"Bearer x", CodeTokenMalformed},
		"stranger":      {issue("alice", testCluster, "mallory", clock), CodeTokenKey},
		"other cluster": {issue("alice", "elsewhere", "alice", clock), CodeTokenAudience},
		"old":           {issue("alice", testCluster, "alice", clock.Add(-time.Hour)), CodeTokenExpired},
		"early":         {issue("alice", testCluster, "alice", clock.Add(time.Hour)), CodeTokenEarly},
		"impersonation": {issue("bob", testCluster, "alice", clock), CodeTokenClaims},
		"bent":          {good[:len(good)-8] + "AAAAAAAA", CodeTokenSignature},
	} {
		got := w.do(http.Header{"Content-Type": {"application/json"}, "Authorization": {c.header}}, rpc.ControlGetClusterRootProcedure, []byte("{}"))
		if got.code() != c.want || got.status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s, want %q", name, got.status, got.body, c.want)
		}
		if len(c.header) > 20 && strings.Contains(string(got.body), c.header[10:20]) {
			t.Errorf("%s: the answer quotes the token: %s", name, got.body)
		}
	}
	if n := len(w.core.recorded()); n != 0 {
		t.Errorf("unauthenticated requests made %d records", n)
	}
	send := func(header string) Code {
		return w.do(http.Header{"Content-Type": {"application/json"}, "Authorization": {header}}, rpc.ControlGetClusterRootProcedure, []byte("{}")).code()
	}
	for range 2 { // the second time from memory
		if got := send(good); got != "" {
			t.Errorf("the good token: %q", got)
		}
	}
	total := uint64(0)
	for _, n := range w.core.noise {
		total += n.GetCount()
	}
	if total != 10 || len(w.core.noise) != 8 {
		t.Errorf("the next batch counts %v", w.core.noise)
	}
	w.core.set(func() { delete(w.core.kinds, "alice") })
	if got := send(good); got != CodeTokenKey {
		t.Errorf("after the key was revoked: %q", got)
	}
	w.core.set(func() { w.core.kinds["alice"] = tenant })
	clock = clock.Add(jwt.Lifetime + jwt.Skew + time.Second)
	if got := send(good); got != CodeTokenExpired {
		t.Errorf("after its time: %q", got)
	}
}

func TestRememberedTokensAreBounded(t *testing.T) {
	now := time.Now()
	a := newAuthenticator(testCluster, newFakeCore(t), func() time.Time { return now })
	for i := range 2*maxRemembered + 1 {
		a.remember([32]byte{byte(i), byte(i >> 8)}, jwt.Token{Expires: now.Add(time.Minute)}, now)
		if len(a.remembered) > maxRemembered {
			t.Fatalf("%d tokens remembered", len(a.remembered))
		}
	}
	later := now.Add(time.Hour)
	for i := range maxRemembered {
		a.remember([32]byte{byte(i), byte(i >> 8), 1}, jwt.Token{Expires: later.Add(time.Minute)}, later)
	}
	if len(a.remembered) > maxRemembered {
		t.Errorf("%d tokens remembered", len(a.remembered))
	}
}

// TestCodesAreStable compares the codes, and how clients see them, with the
// list that clients were written against. A code is never renamed or mapped
// anew; new ones are added with -update.
func TestCodesAreStable(t *testing.T) {
	type row struct {
		Code    Code   `json:"code"`
		Connect string `json:"connect"`
	}
	var rows []row
	for _, code := range append(declaredCodes(t, "errors.go"), declaredCodes(t, "orchestrator/errors.go")...) {
		if code != codeOK {
			rows = append(rows, row{code, connectCode(code).String()})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(string(a.Code), string(b.Code)) })
	got, err := json.MarshalIndent(rows, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const golden = "../testdata/controlapi/codes.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the codes differ from %s: a change breaks clients; if it only adds, run with -update", golden)
	}
}

var update = flag.Bool("update", false, "rewrite golden files")
