package logcmd

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tallystick/tallystick/cmd/internal/keyplace"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/keyfile/kms"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// A log's directory has a place for each key that signs, and in a rotation one
// for the key that will replace it (package keyplace). A place is a file: PLACE.key
// has the private key, or PLACE.kms says which key of a key management service it
// is, and has no secret. Which of the keys that are there is in use, the store says.
const (
	logPlace     = "log"
	receiptPlace = "receipt"

	keySuffix = ".key"
	kmsSuffix = ".kms"
)

// place returns the place of a role's keys.
func (d *directory) place(name string) keyplace.Place {
	return keyplace.Place{Dir: d.path, Name: name, Kinds: []string{keySuffix, kmsSuffix}, Load: d.loadKey}
}

// settleKeys brings the files of the keys and the vkey file to what the store says
// of them.
func (d *directory) settleKeys(keys []logserver.KeyInfo) error {
	for _, p := range []struct{ place, role string }{{logPlace, logserver.RoleLog}, {receiptPlace, logserver.RoleReceipt}} {
		if err := d.place(p.place).Settle(keyplace.Of(keys, p.role)); err != nil {
			return err
		}
	}
	// A disk on which nothing can be written any more keeps no log from being read.
	text := vkeyText(keys)
	if held, err := os.ReadFile(d.file(vkeyFile)); err == nil && bytes.Equal(held, text) {
		return nil
	}
	return wiring.WriteFile(d.file(vkeyFile), text, 0o644)
}

// signers returns the key of a role and, if there is another one, that as well:
// the store says which is which.
func (d *directory) signers(place string) (key, next crypto.Signer, err error) {
	held, err := d.place(place).Held()
	if err != nil {
		return nil, nil, err
	}
	switch len(held) {
	case 0:
		return nil, nil, fmt.Errorf("%w: neither %q nor %q is there", fs.ErrNotExist, d.file(place+keySuffix), d.file(place+kmsSuffix))
	case 1:
		return held[0].Signer, nil, nil
	case 2:
		return held[0].Signer, held[1].Signer, nil
	}
	return nil, nil, fmt.Errorf("%q, %q and %q are there: move those away that the log does not use", d.file(held[0].File), d.file(held[1].File), d.file(held[2].File))
}

// loadKey loads the key of one file. One in a service is not asked for anything
// if the file says which public key it has.
func (d *directory) loadKey(file string) (crypto.Signer, error) {
	if !strings.HasSuffix(file, kmsSuffix) {
		return keyfile.LoadEd25519(d.file(file), wiring.Passphrase(d.passphraseFile))
	}
	named, err := readKMS(d.file(file))
	if err != nil {
		return nil, err
	}
	return kms.Open(named.uri, named.public, 0)
}

// newKey asks for a key of a new log, or for one that replaces another.
type newKey struct {
	place string
	name  string // the key name of its vkey
	uri   string // of the key in a service; "" makes one in a file
}

// makeKey makes a key, or names the one that a service has, or takes over what
// an interrupted command left. Made says that the file was not there before.
func (d *directory) makeKey(k newKey) (held keyplace.Held, made bool, err error) {
	pem, service := k.place+keySuffix, k.place+kmsSuffix
	if chosen, err := readKMS(d.file(service)); err == nil {
		if chosen.uri != k.uri {
			return held, false, fmt.Errorf("an interrupted command chose the key %q: repeat it with --key, or remove %q", chosen.uri, d.file(service))
		}
		key, err := kms.Open(chosen.uri, nil, 0) // nobody has used it yet
		return keyplace.Held{File: service, Signer: key}, false, err
	} else if !errors.Is(err, fs.ErrNotExist) {
		return held, false, err
	}
	if k.uri == "" {
		key, err := keyfile.CreateEd25519(d.file(pem), wiring.Passphrase(d.passphraseFile))
		if errors.Is(err, keyfile.ErrExists) {
			key, err = keyfile.LoadEd25519(d.file(pem), wiring.Passphrase(d.passphraseFile))
			return keyplace.Held{File: pem, Signer: key}, false, err
		}
		return keyplace.Held{File: pem, Signer: key}, true, err
	}
	if _, err := os.Stat(d.file(pem)); err == nil {
		return held, false, fmt.Errorf("an interrupted command made the key %q: repeat it without --key, or remove the file", d.file(pem))
	}
	key, err := kms.Open(k.uri, nil, 0)
	if err != nil {
		return held, false, err
	}
	held = keyplace.Held{File: service, Signer: key}
	vkey, err := checkpoint.Vkey(k.name, held.Public())
	if err != nil {
		return held, false, err
	}
	return held, true, wiring.WriteFile(d.file(service), []byte(k.uri+"\n"+vkey+"\n"), 0o644)
}

// kmsKey is what a file says of a key in a service.
type kmsKey struct {
	uri    string
	public ed25519.PublicKey // nil if it does not say
}

// maxKMSFile bounds what is read of it, in bytes.
const maxKMSFile = 4096

// readKMS reads a file with the URI of a key and its verifier key, a line each.
// The second line may be missing, as in one that was written by hand.
func readKMS(path string) (k kmsKey, err error) {
	text, err := wiring.ReadFile(path, maxKMSFile)
	if err != nil {
		return k, err
	}
	uri, vkey, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), "\n")
	if err := kms.CheckURI(uri); err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	k.uri = uri
	if vkey == "" {
		return k, nil
	}
	key, err := checkpoint.ParseVkey(vkey)
	if err != nil {
		return k, fmt.Errorf("%s: second line: %w", path, err)
	}
	k.public = key.PublicKey()
	return k, nil
}

// files returns those of the directory that belong to a backup. The names of
// keys in a service are no secret.
func (d *directory) files(withKeys bool) (map[string]string, error) {
	files := map[string]string{}
	for _, place := range []string{logPlace, receiptPlace} {
		for _, name := range d.place(place).Files() {
			if !withKeys && !strings.HasSuffix(name, kmsSuffix) {
				continue
			}
			if _, err := os.Stat(d.file(name)); err == nil {
				files[name] = d.file(name)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return files, nil
}

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }
