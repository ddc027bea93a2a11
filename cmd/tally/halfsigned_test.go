package main

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/keyfile"
)

// openOffice founds a cluster of three admins, two of whom must sign, and starts
// its control plane.
func openOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t, t.TempDir()}
	o.found("--witness", "a="+vkeyOfWitness(t, 0), "--witness", "b="+vkeyOfWitness(t, 1), "--witness", "c="+vkeyOfWitness(t, 2))
	_, stop, err := serveFake(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return o
}

func vkeyOfWitness(t *testing.T, i int) string {
	t.Helper()
	w, err := cosigner(fakeWitnesses[i])
	if err != nil {
		t.Fatal(err)
	}
	return w.Key().Vkey()
}

// founding is the command that founds the office's cluster.
func (o *office) founding(more ...string) []string {
	return append([]string{"cluster", "init", "--dir", o.dir, "--cluster", "example", "--logs", o.path("logs.json"), "--server", "http://127.0.0.1:1",
		"--admin", "ada", "--admin", "grace", "--admin", "edsger", "--node", "node-1", "--node", "node-2", "--tenant", "acme"}, more...)
}

func (o *office) found(more ...string) {
	o.t.Helper()
	logs, err := logsOf("example")
	if err == nil {
		err = os.WriteFile(o.path("logs.json"), logs, 0o600)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	o.must("", o.founding(more...), `cluster "example" is in`)
}

// edit changes the envelope in a file.
func (o *office) edit(from, to string, change func(*dsse.Envelope)) {
	o.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		o.t.Fatal(err)
	}
	e, err := dsse.Parse(data)
	if err != nil {
		o.t.Fatal(err)
	}
	change(e)
	if data, err = e.Marshal(); err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) keyID(name string) string {
	o.t.Helper()
	key, err := keyfile.LoadEd25519(o.path(filepath.Join("keys", name)), nil)
	if err != nil {
		o.t.Fatal(err)
	}
	return dsse.KeyID(key.Public().(ed25519.PublicKey))
}

// Anybody can write into a file that somebody has signed. The next signer must
// not be told that those have signed who have not, and signs nothing that nobody
// could apply.
func TestSignVerifiesWhoSignedBefore(t *testing.T) {
	o := openOffice(t)
	change, forged := o.path("change.json"), o.path("forged.json")
	o.must("ada", []string{"member", "propose", "admin-threshold", "3", "-o", change}, "epoch 2")
	o.must("ada", []string{"member", "sign", change, "--yes"}, "missing: 1 of 2 admins")
	for _, test := range []struct {
		name   string
		change func(*dsse.Envelope)
		reason string
	}{
		{"another's name over a signature", func(e *dsse.Envelope) {
			e.Signatures = append(e.Signatures, dsse.Signature{KeyID: o.keyID("grace-change.pem"), Sig: e.Signatures[0].Sig})
		}, "does not verify"},
		{"a signature of another payload", func(e *dsse.Envelope) {
			e.Payload = bytes.Replace(e.Payload, []byte(`"threshold":3`), []byte(`"threshold":1`), 1)
		}, ""}, // refused by the rules already, for its hashes
		{"a stranger's key", func(e *dsse.Envelope) {
			e.Signatures = append(e.Signatures, dsse.Signature{KeyID: strings.Repeat("ab", 32), Sig: e.Signatures[0].Sig})
		}, "a key that is not expected"},
		{"an admin's key for tokens", func(e *dsse.Envelope) {
			e.Signatures = append(e.Signatures, dsse.Signature{KeyID: o.keyID("grace-token.pem"), Sig: e.Signatures[0].Sig})
		}, "a key that is not expected"},
	} {
		o.edit(change, forged, test.change)
		before, err := os.ReadFile(forged)
		if err != nil {
			t.Fatal(err)
		}
		out, err := o.try("edsger", "member", "sign", forged, "--yes")
		if err == nil || !strings.Contains(err.Error(), test.reason) {
			t.Errorf("%s: %v, want %q", test.name, err, test.reason)
		}
		if strings.Contains(out, "signed so far") || strings.Contains(out, "complete") {
			t.Errorf("%s: edsger is told\n%s", test.name, out)
		}
		if after, err := os.ReadFile(forged); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: the file was changed, %v", test.name, err)
		}
	}
	// Without the membership nothing can be said about signatures, which is said.
	o.edit(change, forged, func(e *dsse.Envelope) {
		e.Signatures = append(e.Signatures, dsse.Signature{KeyID: o.keyID("grace-change.pem"), Sig: e.Signatures[0].Sig})
	})
	if out, err := o.try("edsger", "member", "sign", forged, "--offline"); err == nil || !strings.Contains(out, "(not checked)") {
		t.Errorf("offline: %v\n%s", err, out)
	}
	// The file as it was goes on.
	o.must("grace", []string{"member", "sign", change, "--yes"}, `signed so far by admin "ada"`, "it is complete")
	o.must("ada", []string{"member", "apply", change}, "epoch 2")
}

// A whileAsked is a signer's answer, before which something else happens.
type whileAsked struct {
	happens func()
	answer  io.Reader
}

func (w *whileAsked) Read(p []byte) (int, error) {
	if w.happens != nil {
		w.happens()
		w.happens = nil
	}
	return w.answer.Read(p)
}

// What was shown is signed, or nothing is: neither another proposal that was put
// in its place, nor at the cost of a signature that came meanwhile.
func TestSignKeepsToWhatWasShown(t *testing.T) {
	o := openOffice(t)
	change, other := o.path("change.json"), o.path("other.json")
	o.must("ada", []string{"member", "propose", "admin-threshold", "3", "-o", change}, "epoch 2")
	o.must("ada", []string{"member", "propose", "node-quorum", "1", "-o", other}, "epoch 2")
	for name, happens := range map[string]func(){
		"another proposal": func() {
			data, err := os.ReadFile(other)
			if err == nil {
				err = os.WriteFile(change, data, 0o600)
			}
			if err != nil {
				t.Error(err)
			}
		},
		"another signature": func() { o.must("ada", []string{"member", "sign", change, "--yes"}, "signature") },
		"removed":           func() { _ = os.Remove(change) },
	} {
		o.must("ada", []string{"member", "propose", "admin-threshold", "3", "-o", o.path("again.json")})
		if err := os.Rename(o.path("again.json"), change); err != nil {
			t.Fatal(err)
		}
		var meanwhile []byte
		root := rootCommand(&app{})
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SetIn(&whileAsked{func() { happens(); meanwhile, _ = os.ReadFile(change) }, strings.NewReader("yes\n")})
		root.SetArgs([]string{"member", "sign", change, "--profile", o.path("grace.json")})
		if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "has changed since it was shown") {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(change); !bytes.Equal(after, meanwhile) {
			t.Errorf("%s: the file was written over:\n%s", name, after)
		}
	}
}

// Signatures are collected over days; the next proposal must not cost them.
func TestProposeKeepsSignatures(t *testing.T) {
	o := openOffice(t)
	change := o.path("change.json")
	propose := []string{"member", "propose", "node-quorum", "1", "-o", change}
	o.must("ada", []string{"member", "propose", "admin-threshold", "3", "-o", change})
	o.must("ada", propose) // nobody has signed what was there
	o.must("grace", []string{"member", "sign", change, "--yes"}, "missing: 1 of 2 admins")
	o.refused("ada", []string{"member", "propose", "admin-threshold", "3", "-o", change}, `that admin "grace" signed and that is not applied yet`)
	o.must("ada", []string{"member", "sign", change, "--yes"}, "it is complete")
	o.must("ada", []string{"member", "apply", change}, "epoch 2")
	o.must("ada", []string{"member", "propose", "admin-threshold", "3", "-o", change}, "epoch 3") // applied: it is in the log
}

// Whoever founds a cluster twice into one folder, with somebody more, must not
// lose the genesis that everybody has pinned.
func TestGenesisIsNotReplaced(t *testing.T) {
	o := openOffice(t)
	witnesses := []string{"--witness", "a=" + vkeyOfWitness(t, 0), "--witness", "b=" + vkeyOfWitness(t, 1), "--witness", "c=" + vkeyOfWitness(t, 2)}
	before, err := os.ReadFile(o.path("genesis.json"))
	if err != nil {
		t.Fatal(err)
	}
	o.refused("", o.founding(append(witnesses, "--tenant", "late")...), "is the genesis of a cluster already")
	o.must("", o.founding(witnesses...), `cluster "example" is in`)
	if after, err := os.ReadFile(o.path("genesis.json")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the genesis is another one, %v", err)
	}
}

// The policies say what was asked for, whatever the witnesses are named.
func TestLawfulWitnessPolicies(t *testing.T) {
	o := &office{t, t.TempDir()}
	o.found("--development", "--witness", "quorum="+vkeyOfWitness(t, 0), "--lawful-witness", "lawful="+vkeyOfWitness(t, 1))
	bare := &office{t, t.TempDir()}
	bare.found("--development", "--lawful-witness", "lawful="+vkeyOfWitness(t, 1))
	for _, test := range []struct {
		o         *office
		satisfied [][]string
		short     [][]string
	}{
		{o, [][]string{{"quorum", "lawful"}}, [][]string{{"quorum"}, {"lawful"}, nil}},
		{bare, [][]string{{"lawful"}}, [][]string{nil}},
	} {
		p, err := wiring.ReadPolicy(test.o.path("membership.policy"))
		if err != nil {
			t.Fatal(err)
		}
		for want, lists := range map[bool][][]string{true: test.satisfied, false: test.short} {
			for _, names := range lists {
				have := map[string]bool{}
				for _, name := range names {
					have[name] = true
				}
				if got := p.CouldSatisfy(have); got != want {
					t.Errorf("%s: cosigned by %q: %t", p.Quorum(), names, got)
				}
			}
		}
	}
}
