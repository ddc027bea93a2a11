//go:build slow

package webui

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/webui/inspect"
)

// enableLog asks the browser for what its console would show.
var enableLog = chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
	_, err := cdp.Call(ctx, tab, log.Enable, cdp.Empty{})
	return err
})

// goldenTime is shortly after the golden bundle was made: its cosignatures are fresh.
var goldenTime = time.Date(2026, 1, 1, 0, 16, 0, 0, time.UTC)

// browser is one tab of a headless Chromium with a profile of its own.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // errors of the console, violations of the security policy, exceptions
}

// newBrowser starts Chromium, or skips the test where there is none.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: apt-get install chromium")
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WindowSize(1200, 900))
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	b := &browser{t: t, ctx: ctx}
	b.do(chromedp.Navigate("about:blank"))
	entries, exceptions := chromedp.Events(ctx, log.EntryAdded), chromedp.Events(ctx, runtime.ExceptionThrown)
	if _, err := chromedp.Run(ctx, enableLog); err != nil {
		t.Fatal(err)
	}
	b.setClock(goldenTime)
	var watching sync.WaitGroup
	watching.Go(func() {
		for e, err := range entries {
			// Refusals of the API are expected; everything else is a fault of the page.
			if err == nil && e.Entry.Level == log.EntryLevelError && !strings.Contains(e.Entry.Text, "the server responded with a status of 4") {
				b.problem(e.Entry.Text)
			}
		}
	})
	watching.Go(func() {
		for e, err := range exceptions {
			if err == nil {
				b.problem(e.ExceptionDetails.Text)
			}
		}
	})
	t.Cleanup(func() {
		cancel() // ends both
		watching.Wait()
		for _, p := range b.problems {
			t.Errorf("the page: %s", p)
		}
	})
	return b
}

// setClock makes pages that are opened from now on believe that it is this time.
func (b *browser) setClock(at time.Time) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
			Source: fmt.Sprintf("Date.now = () => %d;", at.UnixMilli()),
		})
		return err
	}))
}

func (b *browser) problem(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, text)
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// sees waits until the element's text holds the words.
func (b *browser) sees(selector, words string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	script := `[...document.querySelectorAll(` + quote(selector) + `)].some((e) => e.textContent.includes(` + quote(words) + `))`
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](script, chromedp.WithPollingInterval(20*time.Millisecond))); err != nil {
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		b.t.Fatalf("no %q in %s: %v; the page says:\n%s", words, selector, err, text)
	}
}

func base64Of(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func quote(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}

// press clicks the button with this text.
func (b *browser) press(text string) {
	b.t.Helper()
	b.do(chromedp.Click(`//button[normalize-space(.)="` + text + `"]`))
}

// keep saves a picture of the whole page if TALLYSTICK_SCREENSHOTS names a
// directory.
func (b *browser) keep(name string) {
	b.t.Helper()
	dir := os.Getenv("TALLYSTICK_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) look(dark bool, width int64) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}), chromedp.EmulateViewport(width, 900))
}

// TestVisit is a visitor's way through the page.
func TestVisit(t *testing.T) {
	api, server := newFakeAPI(t)
	b := newBrowser(t)
	b.look(false, 1200)

	// Nobody is signed in.
	b.do(chromedp.Navigate(server.URL))
	b.sees("h1", "Nobody has to trust the server")
	b.keep("welcome")
	b.press("Use a token")
	b.do(chromedp.SendKeys("#signin-token", "nonsense"))
	b.press("Use token")
	b.sees("#signin-error", "not a token")
	b.keep("sign-in")
	b.press("Cancel")

	// A token in the fragment leaves the address bar.
	b.do(chromedp.Navigate(server.URL+"/#token="+goodToken), chromedp.Reload())
	b.do(chromedp.Navigate("about:blank"), chromedp.Navigate(server.URL+"/#token="+goodToken))
	b.sees("h2", "Cluster root verified in this browser")
	address, err := chromedp.Run(b.ctx, chromedp.Location())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(address, "token") {
		t.Errorf("the address bar still says %q", address)
	}
	b.sees(".principal", "alice")
	b.sees(".verdict", "On first use")
	b.sees(".verdict summary", "8 of 8 checks passed")
	b.do(chromedp.Click(".verdict summary"))
	b.sees(".witnesses", "witness-1.example")
	b.sees("table", "node-5")
	b.keep("overview")
	b.look(true, 1200)
	b.keep("overview-dark")
	b.look(false, 390)
	b.keep("overview-phone")
	b.look(false, 1200)

	// Executions, and one of them.
	b.do(chromedp.Click(`nav a[data-view="executions"]`))
	b.sees("table", "complete")
	b.keep("executions")
	b.do(chromedp.Click(`//tr[contains(., "complete")]//a`))
	b.sees(".proof h2", "Proven")
	b.sees(".steps", "Every record is in the audit log")
	b.sees(".timeline", "nodes agree")
	b.press("Show the output")
	b.sees(".pill", "has the digest of the proof")
	b.sees("pre", "output")
	b.keep("execution")
	b.look(true, 1200)
	b.keep("execution-dark")
	b.look(false, 390)
	b.keep("execution-phone")
	b.look(false, 1200)
	b.press("Flip one bit and check again")
	b.sees(".proof h2", "Refused")
	b.keep("execution-tampered")
	b.press("Check the original again")
	b.sees(".proof h2", "Proven")

	// One that is open completes while we watch.
	b.do(chromedp.Navigate(server.URL + "/#/executions/" + strings.Repeat("ab", 32)))
	b.sees(".timeline", "waiting for agreement")
	b.keep("execution-open")
	close(api.watch)
	b.sees(".timeline", "nodes agree")
	// Its proof is the golden one's, which is another execution's.
	b.sees(".proof h2", "Refused")
	b.do(chromedp.Navigate(server.URL + "/#/executions/" + strings.Repeat("cd", 32)))
	b.sees(".timeline", "Diverged")
	b.keep("execution-diverged")
	// One that failed is told from one that did what it should.
	b.do(chromedp.Navigate(server.URL + "/#/executions/" + strings.Repeat("ef", 32)))
	b.sees(".heading .pill.wait", "exit, code 7")
	b.do(chromedp.Navigate(server.URL + "/#/executions/" + strings.Repeat("00", 32)))
	b.sees(".banner", "no such execution for this tenant")

	b.press("Forget token")
	b.sees("h1", "Nobody has to trust the server")
}

// TestDroppedFile checks files without any token: nothing is sent.
func TestDroppedFile(t *testing.T) {
	api, server := newFakeAPI(t)
	b := newBrowser(t)
	b.look(false, 1200)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.tallyproof", api.bundle)
	bent := slices.Clone(api.bundle)
	bent[len(bent)/2] ^= 1
	b.do(chromedp.Navigate(server.URL + "/#/check"))
	b.sees("h1", "Check a proof")
	b.keep("check")
	b.do(chromedp.SetUploadFiles("#bundle", []string{good}))
	b.sees(".proof h2", "Proven")
	b.sees(".card", "What it leaves to others")
	b.keep("check-proven")
	b.do(chromedp.SetUploadFiles("#bundle", []string{write("bent.tallyproof", bent)}))
	b.sees(".proof h2", "Refused")
	b.sees(".proof", "proof bundle is damaged")
	b.do(chromedp.SetUploadFiles("#bundle", []string{write("empty.tallyproof", nil)}))
	b.sees(".proof h2", "Refused")
	b.keep("check-refused")
}

// TestEndsWithoutResult: a bundle may prove that there is no result, which is no
// reason to refuse the bundle.
func TestEndsWithoutResult(t *testing.T) {
	var vectors []struct {
		Name, File, Genesis, Code string
		AuditPolicy               string `json:"audit_policy"`
		MembershipPolicy          string `json:"membership_policy"`
	}
	if err := json.Unmarshal(golden(t, "verified.json"), &vectors); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, v := range vectors {
		if v.Code != "no_result" {
			continue
		}
		seen++
		t.Run(v.Name, func(t *testing.T) {
			api, server := newFakeAPI(t)
			trust := inspect.Trust{Genesis: []byte(v.Genesis), AuditPolicy: []byte(v.AuditPolicy), MembershipPolicy: []byte(v.MembershipPolicy)}
			bundle := golden(t, filepath.Join("verified", v.File))
			e := inspect.Bundle(bundle, trust, "").Execution
			status := statusOf(e)
			status.State = pb.ExecutionState(pb.ExecutionState_value["EXECUTION_STATE_"+strings.ToUpper(v.Name)])
			api.served = map[string][]byte{"/genesis": trust.Genesis, "/audit.policy": trust.AuditPolicy, "/membership.policy": trust.MembershipPolicy}
			api.mux["Control/QueryExecutionStatus"] = func([]byte) proto.Message { return &pb.QueryExecutionStatusResponse{Status: status} }
			api.mux["Control/RetrieveExecutionProof"] = func([]byte) proto.Message { return &pb.RetrieveExecutionProofResponse{Bundle: bundle} }

			b := newBrowser(t)
			b.look(false, 1280)
			b.do(chromedp.Navigate(server.URL + "/#token=" + goodToken))
			b.sees(".principal", "alice")
			b.do(chromedp.Navigate(server.URL + "/#/executions/" + e.ID))
			b.sees(".proof .verdict.warn h2", "Proven: "+v.Name+", without a result")
			b.sees(".proof .facts", v.Name+", without a result")
			b.sees(".proof .card", "What this proves")
			b.hides(".proof", "Refused")
			b.hides(".proof", "Do not rely on it")
			b.keep("execution-ended-" + v.Name)
			b.press("Flip one bit and check again")
			b.sees(".proof h2", "Refused")
		})
	}
	if seen == 0 {
		t.Error("no vector ends without a result")
	}
}

// TestTrust walks from trust on first use to pinned files, and sees a server
// that changes its mind.
func TestTrust(t *testing.T) {
	api, server := newFakeAPI(t)
	b := newBrowser(t)
	b.look(false, 1200)
	b.do(chromedp.Navigate(server.URL + "/#/trust"))
	b.sees(".banner", "Trust on first use")
	sum := digest.Of(api.trust.Genesis)
	b.sees(".digest", hex.EncodeToString(sum[:]))
	b.keep("trust")

	// The server changes its suggestion: the page does not follow.
	other := strings.Replace(string(api.trust.AuditPolicy), "group quorum-of-witnesses 2", "group quorum-of-witnesses 1", 1)
	api.set(func() { api.served["/audit.policy"] = []byte(other) })
	b.do(chromedp.Reload())
	b.sees(".banner", "suggests other files than when you first came")
	b.keep("trust-changed")
	b.do(chromedp.Navigate(server.URL + "/#/check"))
	path := filepath.Join(t.TempDir(), "good.tallyproof")
	if err := os.WriteFile(path, api.bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SetUploadFiles("#bundle", []string{path}))
	b.sees(".proof h2", "Verified, but not against what you first saw")

	// The user's own files.
	b.do(chromedp.Navigate(server.URL + "/#/trust"))
	b.sees("summary", "Use my own files")
	b.do(chromedp.Click(`//summary[.="Use my own files"]`))
	dir := filepath.Join("..", "testdata", "bundle")
	var own []string
	for _, name := range []string{"genesis.json", "audit.policy", "membership.policy"} {
		absolute, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, absolute)
	}
	b.do(chromedp.SetUploadFiles("#own-files", own))
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](`document.getElementById("own-auditPolicy").value !== ""`)); err != nil {
		t.Fatal(err)
	}
	b.keep("trust-own")
	b.press("Pin these files")
	b.sees(".banner", "You pinned these files")
	b.sees(".banner", "The server suggests others now")
	b.keep("trust-pinned")
	b.do(chromedp.Reload())
	b.sees(".banner", "You pinned these files")
	b.press("Forget what I pinned")
	b.sees(".banner", "Trust on first use")
}

// TestLyingServer: each lie shows.
func TestLyingServer(t *testing.T) {
	api, server := newFakeAPI(t)
	b := newBrowser(t)
	b.look(false, 1200)
	for name, c := range map[string]struct {
		lie  func(method string, answer proto.Message)
		want string
	}{
		"membership hash": {func(_ string, answer proto.Message) {
			if root, ok := answer.(*pb.GetClusterRootResponse); ok {
				root.MembershipHash = strings.Repeat("0", 64)
			}
		}, "the server says"},
		"cosignatures": {func(_ string, answer proto.Message) {
			if root, ok := answer.(*pb.GetClusterRootResponse); ok {
				lines := strings.SplitAfter(string(root.AuditCheckpoint), "\n")
				root.AuditCheckpoint = []byte(strings.Join(lines[:5], ""))
			}
		}, "quorum"},
		"a hash that is none": {func(_ string, answer proto.Message) {
			if root, ok := answer.(*pb.GetClusterRootResponse); ok {
				root.ClusterIdentityHash = `<img src=x onerror="document.title='owned'">`
			}
		}, "<img src=x"},
		"another genesis": {func(_ string, answer proto.Message) {
			if changes, ok := answer.(*pb.ListChangesResponse); ok {
				changes.Changes[0] = []byte("{}")
			}
		}, "this is not the cluster that you trust"},
	} {
		api.set(func() { api.lie = c.lie })
		b.do(chromedp.Navigate("about:blank"), chromedp.Navigate(server.URL+"/#token="+goodToken))
		b.sees("h2", "The cluster root does not verify")
		b.sees(".failed .detail", c.want)
		b.keep("lie-" + strings.ReplaceAll(name, " ", "-"))
	}
}

// hides fails if the element's text holds the words.
func (b *browser) hides(selector, words string) {
	b.t.Helper()
	script := `[...document.querySelectorAll(` + quote(selector) + `)].some((e) => e.textContent.includes(` + quote(words) + `))`
	if there, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](script)); err != nil || there {
		b.t.Errorf("%q is in %s, %v", words, selector, err)
	}
}

// TestLiesBesideTheProof: where the page has verified something it shows that, and
// not what the server says of the same.
func TestLiesBesideTheProof(t *testing.T) {
	api, server := newFakeAPI(t)
	b := newBrowser(t)
	b.look(false, 1200)
	api.set(func() {
		api.lie = func(_ string, answer proto.Message) {
			switch m := answer.(type) {
			case *pb.GetClusterRootResponse:
				m.Cluster, m.Epoch, m.AdminThreshold, m.NodeQuorum, m.MembershipCount = "another", 7777, 7777, 7777, 7777
			case *pb.QueryExecutionStatusResponse:
				forged := digest.Of([]byte("forged"))
				m.Status.Outcome.OutputDigest = hex.EncodeToString(forged[:])
				m.Status.Tenant = "mallory"
			case *pb.GetBlobResponse:
				m.Data = []byte("forged")
			}
		}
	})
	b.do(chromedp.Navigate(server.URL + "/#token=" + goodToken))
	b.sees("h2", "Cluster root verified in this browser")
	b.sees(".identity dd", "nodes must be members")
	b.hides(".identity, h1", "7,777")
	b.hides("h1", "another")

	id := inspect.Bundle(api.bundle, api.trust, "").Execution.ID
	b.do(chromedp.Navigate(server.URL + "/#/executions/" + id))
	b.sees(".proof h2", "Proven")
	b.sees(".proof .banner", "Of the tenant it says mallory; proven is tenant-1")
	b.sees(".proof .banner", "Of the output it says")
	b.press("Show the output")
	b.sees(".pill", "is not the output of this execution")
	b.keep("lies-beside-the-proof")

	// With the truth there is nothing to say.
	api.set(func() { api.lie = nil })
	b.do(chromedp.Reload())
	b.sees(".proof h2", "Proven")
	b.hides(".proof .banner", "Of the")
}

// TestOldView: a server that shows an old membership, perhaps to hide a
// revocation, is told apart.
func TestOldView(t *testing.T) {
	_, server := newFakeAPI(t)
	b := newBrowser(t)
	b.look(false, 1200)
	b.setClock(goldenTime.Add(time.Hour))
	b.do(chromedp.Navigate(server.URL + "/#token=" + goodToken))
	b.sees("h2", "The cluster root does not verify")
	b.sees(".failed .title", "not older than 15 minutes")
}

// TestExpiredToken: the page asks for another one.
func TestExpiredToken(t *testing.T) {
	_, server := newFakeAPI(t)
	b := newBrowser(t)
	b.look(false, 1200)
	b.do(chromedp.Navigate(server.URL + "/#token=" + goodToken + "x"))
	b.sees("h1", "Your token has expired")
}

// A server that is gone is named in words, not in those of the browser.
func TestServerGone(t *testing.T) {
	_, server := newFakeAPI(t)
	b := newBrowser(t)
	b.do(chromedp.Navigate(server.URL + "/#token=" + goodToken))
	b.sees("h2", "Cluster root verified in this browser")
	if _, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`window.fetch = () => Promise.reject(new TypeError("Failed to fetch")), true`)); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Click(`nav a[data-view="executions"]`))
	b.sees(".banner", "The server does not answer.")
	b.hides(".banner", "Failed to fetch")
	b.sees("button", "Try again")
}

// TestLocalVerdictIsTheVerifiers: what the page computes is what Go computes.
func TestLocalVerdictIsTheVerifiers(t *testing.T) {
	api, server := newFakeAPI(t)
	b := newBrowser(t)
	b.do(chromedp.Navigate(server.URL + "/#/check"))
	b.sees("h1", "Check a proof")
	proof, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`(async () => {
		const { bundle } = await import("/verifier.js");
		const get = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
		const trust = { genesis: await get("/genesis"), auditPolicy: await get("/audit.policy"), membershipPolicy: await get("/membership.policy") };
		const data = Uint8Array.from(atob(`+quote(base64Of(api.bundle))+`), (c) => c.charCodeAt(0));
		return (await bundle(data, trust)).execution.execution_proof;
	})()`, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	if want := inspect.Bundle(api.bundle, api.trust, "").Execution.ExecutionProof; proof != want {
		t.Errorf("the browser found execution proof %s, Go %s", proof, want)
	}
}
