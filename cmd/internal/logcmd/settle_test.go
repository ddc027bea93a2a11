package logcmd

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/keyplace"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/keyfile/kms/kmstest"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestMain runs the tests, or the plugin when this binary is run under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "sigstore-kms-fake" {
		kmstest.Main()
		return
	}
	os.Exit(m.Run())
}

// keyMaker makes keys in files and in a service.
type keyMaker struct {
	t   *testing.T
	dir *directory
}

func newKeyMaker(t *testing.T) *keyMaker {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "sigstore-kms-fake")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	return &keyMaker{t, &directory{path: t.TempDir()}}
}

// put writes the key of a name into a file of the directory: the same key for
// the same name, whatever the file.
func (m *keyMaker) put(file, name string) ed25519.PublicKey {
	m.t.Helper()
	seed := [ed25519.SeedSize]byte{}
	copy(seed[:], name)
	key := ed25519.NewKeyFromSeed(seed[:])
	public := key.Public().(ed25519.PublicKey)
	var err error
	if strings.HasSuffix(file, kmsSuffix) {
		err = wiring.WriteFile(m.dir.file(file), []byte("fake://"+name+"/ed25519\n"+m.vkey(public)+"\n"), 0o644)
	} else {
		err = keyfile.WriteEd25519(m.dir.file(file), key, nil)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return public
}

func (m *keyMaker) vkey(public ed25519.PublicKey) string {
	m.t.Helper()
	vkey, err := checkpoint.Vkey("example.com/log", public)
	if err != nil {
		m.t.Fatal(err)
	}
	return vkey
}

// TestSettleKeys takes a rotation from one kind of key to another through every
// state in which it can be interrupted after the store has finished it: the log
// can be opened in each, and then there is one key in its place and one aside.
func TestSettleKeys(t *testing.T) {
	for _, from := range []string{keySuffix, kmsSuffix} {
		for _, to := range []string{keySuffix, kmsSuffix} {
			states := []map[string]string{{"log" + from: "old", "log.next" + to: "new"}}
			if from == to {
				states = append(states, map[string]string{"log" + from: "old", "log" + from + ".retired-": "old", "log.next" + to: "new"})
			} else {
				states = append(states, map[string]string{"log" + from: "old", "log" + to: "new"})
			}
			states = append(states, map[string]string{"log" + from + ".retired-": "old", "log" + to: "new"})
			for i, state := range states {
				t.Run(from[1:]+"-"+to[1:]+"-"+string(rune('0'+i)), func(t *testing.T) {
					m := newKeyMaker(t)
					public := map[string]ed25519.PublicKey{}
					for _, file := range slices.Sorted(maps.Keys(state)) {
						name := state[file]
						if strings.HasSuffix(file, "retired-") {
							public[name] = m.put("aside"+filepath.Ext(strings.TrimSuffix(file, ".retired-")), name)
							aside := fmt.Sprintf("%s%x", file, public[name][:4])
							if err := os.Rename(m.dir.file("aside"+filepath.Ext(strings.TrimSuffix(file, ".retired-"))), m.dir.file(aside)); err != nil {
								t.Fatal(err)
							}
							continue
						}
						public[name] = m.put(file, name)
					}
					key, next, err := m.dir.signers(logPlace)
					if err != nil || key == nil || i < 2 && next == nil {
						t.Fatalf("the log cannot be opened: %v, %v, %v", key, next, err)
					}
					keys := []logserver.KeyInfo{
						{Role: logserver.RoleLog, State: logserver.KeyActive, Vkey: m.vkey(public["new"])},
						{Role: logserver.RoleLog, State: logserver.KeyRetired, Vkey: m.vkey(public["old"])},
					}
					for range 2 { // the second time there is nothing to do
						if err := m.dir.settleKeys(keys); err != nil {
							t.Fatal(err)
						}
						m.expect("log"+to, "log"+from+".retired-")
						if key := heldKeyOf(t, m, "log"+to); !key.Public().Equal(public["new"]) {
							t.Errorf("log%s has not the new key", to)
						}
					}
				})
			}
		}
	}
}

// TestSettleKeysLeavesWhatItDoesNotKnow: a key that the store does not know, or
// that it has retired while the active one is not there, is somebody's.
func TestSettleKeysLeavesWhatItDoesNotKnow(t *testing.T) {
	m := newKeyMaker(t)
	strange, old := m.put("log.next.kms", "strange"), m.put("log.key", "old")
	keys := []logserver.KeyInfo{
		{Role: logserver.RoleLog, State: logserver.KeyActive, Vkey: m.vkey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey))},
		{Role: logserver.RoleLog, State: logserver.KeyRetired, Vkey: m.vkey(old)},
	}
	if err := m.dir.settleKeys(keys); err != nil {
		t.Fatal(err)
	}
	m.expect("log.key", "log.next.kms")
	if key := heldKeyOf(t, m, "log.next.kms"); !key.Public().Equal(strange) {
		t.Error("the key that the store does not know has changed")
	}
}

// TestSettleKeysLeavesWhatIsRight: nothing is written where nothing has changed, as
// on a full disk nothing could be.
func TestSettleKeysLeavesWhatIsRight(t *testing.T) {
	m := newKeyMaker(t)
	keys := []logserver.KeyInfo{{Role: logserver.RoleLog, State: logserver.KeyActive, Vkey: m.vkey(m.put("log.key", "active"))}}
	settle := func() os.FileInfo {
		if err := m.dir.settleKeys(keys); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(m.dir.file(vkeyFile))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := settle()
	if !os.SameFile(first, settle()) {
		t.Error("the vkey file was replaced by the same")
	}
	keys = append(keys, logserver.KeyInfo{Role: logserver.RoleLog, State: logserver.KeyNext, Vkey: m.vkey(m.put("log.next.key", "next"))})
	settle()
	if text, err := os.ReadFile(m.dir.file(vkeyFile)); err != nil || string(text) != string(vkeyText(keys)) {
		t.Errorf("the vkey file holds %q, %v", text, err)
	}
}

func heldKeyOf(t *testing.T, m *keyMaker, file string) keyplace.Held {
	t.Helper()
	key, err := m.dir.loadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return keyplace.Held{File: file, Signer: key}
}

// expect wants files with the given beginnings in the directory, and no other
// key.
func (m *keyMaker) expect(want ...string) {
	m.t.Helper()
	entries, err := os.ReadDir(m.dir.path)
	if err != nil {
		m.t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if e.Name() != vkeyFile {
			got = append(got, e.Name())
		}
	}
	slices.Sort(want)
	ok := len(got) == len(want)
	for i := range got {
		ok = ok && strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		m.t.Errorf("the directory has %q, want %q…", got, want)
	}
}

func TestReadKMS(t *testing.T) {
	public := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	vkey, err := checkpoint.Vkey("example.com/log", public)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "log.kms")
	for _, test := range []struct {
		text, want string // what the error says
		public     bool
	}{
		{"fake://region/key\n" + vkey + "\n", "", true},
		{"fake://region/key\n", "", false},
		{"fake://region/key", "", false},
		{"", `"" is not of the form scheme://key`, false},
		{"log.pem\n", `"log.pem" is not of the form`, false},
		{"fake://key\nsecond\n", "second line", false},
		{"fake://key\n" + vkey + "\n\n", "second line", false},
		{"fake://key\n" + vkey + "\nthird\n", "second line", false},
		{"fake://key\r\n", "control characters", false},
		{"fake://" + strings.Repeat("k", maxKMSFile), "more than 4096 bytes", false},
	} {
		if err := wiring.WriteFile(path, []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		k, err := readKMS(path)
		if test.want == "" {
			if err != nil || k.uri != "fake://region/key" || k.public.Equal(public) != test.public {
				t.Errorf("%q: %+v, %v", test.text, k, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.40q: %v, want %q", test.text, err, test.want)
		}
	}
}
