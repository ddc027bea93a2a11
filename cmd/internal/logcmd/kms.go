package logcmd

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/keyfile/kms"
)

// kmsFile is there in place of the log key's file when a key management service
// has the key. It holds the key's URI in one line.
const kmsFile = "log.kms"

// maxKMSFile bounds what is read of it, in bytes.
const maxKMSFile = 4096

// registerNew adds the flags of commands that make a log.
func (d *directory) registerNew(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.kms, "key", "", "`URI` of the log key in a key management service (default: a new key in the directory)")
}

// makeLogKey makes the key of a new log, or names the one that a key management
// service has. Either may have been done by an interrupted command.
func (d *directory) makeLogKey() (crypto.Signer, error) {
	path := filepath.Join(d.path, kmsFile)
	uri, err := readLine(path)
	switch {
	case err == nil && uri != d.kms:
		return nil, fmt.Errorf("an interrupted command chose the log key %q: repeat it with --key, or remove %q", uri, path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case d.kms == "":
		return d.makeKey(logKeyFile)
	}
	key, err := kms.Open(d.kms, nil, 0)
	if err != nil {
		return nil, err
	}
	return key, wiring.WriteFile(path, []byte(d.kms+"\n"))
}

// loadLogKey returns the log key that has the given public key.
func (d *directory) loadLogKey(public []byte) (crypto.Signer, error) {
	uri, err := readLine(filepath.Join(d.path, kmsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return keyfile.LoadEd25519(filepath.Join(d.path, logKeyFile), wiring.Passphrase(d.passphraseFile))
	}
	if err != nil {
		return nil, err
	}
	return kms.Open(uri, ed25519.PublicKey(public), 0)
}

func readLine(path string) (string, error) {
	text, err := wiring.ReadFile(path, maxKMSFile)
	return strings.TrimSuffix(string(text), "\n"), err
}
