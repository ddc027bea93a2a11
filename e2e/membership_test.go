//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// TestRestoredMembership puts an old copy of the membership store back: as a copy
// of its files, which the store itself notices, and as a file system that was
// rolled back under it, which only the witnesses can know. Either way the control
// plane signs nothing, and the newest store goes on as if nothing had been.
func TestRestoredMembership(t *testing.T) {
	f := found(t)
	control := f.processes["control"]
	store := f.dirOf("control", "membership")
	control.stop()
	old := f.dirOf("old")
	f.copyTree(store, old)
	control.start()
	f.awaitHealthy()
	f.change(nil, "node-quorum", "3")
	f.eventually("the change is witnessed", func() error {
		if !strings.Contains(f.tally("auditor", "root"), "membership root   size 2") {
			return errors.New("not yet")
		}
		return nil
	})
	control.stop()
	newest := f.dirOf("newest")
	if err := os.Rename(store, newest); err != nil {
		t.Fatal(err)
	}
	heads := f.witnessHeads()

	f.copyTree(old, store)
	f.refusesToStart("it was copied or moved here from another place")
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}

	// Rolled back in place: the file by which the store knows where it is stays.
	if err := os.Rename(newest, store); err != nil {
		t.Fatal(err)
	}
	f.copyTree(store, newest)
	f.rollBack(old, store)
	f.refusesToStart("it has cosigned tree size 2, submitted was 1")

	// While no witness answers it does not know, and signs nothing either.
	for _, w := range foundedWitnesses {
		f.processes[w].stop()
	}
	if err := control.launch(); err != nil {
		t.Fatal(err)
	}
	f.eventually("the control plane serves what is public", func() error {
		res, err := http.Get(f.server + "/membership/tile/entries/000.p/1")
		if err == nil {
			res.Body.Close()
		}
		if err == nil && res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		return err
	})
	if reason, err := f.health(); err != nil || reason == "" {
		t.Errorf("health is %q, %v", reason, err)
	}
	f.processes["w3"].start()
	f.processes["w2"].start()
	<-control.done // it has heard of the larger tree
	f.processes["w1"].start()
	if again := f.witnessHeads(); !slices.Equal(again, heads) {
		t.Errorf("witnesses have\n%q\nand had\n%q", again, heads)
	}

	f.rollBack(newest, store)
	control.start()
	f.awaitHealthy()
	f.change(nil, "node-quorum", "2")
	if history := f.tally("auditor", "member", "history"); !strings.Contains(history, "epoch 3") {
		t.Errorf("the newest store does not go on:\n%s", history)
	}
}

// refusesToStart starts the control plane and waits until it has ended by itself,
// with a reason.
func (f *founded) refusesToStart(reason string) {
	f.t.Helper()
	control := f.processes["control"]
	before, err := os.ReadFile(control.log)
	if err == nil {
		err = control.launch()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	<-control.done
	said, err := os.ReadFile(control.log)
	if err != nil {
		f.t.Fatal(err)
	}
	if text := string(said[len(before):]); control.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(text, reason) {
		f.t.Errorf("the control plane ended with %s and said no %q:\n%s", control.cmd.ProcessState, reason, text)
	}
}

// witnessHeads returns what the witnesses have cosigned of the membership log,
// without signatures.
func (f *founded) witnessHeads() []string {
	f.t.Helper()
	var heads []string
	for _, w := range foundedWitnesses {
		signed, err := get("http://" + f.processes[w].addr + "/" + fmt.Sprintf("%x", sha256.Sum256([]byte(f.logs.Membership.Origin))) + "/checkpoint")
		if err != nil {
			f.t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(signed), "\n\n")
		heads = append(heads, head)
	}
	return heads
}

// copyTree copies a folder to where there is none.
func (f *founded) copyTree(from, to string) {
	f.t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		f.t.Fatal(err)
	}
}

// rollBack gives every file of a store but PLACE the content that it has in a
// copy, as a rolled back file system would.
func (f *founded) rollBack(copy, store string) {
	f.t.Helper()
	list, err := os.ReadDir(store)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != "PLACE" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(store, e.Name())))
		}
	}
	kept := filepath.Join(copy, "PLACE")
	aside := filepath.Join(f.t.TempDir(), "PLACE")
	err = errors.Join(err, os.Rename(kept, aside), os.CopyFS(store, os.DirFS(copy)), os.Rename(aside, kept))
	if err != nil {
		f.t.Fatal(err)
	}
}

// TestFrozenMembership is a control plane that keeps showing the nodes the
// membership as it was, with all of its signatures, while the audit log goes on
// and is witnessed: work that it assigns under the old view is not run, online
// clients refuse the view too, and as soon as the view is fresh all is done.
func TestFrozenMembership(t *testing.T) {
	f := found(t, "--refresh-interval", "1s")
	var frozen atomic.Bool
	for _, w := range foundedWitnesses {
		// Between the membership log and each witness is somebody who can cut it off.
		target := &url.URL{Scheme: "http", Host: f.processes[w].addr}
		proxy := httputil.NewSingleHostReverseProxy(target)
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if frozen.Load() {
				http.Error(rw, "cut off", http.StatusServiceUnavailable)
				return
			}
			proxy.ServeHTTP(rw, r)
		}))
		t.Cleanup(server.Close)
		f.edit(f.dirOf("control", "membership.policy"), target.String(), server.URL)
	}
	f.processes["control"].restart()
	f.awaitHealthy()
	const maxAge = "10s"
	f.startNodes("--max-age", maxAge)

	a := f.agent("tenant")
	hash := a.register("canonjson", nil)
	run := func(n int) string {
		t.Helper()
		input := fmt.Appendf(nil, "[%d]", n)
		envelope, id := a.submission(hash, input, n)
		if _, err := a.submit(envelope, input); err != nil {
			t.Fatal(err)
		}
		return id.String()
	}
	a.complete(run(1))

	frozen.Store(true)
	f.eventually("clients find the membership stale", func() error {
		_, errText, code := f.try("tally", "--profile", filepath.Join(f.dir, "tenant.json"), "--max-age", maxAge, "root")
		if code == 0 || !strings.Contains(errText, "fresh") && !strings.Contains(errText, "stale") {
			return fmt.Errorf("exit %d: %s", code, errText)
		}
		return nil
	})
	for _, command := range [][]string{{"member", "list"}, {"log", "checkpoint", "--membership"}, {"member", "history"}} {
		if out, _, code := f.try("tally", append([]string{"--profile", filepath.Join(f.dir, "tenant.json"), "--max-age", maxAge}, command...)...); code == 0 {
			t.Errorf("tally %s believes a stale membership:\n%s", strings.Join(command, " "), out)
		}
	}
	id := run(2)
	f.eventually("a node refuses the assignment", func() error {
		for _, node := range foundedNodes {
			log, err := os.ReadFile(f.processes[node].log)
			if err == nil && strings.Contains(string(log), "membership_stale") {
				return nil
			}
		}
		return errors.New("none has")
	})
	res, err := a.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id}))
	if err != nil {
		t.Fatal(err)
	}
	attested := func(r *pb.NodeReport) bool { return r.ResultDigest != "" }
	if s := res.Msg.Status; !s.Witnessed || s.State != pb.ExecutionState_EXECUTION_STATE_OPEN || slices.ContainsFunc(s.Reports, attested) {
		t.Errorf("under a frozen membership the execution is %v", s)
	}
	f.eventually("health tells", func() error {
		reason, err := f.health()
		if err == nil && reason == "" {
			err = errors.New("healthy")
		}
		return err
	})
	frozen.Store(false)
	a.complete(id)
	a.proof(id)
	f.awaitHealthy()
}
