//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// head is what a witness has cosigned last for an origin.
func (w *cosigner) head(origin string) ([]byte, tlog.Tree, error) {
	note, err := get(w.url + "/" + fmt.Sprintf("%x", digestOf(origin)) + "/checkpoint")
	if err != nil {
		return nil, tlog.Tree{}, err
	}
	tree, err := headOf(note)
	return note, tree, err
}

// reaches waits until a witness has cosigned a tree size.
func (w *cosigner) reaches(t *testing.T, origin string, size int64) (note []byte) {
	t.Helper()
	wait(t, fmt.Sprintf("%s has cosigned size %d", w.name, size), func() error {
		signed, tree, err := w.head(origin)
		if err == nil && tree.N != size {
			err = fmt.Errorf("size %d", tree.N)
		}
		note = signed
		return err
	})
	return note
}

// bothCosigned is the checkpoint of a size with the cosignatures of two witnesses.
func bothCosigned(t *testing.T, origin string, size int64, one, other *cosigner) []byte {
	t.Helper()
	note := one.reaches(t, origin, size)
	for line := range strings.Lines(string(other.reaches(t, origin, size))) {
		if strings.HasPrefix(line, "\u2014 "+other.name+".example ") {
			note = append(note, line...)
		}
	}
	return note
}

// TestUnlawfulChange: whoever owns a membership log appends a change that no
// admin has signed, and signs a checkpoint over it that looks like any other.
// Ordinary witnesses cosign, since the tree has only grown. The cosigner of
// lawful membership answers 422, keeps its head and leaves evidence that proves
// it with nothing but the genesis; a policy that asks for it is not satisfied, so
// nothing is published. And whoever has a policy that does not ask for it is told
// by the rules themselves.
func TestUnlawfulChange(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	id := c.Submit(c.Register(c.Contract()), []byte("input"))
	c.Run(id, testcluster.OK("output"))
	c.AddNode("node-9")
	origin := c.Membership.Origin
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}

	// The membership log, with its key in the wrong hands.
	store := filepath.Join(dir, "log")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, name := range map[string]string{"log.key": "log " + origin, "receipt.key": "receipt " + origin} {
		if err := keyfile.WriteEd25519(filepath.Join(store, file), testcluster.Key(name), nil); err != nil {
			t.Fatal(err)
		}
	}
	out, errText, code := (&cluster{t: t}).try("logserver", "init", "--dir", store, "--origin", origin)
	vkey := strings.TrimSpace(out)
	if want, err := checkpoint.Vkey(origin, testcluster.Public("log "+origin)); code != 0 || err != nil || vkey != want {
		t.Fatalf("logserver init: exit %d, %s%s, %v", code, out, errText, err)
	}
	genesis, logs, address := write("genesis.json", c.Genesis), policyOf(t, vkey, 0), newName(t)
	w1, w2 := newCosigner(t, "w1", logs), newCosigner(t, "w2", logs)
	lawful := newCosigner(t, "lawful", logs, "--lawful-log", address.url, "--lawful-genesis", genesis)
	strict, lax := policyOf(t, vkey, 3, w1, w2, lawful), policyOf(t, vkey, 2, w1, w2)
	log := serve(t, "logserver", "serve", "--dir", store, "--policy", strict)
	address.shows(t, log)
	log.ready(t)
	post := func(entry []byte) {
		t.Helper()
		if status, answer, err := log.add(string(entry)); err != nil || status != http.StatusOK {
			t.Fatalf("adding: %d %s %v", status, answer, err)
		}
	}

	// Lawful changes are cosigned by all three.
	for _, change := range c.Membership.Entries {
		post(change)
	}
	honest := c.Membership.Size()
	lawful.reaches(t, origin, honest)
	good := bothCosigned(t, origin, honest, w1, w2)
	wait(t, "the lawful checkpoint is published", func() error { return log.shows(honest) })

	// A node that no admin has signed for.
	payload, err := c.History.Current().Propose(membership.AddPrincipal{Principal: testcluster.NewNode("mole")})
	if err != nil {
		t.Fatal(err)
	}
	c.Membership.Append(c.Envelope(membership.PayloadType, payload, "mole/attestation", "mole/token"), nil)
	post(c.Membership.Entries[honest])
	spoiled := bothCosigned(t, origin, honest+1, w1, w2)

	var evidence []string
	wait(t, "the cosigner of lawful membership has evidence", func() (err error) {
		evidence, err = filepath.Glob(filepath.Join(lawful.dir, "evidence", "*.json"))
		if err == nil && len(evidence) == 0 {
			err = errors.New("none")
		}
		return err
	})
	if _, tree, err := lawful.head(origin); err != nil || tree.N != honest {
		t.Errorf("the cosigner of lawful membership has cosigned size %d, %v", tree.N, err)
	}
	if err := log.shows(honest); err != nil {
		t.Errorf("published: %v", err)
	}
	proof, err := tlog.ProveTree(honest+1, honest, c.Membership)
	if err != nil {
		t.Fatal(err)
	}
	request := checkpoint.AddRequest{OldSize: honest, Hashes: proof, Checkpoint: spoiled}
	res, err := http.Post(lawful.url+"/add-checkpoint", "", strings.NewReader(string(request.Format())))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("asked directly, it answers %s %s, %v", res.Status, body, err)
	}

	// The evidence convinces with nothing but the genesis.
	var report struct {
		Kind, Finding string
		Pinned        bool
		Unlawful      struct {
			Cluster string
			Index   int64
			Code    string
		} `json:"unlawful_change"`
	}
	text := verifierExits(t, 0, "evidence", evidence[0], "--genesis", genesis, "--policy", lax, "--json")
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatal(err)
	}
	if report.Kind != "unlawful_change" || report.Finding != "proven" || !report.Pinned || report.Unlawful.Cluster != c.Name ||
		report.Unlawful.Index != honest || report.Unlawful.Code != string(membership.RefusedThreshold) {
		t.Errorf("the evidence: %s", text)
	}
	verifierExits(t, 11, "evidence", evidence[0], "--genesis", lax)

	// A proof under a policy that ordinary witnesses satisfy: their checkpoint does
	// not make the change lawful.
	bundle := c.Bundle(id)
	audit := write("audit.policy", c.PolicyText.Audit)
	check := func(code int, name string) {
		t.Helper()
		data, err := provenance.FormatBundle(bundle)
		if err != nil {
			t.Fatal(err)
		}
		verifierExits(t, code, "proof", write(name, data), "--policy", audit, "--membership-policy", lax, "--genesis", genesis)
	}
	bundle.MembershipCheckpoint, bundle.MembershipChanges = good, c.Membership.Entries[:honest]
	check(0, "good.tallyproof")
	bundle.MembershipCheckpoint, bundle.MembershipChanges = spoiled, c.Membership.Entries
	check(6, "spoiled.tallyproof")
}

// shows wants a log to publish a tree size.
func (s *server) shows(size int64) error {
	note, err := get(s.url + "/checkpoint")
	if err != nil {
		return err
	}
	head, err := headOf(note)
	if err == nil && head.N != size {
		err = fmt.Errorf("size %d, want %d", head.N, size)
	}
	return err
}

// digestOf is the hash by which a witness knows an origin.
func digestOf(origin string) []byte {
	d := digest.Of([]byte(origin))
	return d[:]
}
