package logcmd

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// What a log's directory holds. The vkey file is written last: it says that the
// log is complete, and what its origin is.
const (
	logKeyFile     = "log.key"
	receiptKeyFile = "receipt.key"
	storeDir       = "store"
	vkeyFile       = "vkey"

	// The keys of a rotation, until it has ended.
	nextKeyFile        = "log.next.key"
	nextReceiptKeyFile = "receipt.next.key"
)

// directory is where a log lives, as the flags say.
type directory struct {
	path           string
	passphraseFile string
	kms            string // URI of the key of a new log, "" for a file
}

func (d *directory) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.path, "dir", "", "the log's `directory`: keys and store")
	cmd.Flags().StringVar(&d.passphraseFile, "passphrase-file", "", "`file` with the passphrase of the private keys (default: they are not encrypted)")
	cmd.MarkFlagRequired("dir")
}

// create makes a log and returns its vkey.
func (d *directory) create(origin string) (string, error) {
	options, vkey, err := d.prepare(origin)
	if err != nil {
		return "", err
	}
	err = logserver.Create(options)
	if err != nil && !errors.Is(err, logserver.ErrExists) {
		return "", err
	}
	// A store without a vkey file is what an interrupted init left. If it is of
	// another origin, opening it finds out.
	return vkey, d.complete(vkey)
}

// prepare makes the directory and the keys of a new log, or takes over those
// that an interrupted command left.
func (d *directory) prepare(origin string) (options logserver.Options, vkey string, err error) {
	if _, err := os.Stat(filepath.Join(d.path, vkeyFile)); err == nil {
		return options, "", fmt.Errorf("%w: %q", logserver.ErrExists, d.path)
	}
	if err := wiring.MakeDir(d.path); err != nil {
		return options, "", err
	}
	key, err := d.makeLogKey()
	if err != nil {
		return options, "", err
	}
	receipt, err := d.makeKey(receiptKeyFile)
	if err != nil {
		return options, "", err
	}
	vkey, err = checkpoint.Vkey(origin, key.Public().(ed25519.PublicKey))
	return logserver.Options{Dir: filepath.Join(d.path, storeDir), Origin: origin, Key: key, ReceiptKey: receipt}, vkey, err
}

// complete says that the directory holds a log.
func (d *directory) complete(vkey string) error {
	return wiring.WriteFile(filepath.Join(d.path, vkeyFile), []byte(vkey+"\n"))
}

// makeKey creates a key, or loads the one that an interrupted init created.
func (d *directory) makeKey(name string) (ed25519.PrivateKey, error) {
	path := filepath.Join(d.path, name)
	key, err := keyfile.CreateEd25519(path, wiring.Passphrase(d.passphraseFile))
	if errors.Is(err, keyfile.ErrExists) {
		return keyfile.LoadEd25519(path, wiring.Passphrase(d.passphraseFile))
	}
	return key, err
}

// open returns the options that say which log the directory holds.
func (d *directory) open() (logserver.Options, error) {
	options := logserver.Options{Dir: filepath.Join(d.path, storeDir)}
	vkey, err := os.ReadFile(filepath.Join(d.path, vkeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return options, fmt.Errorf("%q holds no log, run logserver init first", d.path)
	}
	if err != nil {
		return options, err
	}
	first, rest, _ := strings.Cut(string(vkey), "\n") // in a rotation there is a second line
	key, err := checkpoint.ParseVkey(first)
	if err != nil {
		return options, fmt.Errorf("%s: %w", filepath.Join(d.path, vkeyFile), err)
	}
	options.Origin = key.Name()
	public := key.PublicKey()
	if rest != "" {
		public = nil // which of the two is the current one, the store says
	}
	if options.Key, err = d.loadLogKey(public); err != nil {
		return options, err
	}
	if options.ReceiptKey, err = keyfile.LoadEd25519(filepath.Join(d.path, receiptKeyFile), wiring.Passphrase(d.passphraseFile)); err != nil {
		return options, err
	}
	// The store says which key is which: see logserver.Options.NextKey.
	if options.NextKey, err = d.optionalKey(nextKeyFile); err != nil {
		return options, err
	}
	if _, err := os.Stat(filepath.Join(d.path, kmsFile)); err == nil && options.NextKey == nil {
		// A rotation away from a key management service ended, but for the last file.
		if options.NextKey, err = d.optionalKey(logKeyFile); err != nil {
			return options, err
		}
	}
	options.NextReceiptKey, err = d.optionalKey(nextReceiptKeyFile)
	return options, err
}

// optionalKey loads a key of a rotation, if one is under way.
func (d *directory) optionalKey(name string) (crypto.Signer, error) {
	key, err := keyfile.LoadEd25519(filepath.Join(d.path, name), wiring.Passphrase(d.passphraseFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return key, nil
}
