package membership

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// A note that the log's key signed is still no checkpoint unless its text is.
func TestCheckCheckpoint(t *testing.T) {
	log := logsOf(t, testCluster).Audit
	skey := skeyOf(t, log.Origin, "log "+log.Origin)
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	root := b64(bytes.Repeat([]byte{7}, 32))
	for _, test := range []struct {
		text   string
		lawful bool
	}{
		{"demo/audit\n0\n" + root + "\n", true},
		{"demo/audit\n9223372036854775807\n" + root + "\n", true},
		{"demo/audit\n9223372036854775808\n" + root + "\n", false},
		{"demo/audit\n-1\n" + root + "\n", false},
		{"demo/audit\n+1\n" + root + "\n", false},
		{"demo/audit\n01\n" + root + "\n", false},
		{"demo/audit\n\n" + root + "\n", false},
		{"demo/membership\n1\n" + root + "\n", false},
		{"demo/audit\n1\n" + root[:40] + "\n", false},
		{"demo/audit\n1\n" + strings.TrimRight(root, "=") + "\n", false},
		{"demo/audit\n1\n" + root[:42] + "d=\n", false}, // stray bits in the last character
		{"demo/audit\n1\n" + root + "\nextension\n", false},
		{"demo/audit\n1\n", false},
		{"demo/audit\n", false},
	} {
		signed, err := note.Sign(&note.Note{Text: test.text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkCheckpoint(log, string(signed)); (err == nil) != test.lawful {
			t.Errorf("%q: %v", test.text, err)
		}
	}
	log.Keys = []string{"no vkey"}
	if checkCheckpoint(log, "") == nil {
		t.Error("a log without usable keys has a checkpoint")
	}
}

// A key for one log of a kind other than Ed25519 notes is refused, whatever it
// would verify.
func TestParseVkey(t *testing.T) {
	good := vkeyOf(t, "demo/audit", "k")
	if key, err := parseVkey("demo/audit", good); err != nil || !bytes.Equal(key, publicOf("k")) {
		t.Errorf("%s: %v", good, err)
	}
	raw := strings.SplitN(good, "+", 3)
	for _, vkey := range []string{
		"", "demo/audit", raw[0] + "+" + raw[1], raw[0] + "+00000000+" + raw[2], good + "\n", " " + good,
		vkeyOf(t, "demo/audit.2", "k"), smallOrderVkey(t, "demo/audit"),
	} {
		if _, err := parseVkey("demo/audit", vkey); err == nil {
			t.Errorf("%q was accepted", vkey)
		}
	}
}

func smallOrderVkey(t *testing.T, name string) string {
	t.Helper()
	vkey, err := note.NewEd25519VerifierKey(name, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

// The membership log's keys are set as the audit log's are.
func TestSetMembershipLogKeys(t *testing.T) {
	s := mustGenesis(t)
	key := vkeyOf(t, "demo/membership", "another")
	next := mustApply(t, s, SetLogKeys{Log: LogMembership, Keys: []string{key}})
	if got := next.Logs().Named(LogMembership); len(got.Keys) != 1 || got.Keys[0] != key || got.Origin != "demo/membership" {
		t.Errorf("membership log is %+v", got)
	}
	if next.Logs().Named(LogAudit).Keys[0] != s.Logs().Audit.Keys[0] {
		t.Error("the audit log's keys have changed")
	}
}

func TestRefusedFull(t *testing.T) {
	s := mustGenesis(t).light()
	s.members.n = MaxPrincipals // a hundred thousand real ones would tell nothing more
	_, err := s.Propose(AddPrincipal{nodeOf("node-1")})
	wantRefusal(t, err, RefusedFull)
}
