package witness

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Names of the files that Init makes.
const (
	ed25519File = "ed25519.pem"
	mldsaFile   = "mldsa44.pem"
	vkeysFile   = "vkeys"
)

// Keys are the two cosigning keys of a witness. Both have its name; their key
// IDs tell them apart.
type Keys struct {
	Ed25519 *checkpoint.Cosigner // signature type 0x04
	MLDSA44 *checkpoint.Cosigner // signature type 0x06
}

// Vkeys returns the verifier keys, Ed25519 first. A policy that lists both
// counts this one witness twice, unless it puts them into a group of their own.
func (k *Keys) Vkeys() []string {
	return []string{k.Ed25519.Key().Vkey(), k.MLDSA44.Key().Vkey()}
}

// public returns the verifier keys in the order of Vkeys.
func (k *Keys) public() []note.Verifier {
	return []note.Verifier{k.Ed25519.Key(), k.MLDSA44.Key()}
}

// all returns the cosigners in the order of Vkeys.
func (k *Keys) all() []*checkpoint.Cosigner { return []*checkpoint.Cosigner{k.Ed25519, k.MLDSA44} }

// places returns the places of all keys in that order.
func (k *Keys) places() []int { return []int{placeEd25519, placeMLDSA44} }

// Places of the keys in the order of Vkeys.
const (
	placeEd25519 = iota
	placeMLDSA44
)

// Init creates the directory of a new witness with an Ed25519 and an ML-DSA-44
// key, encrypted if there is a passphrase. It never overwrites anything. The
// name should be a URL without schema that identifies the witness.
func Init(dir, name string, pass keyfile.Passphrase) (*Keys, error) {
	if err := checkpoint.CheckName(name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating directory: %w", err)
	}
	if err := (osDisk{}).SyncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, fmt.Errorf("syncing directory: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, vkeysFile)); err == nil {
		return nil, fmt.Errorf("%w: %q is a witness's directory already (its verifier keys are in its file %q)",
			keyfile.ErrExists, dir, vkeysFile)
	}
	edKey, err := keyfile.CreateEd25519(filepath.Join(dir, ed25519File), pass)
	if err != nil {
		return nil, err
	}
	mldsaKey, err := keyfile.CreateMLDSA44(filepath.Join(dir, mldsaFile), pass)
	if err != nil {
		return nil, err
	}
	keys, err := newKeys(name, edKey, mldsaKey)
	if err != nil {
		return nil, err
	}
	if err := createStore(dir, osDisk{}); err != nil {
		return nil, fmt.Errorf("writing heads: %w", err)
	}
	// The last file: a directory without it was not finished.
	text := strings.Join(keys.Vkeys(), "\n") + "\n"
	if err := replaceFile(osDisk{}, dir, vkeysFile, []byte(text)); err != nil {
		return nil, fmt.Errorf("writing verifier keys: %w", err)
	}
	return keys, nil
}

// LoadKeys reads the keys that Init has made, with the name it was given.
func LoadKeys(dir string, pass keyfile.Passphrase) (*Keys, error) {
	const limit = 16 << 10 // two verifier keys take 4 kB
	path := filepath.Join(dir, vkeysFile)
	text, err := readFile(osDisk{}, path, limit)
	if absent(err) {
		return nil, fmt.Errorf("%q is not a witness's directory (make one with: witness init): %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading verifier keys: %w", err)
	}
	edKey, err := keyfile.LoadEd25519(filepath.Join(dir, ed25519File), pass)
	if err != nil {
		return nil, err
	}
	mldsaKey, err := keyfile.LoadMLDSA44(filepath.Join(dir, mldsaFile), pass)
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(string(text), "+")
	keys, err := newKeys(name, edKey, mldsaKey)
	if err != nil {
		return nil, err
	}
	if strings.Join(keys.Vkeys(), "\n")+"\n" != string(text) {
		return nil, fmt.Errorf("the private keys in %q are not those of the verifier keys in its file %q", dir, vkeysFile)
	}
	return keys, nil
}

// newKeys makes the cosigners of a witness from its private keys.
func newKeys(name string, edKey ed25519.PrivateKey, mldsaKey *mldsa.PrivateKey) (*Keys, error) {
	ed, err := checkpoint.NewEd25519Cosigner(name, edKey)
	if err != nil {
		return nil, err
	}
	ml, err := checkpoint.NewMLDSACosigner(name, mldsaKey)
	if err != nil {
		return nil, err
	}
	return &Keys{Ed25519: ed, MLDSA44: ml}, nil
}
