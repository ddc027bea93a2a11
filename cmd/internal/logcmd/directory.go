package logcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// What a log's directory holds beside its keys (keys.go) and the control socket
// (package control). The vkey file is written last: it says that the log is
// complete, and what its origin is.
const (
	storeDir = "store"
	vkeyFile = "vkey"
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

// registerNew adds the flags of commands that make a log.
func (d *directory) registerNew(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.kms, "key", "", "`URI` of the log key in a key management service (default: a new key in the directory)")
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
	if _, err := os.Stat(d.file(vkeyFile)); err == nil {
		return options, "", fmt.Errorf("%w: %q", logserver.ErrExists, d.path)
	}
	if err := wiring.MakeDir(d.path, 0o700); err != nil {
		return options, "", err
	}
	key, _, err := d.makeKey(newKey{place: logPlace, name: origin, uri: d.kms})
	if err != nil {
		return options, "", err
	}
	receipt, _, err := d.makeKey(newKey{place: receiptPlace})
	if err != nil {
		return options, "", err
	}
	vkey, err = checkpoint.Vkey(origin, key.Public())
	return logserver.Options{Dir: d.file(storeDir), Origin: origin, Key: key.Signer, ReceiptKey: receipt.Signer}, vkey, err
}

// complete says that the directory holds a log.
func (d *directory) complete(vkey string) error {
	return wiring.WriteFile(d.file(vkeyFile), []byte(vkey+"\n"), 0o644)
}

// open returns the options that say which log the directory holds.
func (d *directory) open() (logserver.Options, error) {
	options := logserver.Options{Dir: d.file(storeDir)}
	vkey, err := os.ReadFile(d.file(vkeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(options.Dir); err == nil {
			return options, fmt.Errorf("%q holds a log that is not complete: run the command that makes it (init, import, succeed or restore) to its end", d.path)
		}
		return options, fmt.Errorf("%q holds no log, run logserver init first", d.path)
	}
	if err != nil {
		return options, err
	}
	first, _, _ := strings.Cut(string(vkey), "\n") // in a rotation there is a second line
	key, err := checkpoint.ParseVkey(first)
	if err != nil {
		return options, fmt.Errorf("%s: %w", d.file(vkeyFile), err)
	}
	options.Origin = key.Name()
	if options.Key, options.NextKey, err = d.signers(logPlace); err != nil {
		return options, err
	}
	options.ReceiptKey, options.NextReceiptKey, err = d.signers(receiptPlace)
	return options, err
}
