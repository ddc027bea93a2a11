package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Names in a control plane's directory (docs/architecture.md).
const (
	keysDir     = "keys"
	blobsDir    = "blobs"
	blobKeysDir = "blobkeys"
	genesisFile = "genesis.json"
	// receiptSuffix ends the names of the receipt keys' files.
	receiptSuffix = "-receipt"
	// logsFile is written last: it says that init was completed.
	logsFile = "logs.json"
)

// maxLogsFile bounds logs.json, in bytes: a few vkeys.
const maxLogsFile = 64 << 10

func policyFile(log membership.LogName) string { return string(log) + ".policy" }

// directory is where a control plane keeps everything, as the flags say.
type directory struct {
	path           string
	passphraseFile string
}

func (d *directory) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.path, "dir", "", "the control plane's `directory`")
	cmd.Flags().StringVar(&d.passphraseFile, "passphrase-file", "", "`file` with the passphrase of the logs' keys (default: they are not encrypted)")
	cmd.MarkFlagRequired("dir")
}

func (d *directory) file(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}

// create makes keys and stores of both logs.
func (d *directory) create(cluster string) error {
	if _, err := os.Stat(d.file(logsFile)); err == nil {
		return fmt.Errorf("%q holds a control plane already", d.path)
	}
	if err := wiring.MakeDir(d.file(keysDir), 0o700); err != nil {
		return err
	}
	var logs membership.Logs
	for name, log := range map[membership.LogName]*membership.Log{
		membership.LogAudit: &logs.Audit, membership.LogMembership: &logs.Membership,
	} {
		if err := d.createLog(cluster, name, log); err != nil {
			return fmt.Errorf("making the %s log: %w", name, err)
		}
	}
	data, err := strictjson.Marshal(logs)
	if err != nil {
		return err
	}
	return wiring.WriteFile(d.file(logsFile), data, 0o644)
}

// createLog makes one log and says how it is known.
func (d *directory) createLog(cluster string, name membership.LogName, log *membership.Log) error {
	key, err := d.makeKey(string(name))
	if err != nil {
		return err
	}
	receipt, err := d.makeKey(string(name) + receiptSuffix)
	if err != nil {
		return err
	}
	log.Origin = membership.Origin(cluster, name)
	vkey, err := checkpoint.Vkey(log.Origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	receiptVkey, err := checkpoint.Vkey(log.Origin+"/receipt", receipt.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	log.Keys, log.ReceiptKeys = []string{vkey}, []string{receiptVkey}
	// A store without logs.json is what an interrupted init left. If it is of
	// another cluster, opening it finds out.
	err = logserver.Create(logserver.Options{Dir: d.file(string(name)), Origin: log.Origin, Key: key, ReceiptKey: receipt})
	if errors.Is(err, logserver.ErrExists) {
		return nil
	}
	return err
}

func (d *directory) keyFile(name string) string { return d.file(keysDir, name+".pem") }

// makeKey creates a key, or loads the one that an interrupted init created.
func (d *directory) makeKey(name string) (ed25519.PrivateKey, error) {
	key, err := keyfile.CreateEd25519(d.keyFile(name), d.passphrase())
	if errors.Is(err, keyfile.ErrExists) {
		return d.loadKey(name)
	}
	return key, err
}

func (d *directory) loadKey(name string) (ed25519.PrivateKey, error) {
	return keyfile.LoadEd25519(d.keyFile(name), d.passphrase())
}

func (d *directory) passphrase() keyfile.Passphrase {
	return wiring.Passphrase(d.passphraseFile)
}

// logs reads how the logs are known.
func (d *directory) logs() (*membership.Logs, error) {
	data, err := d.read(logsFile, maxLogsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q holds no control plane: run controlapi init first", d.path)
	}
	if err != nil {
		return nil, err
	}
	var logs membership.Logs
	if err := strictjson.Unmarshal(data, &logs, maxLogsFile); err != nil {
		return nil, fmt.Errorf("%s: %w", d.file(logsFile), err)
	}
	return &logs, nil
}

// logOptions says which log the directory holds under a name.
func (d *directory) logOptions(name membership.LogName) (logserver.Options, error) {
	logs, err := d.logs()
	if err != nil {
		return logserver.Options{}, err
	}
	o := logserver.Options{Dir: d.file(string(name)), Origin: logs.Named(name).Origin}
	if o.Key, err = d.loadKey(string(name)); err != nil {
		return o, err
	}
	if o.ReceiptKey, err = d.loadKey(string(name) + receiptSuffix); err != nil {
		return o, err
	}
	if err := d.nextKeys(name, &o); err != nil {
		return o, err
	}
	text, err := d.required(policyFile(name), checkpoint.MaxPolicySize)
	if err != nil {
		return o, err
	}
	if o.Policy, err = checkpoint.ParsePolicy(text); err != nil {
		return o, fmt.Errorf("%s: %w", d.file(policyFile(name)), err)
	}
	return o, nil
}

// nextKeys adds the keys of a rotation that is under way.
func (d *directory) nextKeys(name membership.LogName, o *logserver.Options) error {
	next, err := d.nextKey(string(name))
	if err != nil {
		return err
	}
	if next != nil {
		o.NextKey = next // a nil key in an interface would not be nil
	}
	if next, err = d.nextKey(string(name) + receiptSuffix); err != nil {
		return err
	}
	if next != nil {
		o.NextReceiptKey = next
	}
	return nil
}

// required reads a file that bootstrap puts into the directory.
func (d *directory) required(name string, limit int64) ([]byte, error) {
	data, err := d.read(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q is missing: put genesis and policies of the cluster into the directory first (tally cluster init)", d.file(name))
	}
	return data, err
}

// read reads a file within the bound of its kind.
func (d *directory) read(name string, limit int64) ([]byte, error) {
	return wiring.ReadFile(d.file(name), limit)
}
