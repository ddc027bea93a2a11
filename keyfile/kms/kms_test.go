package kms

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/keyfile/kms/kmstest"
)

// TestMain runs the tests, or the plugin when this binary is run under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "sigstore-kms-test" {
		kmstest.Main()
		return
	}
	os.Exit(m.Run())
}

// service puts the plugin into PATH and returns the directory of its keys.
func service(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "sigstore-kms-test")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	return t.TempDir()
}

const patience = time.Minute

func TestKeySigns(t *testing.T) {
	dir := service(t)
	uri := "test://" + dir + "/ed25519"
	k, err := Open(uri, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	public := k.Public().(ed25519.PublicKey)
	message := []byte("a message of some length")
	sig, err := k.Sign(nil, message, crypto.Hash(0))
	if err != nil || !ed25519.Verify(public, message, sig) || k.URI() != uri {
		t.Fatalf("%x, %v", sig, err)
	}
	if _, err := k.Sign(nil, make([]byte, 64), crypto.SHA512); !errors.Is(err, ErrKind) {
		t.Errorf("a hash: %v", err)
	}
	// Another key behind the same name is found out, whoever put it there.
	other, err := Open("test://"+dir+"/../x/ed25519", public, patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Sign(nil, message, crypto.Hash(0)); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
}

func TestKeysOfOtherKindsAreRefused(t *testing.T) {
	dir := service(t)
	for kind, want := range map[string]struct {
		err    error
		reason string
	}{
		"ecdsa":     {ErrKind, "it is a ecdsa key"},
		"rsa":       {ErrKind, "it is a rsa key"},
		"ed25519ph": {ErrKind, "Ed25519ph"},
		"liar":      {ErrSignature, "does not verify"},
		"none":      {ErrUnavailable, `no key of the kind "none"`},
	} {
		_, err := Open("test://"+dir+"/"+kind, nil, patience)
		if !errors.Is(err, want.err) || !strings.Contains(err.Error(), want.reason) || !strings.Contains(err.Error(), kind) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestOutage(t *testing.T) {
	dir := service(t)
	uri := "test://" + dir + "/ed25519"
	k, err := Open(uri, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"down", "stuck"} {
		if err := os.WriteFile(filepath.Join(dir, how), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if how == "stuck" {
			k.timeout = 50 * time.Millisecond
		}
		if _, err := k.Sign(nil, nil, crypto.Hash(0)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", how, err)
		}
		// A key that is known needs no service to be opened.
		if _, err := Open(uri, k.public, 0); err != nil {
			t.Errorf("%s: opening a known key: %v", how, err)
		}
		if _, err := Open(uri, nil, k.timeout); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: opening an unknown key: %v", how, err)
		}
		if err := os.Remove(filepath.Join(dir, how)); err != nil {
			t.Fatal(err)
		}
		k.timeout = patience
		if _, err := k.Sign(nil, nil, crypto.Hash(0)); err != nil {
			t.Errorf("after the service was %s: %v", how, err)
		}
	}
	// A call that does not end although it was given up.
	k.turn <- struct{}{}
	k.timeout = time.Millisecond
	if _, err := k.Sign(nil, nil, crypto.Hash(0)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("behind a call without end: %v", err)
	}
}

func TestURIs(t *testing.T) {
	service(t)
	for _, uri := range []string{"", "test", "test:/x", "://x", "test://", "Test://x", "../x://y", "te st://x", "test://a b", "test://a\x00", "test://" + strings.Repeat("x", maxURI)} {
		if _, err := Open(uri, nil, patience); !errors.Is(err, ErrURI) {
			t.Errorf("%q: %v", uri, err)
		}
	}
	if _, err := Open("absent://key", nil, patience); !errors.Is(err, ErrURI) || !strings.Contains(err.Error(), "sigstore-kms-absent must be in PATH") {
		t.Errorf("no plugin: %v", err)
	}
}
