package keyfile

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

func static(pass string) Passphrase {
	return func() ([]byte, error) { return []byte(pass), nil }
}

func TestRoundTrip(t *testing.T) {
	for name, pass := range map[string]Passphrase{"plain": nil, "encrypted": static("correct horse")} {
		t.Run(name, func(t *testing.T) {
			edPath, seedPath := filepath.Join(t.TempDir(), "ed25519.pem"), filepath.Join(t.TempDir(), "mldsa.pem")
			ed, err := CreateEd25519(edPath, pass)
			if err != nil {
				t.Fatal(err)
			}
			ml, err := CreateMLDSA44(seedPath, pass)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := LoadEd25519(edPath, pass); err != nil || !got.Equal(ed) {
				t.Errorf("Ed25519: %v", err)
			}
			if got, err := LoadMLDSA44(seedPath, pass); err != nil || !got.Equal(ml) {
				t.Errorf("ML-DSA-44: %v", err)
			}
			for _, path := range []string{edPath, seedPath} {
				info, err := os.Stat(path)
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: mode %v, error %v", path, info.Mode(), err)
				}
			}
			// The other kind, the other passphrase, no passphrase.
			if _, err := LoadEd25519(seedPath, pass); !errors.Is(err, ErrFormat) {
				t.Errorf("ML-DSA-44 seed as Ed25519 key: %v", err)
			}
			if _, err := LoadMLDSA44(edPath, pass); !errors.Is(err, ErrFormat) {
				t.Errorf("Ed25519 key as ML-DSA-44 seed: %v", err)
			}
			other := static("wrong horse")
			if _, err := LoadEd25519(edPath, other); !errors.Is(err, ErrPassphrase) {
				t.Errorf("Ed25519, other passphrase: %v", err)
			}
			if _, err := LoadMLDSA44(seedPath, other); !errors.Is(err, ErrPassphrase) {
				t.Errorf("ML-DSA-44, other passphrase: %v", err)
			}
			if pass == nil {
				return // and a passphrase for a plain file was refused above
			}
			if _, err := LoadEd25519(edPath, nil); !errors.Is(err, ErrPassphrase) {
				t.Errorf("Ed25519, no passphrase: %v", err)
			}
			if _, err := LoadMLDSA44(seedPath, nil); !errors.Is(err, ErrPassphrase) {
				t.Errorf("ML-DSA-44, no passphrase: %v", err)
			}
		})
	}
}

// TestOpenSSL loads keys that OpenSSL 3.0.19 has encrypted, all of the same seed:
// what its commands write by default, and the other schemes of PBES2 that there are.
// A scheme that is not known is refused with a way out, whatever the passphrase.
func TestOpenSSL(t *testing.T) {
	want := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	dir := t.TempDir()
	for name, known := range map[string]bool{
		"pkey":          true, // pkey -aes256
		"aes256-sha256": true, // pkcs8 -topk8, its defaults
		"aes128-sha1":   true, // -v2 aes-128-cbc -v2prf hmacWithSHA1
		"aes256-scrypt": true, // -scrypt
		"des3-sha256":   true, // -v2 des3
		"aes192-sha512": false,
		"camellia":      false,
		"pbes1":         false,
	} {
		text, err := os.ReadFile(filepath.Join("testdata", "openssl", name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name+".pem")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadEd25519(path, static("secret"))
		if known && (err != nil || !got.Equal(want)) {
			t.Errorf("%s: %v", name, err)
		}
		if !known && (!errors.Is(err, ErrPassphrase) || !strings.Contains(err.Error(), "openssl pkcs8 -topk8")) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := LoadEd25519(path, static("Secret")); !errors.Is(err, ErrPassphrase) || strings.Contains(err.Error(), "Secret") {
			t.Errorf("%s with another passphrase: %v", name, err)
		}
		if _, err := LoadEd25519(path, nil); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s without a passphrase: %v", name, err)
		}
	}
}

func TestPublic(t *testing.T) {
	dir := t.TempDir()
	key, err := CreateEd25519(filepath.Join(dir, "key.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "key.pub")
	public := key.Public().(ed25519.PublicKey)
	if err := WritePublic(path, public); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadPublic(path); err != nil || !got.Equal(public) {
		t.Errorf("loaded %x, %v", got, err)
	}
	if err := WritePublic(path, public); !errors.Is(err, ErrExists) {
		t.Errorf("second time: %v", err)
	}
	if _, err := LoadEd25519(path, nil); err == nil {
		t.Error("a public key was loaded as a private one")
	}
}

func TestNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	key, err := CreateEd25519(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateEd25519(path, nil); !errors.Is(err, ErrExists) {
		t.Errorf("Ed25519: %v", err)
	}
	if _, err := CreateMLDSA44(path, nil); !errors.Is(err, ErrExists) {
		t.Errorf("ML-DSA-44: %v", err)
	}
	if got, err := LoadEd25519(path, nil); err != nil || !got.Equal(key) {
		t.Errorf("the first key is gone: %v", err)
	}
	if _, err := CreateEd25519(filepath.Join(t.TempDir(), "absent", "key.pem"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
}

// TestCreatedInOneStep: nobody, and so no process after one that was killed, ever
// finds a part of a key file.
func TestCreatedInOneStep(t *testing.T) {
	for range 50 {
		dir := t.TempDir()
		path := filepath.Join(dir, "key.pem")
		created := make(chan error, 1)
		go func() {
			_, err := CreateEd25519(path, nil)
			created <- err
		}()
		for len(created) == 0 {
			if _, err := LoadEd25519(path, nil); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(errors.Join(err, <-created))
			}
		}
		if err := <-created; err != nil {
			t.Fatal(err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Fatalf("beside the key: %v %v", files, err)
		}
	}
}

// TestWithoutLinks: on a file system without hard links a key file is created too,
// and still not overwritten.
func TestWithoutLinks(t *testing.T) {
	fails := func(string, string) error { return errors.ErrUnsupported }
	noClaim := func(string, string) error { return errors.New("it was not renamed in one step") }
	ways := map[string][]naming{"claimed": {fails, fails, claim}}
	if runtime.GOOS == "linux" {
		ways["renamed in one step"] = []naming{fails, func(from, to string) error {
			err := renameNew(from, to)
			if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) {
				t.Skipf("this file system cannot: %v", err)
			}
			return err
		}, noClaim}
	}
	for name, ways := range ways {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "key.pem")
			if err := createBy(ways, path, []byte("first"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := createBy(ways, path, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
				t.Errorf("the second: %v", err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != "first" {
				t.Errorf("%q, %v", got, err)
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
				t.Errorf("beside the key: %v %v", files, err)
			}
		})
	}
}

func TestRefusesReadableByOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	if _, err := CreateEd25519(path, nil); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o601, 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadEd25519(path, nil)
		if !errors.Is(err, ErrPermissions) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadEd25519(path, nil); err != nil {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
}

func TestRefusesOtherContent(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.pem")
	if _, err := CreateEd25519(good, nil); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecText, err := cryptoutils.MarshalPrivateKeyToPEM(ec)
	if err != nil {
		t.Fatal(err)
	}
	ecPublic, err := cryptoutils.MarshalPublicKeyToPEM(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	weakPublic, err := cryptoutils.MarshalPublicKeyToPEM(make(ed25519.PublicKey, ed25519.PublicKeySize)) // of small order
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]byte{
		"weak public":    weakPublic,
		"empty":          nil,
		"garbage":        []byte("garbage"),
		"too large":      append(bytes.Clone(text), bytes.Repeat([]byte("\n"), maxFileSize)...),
		"two blocks":     append(bytes.Clone(text), text...),
		"text before":    append([]byte("my key\n"), text...),
		"text after":     append(bytes.Clone(text), "my key\n"...),
		"headers":        pem.EncodeToMemory(&pem.Block{Type: typePlain, Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte{1}}),
		"other type":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"not PKCS#8":     pem.EncodeToMemory(&pem.Block{Type: typePlain, Bytes: []byte{1}}),
		"ECDSA key":      ecText,
		"short seed":     pem.EncodeToMemory(&pem.Block{Type: typeSeed, Bytes: make([]byte, 31)}),
		"ECDSA public":   ecPublic,
		"not PKIX":       pem.EncodeToMemory(&pem.Block{Type: typePublic, Bytes: []byte{1}}),
		"long seed":      pem.EncodeToMemory(&pem.Block{Type: typeSeed, Bytes: make([]byte, 33)}),
		"encrypted junk": pem.EncodeToMemory(&pem.Block{Type: typeEncryptedSeed, Bytes: []byte("{}")}),
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadEd25519(path, nil); !errors.Is(err, ErrFormat) {
				t.Errorf("LoadEd25519: %v", err)
			}
			if _, err := LoadMLDSA44(path, nil); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrPassphrase) {
				t.Errorf("LoadMLDSA44: %v", err)
			}
			if _, err := LoadPublic(path); !errors.Is(err, ErrFormat) {
				t.Errorf("LoadPublic: %v", err)
			}
		})
	}
	if _, err := LoadEd25519(dir, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("directory: %v", err)
	}
	absent := filepath.Join(dir, "absent")
	if _, err := LoadEd25519(absent, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := LoadPublic(absent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

func TestPassphraseFile(t *testing.T) {
	tests := []struct {
		name, content, want string
		err                 error
	}{
		{"no line break", "correct horse", "correct horse", nil},
		{"line break", "correct horse\n", "correct horse", nil},
		{"DOS line break", "correct horse\r\n", "correct horse", nil},
		{"spaces stay", " correct horse \n", " correct horse ", nil},
		{"empty", "", "", ErrPassphrase},
		{"empty line", "\n", "", ErrPassphrase},
		{"two lines", "correct\nhorse\n", "", ErrPassphrase},
		{"too large", strings.Repeat("x", maxFileSize+1), "", ErrFormat},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "passphrase")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := PassphraseFile(path)()
			if !errors.Is(err, test.err) || string(got) != test.want {
				t.Errorf("got %q, %v", got, err)
			}
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := PassphraseFile(path)(); !errors.Is(err, ErrPermissions) {
				t.Errorf("readable by others: %v", err)
			}
		})
	}
	absent := PassphraseFile(filepath.Join(t.TempDir(), "absent"))
	if _, err := CreateEd25519(filepath.Join(t.TempDir(), "key.pem"), absent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := CreateMLDSA44(filepath.Join(t.TempDir(), "key.pem"), static("")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("empty: %v", err)
	}
}

// TestPassphraseThatFails: the caller hears the cause, and no file is written.
func TestPassphraseThatFails(t *testing.T) {
	dir := t.TempDir()
	ed, ml := filepath.Join(dir, "ed25519.pem"), filepath.Join(dir, "mldsa.pem")
	if _, err := CreateEd25519(ed, static("correct horse")); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateMLDSA44(ml, static("correct horse")); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("the agent is gone")
	fails := func() ([]byte, error) { return nil, gone }
	fresh := filepath.Join(dir, "new.pem")
	_, loadEd := LoadEd25519(ed, fails)
	_, loadML := LoadMLDSA44(ml, fails)
	_, createEd := CreateEd25519(fresh, fails)
	_, createML := CreateMLDSA44(fresh, fails)
	for what, err := range map[string]error{"LoadEd25519": loadEd, "LoadMLDSA44": loadML, "CreateEd25519": createEd, "CreateMLDSA44": createML} {
		if !errors.Is(err, gone) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(fresh); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was written: %v", err)
	}
}

// TestUnreadableFiles are there, and cannot be read to their end.
func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadPublic(dir); err == nil || errors.Is(err, ErrFormat) {
		t.Errorf("directory as public key: %v", err)
	}
	if _, err := PassphraseFile(dir)(); err == nil {
		t.Error("directory as passphrase")
	}
	if err := WritePublic(filepath.Join(dir, "absent", "key.pub"), make(ed25519.PublicKey, ed25519.PublicKeySize)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A key of another kind is named in words that people use.
func TestOtherKindsAreNamed(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecdhKey, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		key  any
		want string
	}{
		{rsaKey, "holds an RSA key, not an Ed25519 one"},
		{ecdsaKey, "holds an ECDSA key, not an Ed25519 one"},
		{ecdhKey, "holds a key agreement key, not an Ed25519 one"},
	} {
		der, err := x509.MarshalPKCS8PrivateKey(test.key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadEd25519(path, nil); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = `is a PEM block of type "CERTIFICATE": want "PRIVATE KEY" or "ENCRYPTED SIGSTORE PRIVATE KEY" or "ENCRYPTED PRIVATE KEY"`
	if _, err := LoadEd25519(path, nil); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}
