package verifier_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// refusedBundle is one row of testdata/bundle/refused.json. Genesis and
// execution are left out where they are those of the golden bundle.
type refusedBundle struct {
	Name      string          `json:"name"`
	Code      verifier.Code   `json:"code"`
	Rule      provenance.Code `json:"rule,omitempty"`
	File      string          `json:"file"` // under testdata/bundle/refused
	Genesis   string          `json:"genesis,omitempty"`
	Execution string          `json:"execution,omitempty"` // that was asked for
}

// TestRefusedBundleVectors holds the refusals of this package's table that need
// no other policies, as files, and bundles that are damaged.
func TestRefusedBundleVectors(t *testing.T) {
	dir := filepath.Join("..", "testdata", "bundle")
	var list []refusedBundle
	add := func(v refusedBundle, file []byte) {
		v.File = strconv.Itoa(len(list)+1) + ".tallyproof"
		list = append(list, v)
		compareFile(t, filepath.Join(dir, "refused", v.File), file)
	}
	for _, test := range refusals {
		c, id := story(t)
		trust, opts := trustOf(c), verifier.Options{}
		file := format(t, test.make(t, c, id, &trust, &opts))
		if trust.AuditPolicy != c.AuditPolicy || trust.MembershipPolicy != c.MembershipPolicy {
			continue
		}
		v := refusedBundle{Name: test.name, Code: test.code, Rule: test.rule, Execution: opts.Execution}
		if !bytes.Equal(trust.Genesis, c.Genesis) {
			v.Genesis = string(trust.Genesis)
		}
		add(v, file)
	}
	c, id := story(t)
	for _, test := range brokenFiles(format(t, c.Bundle(id))) {
		add(refusedBundle{Name: test.name, Code: test.want}, test.file)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(list); err != nil {
		t.Fatal(err)
	}
	compareFile(t, filepath.Join(dir, "refused.json"), b.Bytes())

	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	audit, err := checkpoint.ParsePolicy(read("audit.policy"))
	if err != nil {
		t.Fatal(err)
	}
	members, err := checkpoint.ParsePolicy(read("membership.policy"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		trust := verifier.Trust{AuditPolicy: audit, MembershipPolicy: members, Genesis: read("genesis.json")}
		if v.Genesis != "" {
			trust.Genesis = []byte(v.Genesis)
		}
		_, err := verifier.VerifyBundle(read(filepath.Join("refused", v.File)), trust, verifier.Options{Execution: v.Execution})
		var refused *verifier.Error
		if !errors.As(err, &refused) || refused.Code != v.Code || refused.Rule != v.Rule {
			t.Errorf("%s: %v, want code %q and rule %q", v.Name, err, v.Code, v.Rule)
		}
	}
}

func compareFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s differs from what is made now", path)
	}
}
