package witness

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestInitAndLoad is about keys that are not encrypted; those that are take
// their time, and package keyfile and the scripts of cmd/witness have them.
func TestInitAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "witness")
	made, err := Init(dir, witnessName, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, alg := range []byte{checkpoint.AlgEd25519Cosignature, checkpoint.AlgMLDSA44Cosignature} {
		key, err := checkpoint.ParseCosignerVkey(made.Vkeys()[i])
		if err != nil || key.Alg() != alg || key.Name() != witnessName {
			t.Errorf("verifier key %d: %v, %v", i, key, err)
		}
	}
	loaded, err := LoadKeys(dir, nil)
	if err != nil || !slices.Equal(loaded.Vkeys(), made.Vkeys()) {
		t.Errorf("loaded %v, %v", loaded, err)
	}
	if _, err := Init(dir, witnessName, nil); !errors.Is(err, keyfile.ErrExists) {
		t.Errorf("second time: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, vkeysFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, witnessName, nil); !errors.Is(err, keyfile.ErrExists) {
		t.Errorf("over keys that are there: %v", err)
	}
	if _, err := LoadKeys(dir, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unfinished directory: %v", err)
	}
}

func TestInitRefuses(t *testing.T) {
	for _, name := range []string{"", "a b", "a+b", "a\nb", "\xff", strings.Repeat("x", 256)} {
		dir := filepath.Join(t.TempDir(), "witness")
		if _, err := Init(dir, name, nil); !errors.Is(err, checkpoint.ErrKey) {
			t.Errorf("name %q: %v", name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("name %q: the directory was created", name)
		}
	}
	if _, err := Init(filepath.Join(t.TempDir(), "absent", "witness"), witnessName, func() ([]byte, error) { return nil, nil }); !errors.Is(err, keyfile.ErrPassphrase) {
		t.Errorf("empty passphrase: %v", err)
	}
}

func TestLoadKeysRefusesOtherKeys(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if _, err := Init(dir, witnessName, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(b, vkeysFile), filepath.Join(a, vkeysFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(a, nil); err == nil || !strings.Contains(err.Error(), "are not those of the verifier keys") {
		t.Errorf("verifier keys of another witness: %v", err)
	}
	if err := os.WriteFile(filepath.Join(a, vkeysFile), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(a, nil); err == nil {
		t.Error("a huge file was read")
	}
}

func TestOneProcessOnly(t *testing.T) {
	f := newFixture(t, osDisk{})
	if _, err := f.tryOpen(osDisk{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second witness: %v", err)
	}
	f.restart(osDisk{})
}

func TestOpenRefuses(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	made := func() string {
		dir := t.TempDir()
		if err := createStore(dir, osDisk{}); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	empty := must(checkpoint.ParsePolicy([]byte("quorum none\n")))
	if _, err := Open(Config{Dir: made(), Keys: testKeys(), Policy: empty, Logger: logger}); err == nil {
		t.Error("opened without a log")
	}
	absent := filepath.Join(t.TempDir(), "absent")
	if _, err := Open(Config{Dir: absent, Keys: testKeys(), Policy: testPolicy(), Logger: logger}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
	if _, err := Open(Config{Dir: t.TempDir(), Keys: testKeys(), Policy: testPolicy(), Logger: logger}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that Init has not made: %v", err)
	}
	for _, name := range []string{headsFile, "evidence"} {
		dir := made()
		if name == "evidence" {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := errors.Join(os.Remove(filepath.Join(dir, name)), os.Mkdir(filepath.Join(dir, name), 0o700)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Dir: dir, Keys: testKeys(), Policy: testPolicy(), Logger: logger}); err == nil {
			t.Errorf("opened though %q is not what it should be", name)
		}
	}
}
