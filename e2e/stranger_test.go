//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
)

// healthy checks that an attack left nothing: no process of the cluster
// panicked or was started again, and the control plane says that it is well.
func (c *cluster) healthy() {
	c.t.Helper()
	c.eventually("the control plane is healthy", func() error {
		_, err := get(c.server + "/healthz")
		return err
	})
	logs, _ := filepath.Glob(filepath.Join(c.dir, "logs", "*.log"))
	if len(logs) == 0 {
		c.t.Error("there are no logs to look at")
	}
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err != nil {
			c.t.Fatal(err)
		}
		if found := faults.Find(data); found != nil {
			c.t.Errorf("%s: %s", filepath.Base(log), found)
		}
	}
}

// faults is what the log of a well process never holds.
var faults = regexp.MustCompile(`(?m)^.*(panic|fatal error|DATA RACE|^goroutine \d|listening addr.*\n(?s:.*)\nlistening addr).*$`)

// every unary and streaming method of the schema, as the path of its request.
func everyMethod() []string {
	var paths []string
	protoregistry.GlobalFiles.RangeFilesByPackage("tallystick.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				paths = append(paths, "/"+string(service.FullName())+"/"+string(service.Methods().Get(j).Name()))
			}
		}
		return true
	})
	return paths
}

// answer is what the control plane says to one request.
type answer struct {
	status int
	code   string // of Connect
	text   string // its message, or the body
}

// ask sends one request as a broken or hostile client.
func (c *cluster) ask(path, bearer, contentType string, body []byte, headers ...string) answer {
	c.t.Helper()
	req, err := http.NewRequest(http.MethodPost, c.server+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	req.Header.Set("Content-Type", contentType)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		c.t.Errorf("%s: %v", path, err)
		return answer{}
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		c.t.Errorf("%s: %v", path, err)
	}
	a := answer{status: res.StatusCode, text: string(data)}
	var fault struct{ Code, Message string }
	if json.Unmarshal(data, &fault) == nil && fault.Code != "" {
		a.code, a.text = fault.Code, fault.Message
	}
	return a
}

// coded matches a refusal that has a stable code.
var coded = regexp.MustCompile(`^\[[a-z_]+\] .`)

// TestStrangers: whoever has no token moves nothing, whatever it sends.
func TestStrangers(t *testing.T) {
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	before := c.quiet()

	t.Run("paths", func(t *testing.T) {
		for _, path := range []string{
			"/audit/", "/audit/tile/0/x000/000", "/audit/tile/64/000", "/audit/tile/-1/000", "/audit/tile/0/000.p/0", "/audit/tile/0/000.p/256",
			"/audit/tile/0/000.p/01", "/audit/tile/0/x999/x999/x999/x999/x999/x999/999", "/audit/tile/0/%30%30%30", "/audit/tile/0/000%2ep/1",
			"/audit/%2e%2e/%2e%2e/etc/passwd", "/audit/tile/18446744073709551616/000", "/audit/tile/entries/x000/000", "/audit/add", "/membership/add",
			"/membership/tile/0/" + strings.Repeat("x000/", 1000) + "000", "/audit/proof/inclusion?index=0&size=9223372036854775807", "/audit/-1.tlog-proof",
		} {
			if res := c.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(res, "HTTP/1.1 404 ") {
				t.Errorf("GET %.60s: %.80q", path, res)
			}
		}
	})
	t.Run("requests", func(t *testing.T) {
		random := make([]byte, 4096)
		source := rand.NewChaCha8([32]byte{1})
		_, _ = source.Read(random)
		for name, request := range map[string]string{
			"random bytes":    string(random) + "\r\n\r\n",
			"no host":         "GET /healthz HTTP/1.1\r\n\r\n",
			"two hosts":       "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
			"two lengths":     "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
			"signed length":   "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
			"space in header": "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
			"two encodings":   "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
			"huge header":     "GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
			"huge path":       "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: a\r\n\r\n",
			"many headers":    "GET /healthz HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 50_000) + "\r\n",
		} {
			res := c.raw(t, request)
			if !strings.HasPrefix(res, "HTTP/1.1 4") && !strings.HasPrefix(res, "HTTP/1.1 501 ") && res != "" {
				t.Errorf("%s: %.80q", name, res)
			}
		}
	})
	t.Run("methods", func(t *testing.T) {
		methods := everyMethod()
		if len(methods) < 20 {
			t.Fatalf("only %d methods", len(methods))
		}
		for _, path := range methods {
			for _, contentType := range []string{"application/json", "application/proto", "text/plain"} {
				got := c.ask(path, "", contentType, []byte(`{"garbage":`))
				if got.status != http.StatusUnauthorized && got.status != http.StatusUnsupportedMediaType {
					t.Errorf("%s as %s: %d %s", path, contentType, got.status, got.text)
				}
			}
		}
	})
	t.Run("idle connections", func(t *testing.T) {
		for range 1000 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.server, "http://"))
			if err != nil {
				t.Skipf("no more connections on this machine: %v", err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "POST /tallystick.v1.Control/GetClusterRoot HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n")
		}
		if _, err := get(c.server + "/audit/checkpoint"); err != nil {
			t.Error(err)
		}
	})
	if after := c.quiet(); after != before {
		t.Errorf("strangers made the audit log grow from\n%s\nto\n%s", before, after)
	}

	// From here on there is a principal, or somebody claims to be one.
	t.Run("tokens", func(t *testing.T) {
		tenant := c.key("tenant", "token")
		stranger := filepath.Join(t.TempDir(), "stranger.pem")
		newKey(t, stranger)
		strange, err := keyfile.LoadEd25519(stranger, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Unix()
		claims := func(change string, args ...any) string {
			text := fmt.Sprintf(`{"aud":"dev","exp":%d,"iat":%d,"iss":"tenant","jti":"0123456789abcdef","sub":"tenant"}`, now+600, now)
			if change != "" {
				old, new, _ := strings.Cut(fmt.Sprintf(change, args...), "=>")
				text = strings.Replace(text, old, new, 1)
			}
			return text
		}
		header := func(alg string, key crypto.Signer) string {
			return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, alg, token.KeyID(public(key)))
		}
		good := jwt(t, tenant, header("EdDSA", tenant), claims(""))
		if got := c.ask("/tallystick.v1.Control/GetClusterRoot", good, "application/json", []byte("{}")); got.status != http.StatusOK {
			t.Fatalf("the good token: %d %s", got.status, got.text)
		}
		parts := strings.Split(good, ".")
		mac := hmac.New(sha256.New, public(tenant))
		shared := b64(header("HS256", tenant)) + "." + parts[1]
		mac.Write([]byte(shared))
		for name, raw := range map[string]string{
			"none":             b64(header("none", tenant)) + "." + parts[1] + ".",
			"no signature":     parts[0] + "." + parts[1] + ".",
			"HS256":            shared + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
			"stranger's key":   jwt(t, strange, header("EdDSA", strange), claims("")),
			"kid of another":   jwt(t, strange, header("EdDSA", tenant), claims("")),
			"contract key":     jwt(t, c.key("tenant", "contract"), header("EdDSA", c.key("tenant", "contract")), claims("")),
			"other principal":  jwt(t, tenant, header("EdDSA", tenant), strings.ReplaceAll(claims(""), "tenant", "admin")),
			"other subject":    jwt(t, tenant, header("EdDSA", tenant), claims(`"sub":"tenant"=>"sub":"admin"`)),
			"other cluster":    jwt(t, tenant, header("EdDSA", tenant), claims(`"dev"=>"prod"`)),
			"lives for a day":  jwt(t, tenant, header("EdDSA", tenant), claims(`%d=>%d`, now+600, now+86_400)),
			"expired":          jwt(t, tenant, header("EdDSA", tenant), strings.NewReplacer(fmt.Sprint(now+600), fmt.Sprint(now-600), fmt.Sprint(now), fmt.Sprint(now-900)).Replace(claims(""))),
			"from the future":  jwt(t, tenant, header("EdDSA", tenant), strings.NewReplacer(fmt.Sprint(now+600), fmt.Sprint(now+4200), fmt.Sprint(now), fmt.Sprint(now+3600)).Replace(claims(""))),
			"claim twice":      jwt(t, tenant, header("EdDSA", tenant), claims(`{=>{"sub":"admin",`)),
			"audience list":    jwt(t, tenant, header("EdDSA", tenant), claims(`"dev"=>["dev"]`)),
			"tampered":         parts[0] + "." + b64(strings.ReplaceAll(claims(""), "0123", "3210")) + "." + parts[2],
			"garbage":          "a.b.c",
			"very long":        strings.Repeat("a", 8000),
			"truncated":        good[:len(good)-2],
			"other last bits":  good[:len(good)-1] + string(otherEnd(good[len(good)-1])),
			"with white space": good + "\t",
		} {
			got := c.ask("/tallystick.v1.Control/GetClusterRoot", raw, "application/json", []byte("{}"))
			if name == "with white space" && got.status == http.StatusOK {
				continue // HTTP strips it
			}
			if got.status != http.StatusUnauthorized || !strings.HasPrefix(got.text, "[token_") {
				t.Errorf("%s: %d %s", name, got.status, got.text)
			}
		}
	})
	t.Run("bodies", func(t *testing.T) {
		bearer, err := a.Token()
		if err != nil {
			t.Fatal(err)
		}
		deep := strings.Repeat(`{"a":`, 100_000)
		paths := []string{"/tallystick.v1.Control/QueryExecutionStatus", "/tallystick.v1.Control/SubmitExecutionRequest",
			"/tallystick.v1.Control/WatchExecution", "/tallystick.v1.Log/GetInclusionProof", "/tallystick.v1.Membership/GetMembershipHash"}
		n := 0
		for name, body := range map[string]struct {
			contentType string
			data        []byte
			headers     []string
		}{
			"not JSON":          {"application/json", []byte("\x00\xff"), nil},
			"JSON cut":          {"application/json", []byte(`{"execution_id":"`), nil},
			"member twice":      {"application/json", []byte(`{"page_size":1,"page_size":2,"execution_id":"","execution_id":"","log":1,"log":2}`), nil},
			"unknown member":    {"application/json", []byte(`{"no_such_member":1}`), nil},
			"not a number":      {"application/json", []byte(`{"page_size":NaN}`), nil},
			"huge number":       {"application/json", []byte(`{"page_size":1e400,"epoch":1e400,"index":1e400}`), nil},
			"deep":              {"application/json", []byte(deep), nil},
			"array":             {"application/json", []byte(`[]`), nil},
			"two messages":      {"application/json", []byte(`{}{}`), nil},
			"cut protobuf":      {"application/proto", []byte{0x0a, 0xff}, nil},
			"unknown field":     {"application/proto", []byte{0xf8, 0x7f, 1}, nil},
			"endless group":     {"application/proto", bytes.Repeat([]byte{0x0b}, 10_000), nil},
			"not gzip":          {"application/proto", []byte("not gzip"), []string{"Content-Encoding", "gzip"}},
			"unknown encoding":  {"application/proto", []byte("x"), []string{"Content-Encoding", "br"}},
			"gzip bomb":         {"application/proto", bomb(t, 256<<20), []string{"Content-Encoding", "gzip"}},
			"negative timeout":  {"application/json", []byte(`{}x`), []string{"Connect-Timeout-Ms", "-1"}},
			"protocol version":  {"application/json", []byte(`{}`), []string{"Connect-Protocol-Version", "9"}},
			"form":              {"application/x-www-form-urlencoded", []byte("a=b"), nil},
			"gRPC cut":          {"application/grpc", []byte{0, 0xff, 0xff, 0xff, 0xff, 1}, nil},
			"gRPC-Web garbage":  {"application/grpc-web+proto", []byte("garbage garbage"), nil},
			"stream of garbage": {"application/connect+proto", []byte{2, 0, 0, 0, 1, 0xff}, nil},
		} {
			// Two each: beyond its quota a principal's refusals wait for a batch.
			for range 2 {
				n++
				path := paths[n%len(paths)]
				got := c.ask(path, bearer, body.contentType, body.data, body.headers...)
				switch {
				case got.status >= 500 && got.status != http.StatusNotImplemented || got.code == "internal" || got.code == "unknown":
					t.Errorf("%s to %s: %d %s %.200s", name, path, got.status, got.code, got.text)
				case got.status == http.StatusOK && !isStream(body.contentType):
					t.Errorf("%s to %s was taken: %.200s", name, path, got.text)
				case got.code != "" && !coded.MatchString(got.text):
					t.Errorf("%s to %s: no stable code: %s %.200s", name, path, got.code, got.text)
				}
			}
		}
	})
	t.Run("removed principal", func(t *testing.T) {
		gone := c.addPrincipal(membership.KindTenant, "gone", membership.UseContract, membership.UseSubmission, membership.UseToken)
		bearer, err := gone.Token()
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ask("/tallystick.v1.Control/ListExecutions", bearer, "application/json", []byte("{}")); got.status != http.StatusOK {
			t.Errorf("before: %d %s", got.status, got.text)
		}
		file := filepath.Join(t.TempDir(), "change")
		c.tally("admin", "member", "propose", "remove", "gone", "-o", file)
		c.tally("admin", "member", "sign", file, "--yes")
		c.tally("admin", "member", "apply", file)
		if got := c.ask("/tallystick.v1.Control/ListExecutions", bearer, "application/json", []byte("{}")); got.status != http.StatusUnauthorized {
			t.Errorf("after: %d %s", got.status, got.text)
		}
	})
	c.healthy()
}

func isStream(contentType string) bool {
	return strings.HasPrefix(contentType, "application/grpc") || strings.HasPrefix(contentType, "application/connect")
}

// quiet waits until several rounds have added nothing to the audit log, and
// returns the checkpoint without its signatures, which are renewed.
func (c *cluster) quiet() string {
	c.t.Helper()
	last, same := "", 0
	c.eventually("the audit log is quiet", func() error {
		note, err := get(c.server + "/audit/checkpoint")
		if err != nil {
			return err
		}
		body, _, _ := strings.Cut(string(note), "\n\n")
		if same++; body != last {
			last, same = body, 0
		}
		if same < 30 {
			return errors.New("it has just grown")
		}
		return nil
	})
	return last
}

// raw sends bytes and returns what comes back, at most a kilobyte, "" when the
// connection was only closed.
func (c *cluster) raw(t *testing.T, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.server, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// The server may answer and close before it has read all.
	go func() { _, _ = io.WriteString(conn, request) }()
	head := make([]byte, 1024)
	n, err := io.ReadAtLeast(conn, head, len("HTTP/1.1 200 "))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%.60q hangs", request)
	}
	return string(head[:n])
}

// bomb compresses n zero bytes.
func bomb(t *testing.T, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	for range n >> 20 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func b64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// otherEnd is another spelling of the same last bits of a signature in base64.
func otherEnd(last byte) byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.IndexByte(alphabet, last)^1]
}

// jwt signs any header and claims.
func jwt(t *testing.T, key crypto.Signer, header, claims string) string {
	t.Helper()
	text := b64(header) + "." + b64(claims)
	sig, err := key.Sign(nil, []byte(text), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func public(key crypto.Signer) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }
