package logcmd

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// rotateRequest is what rotate-key asks of a running server.
type rotateRequest struct {
	// Step is begin, finish or abort, of the log key, or receipt.
	Step string `json:"step"`
}

// rotator is a running log, or the store of one that is stopped.
type rotator interface {
	BeginRotation(crypto.Signer) error
	FinishRotation() error
	AbortRotation() error
	RotateReceiptKey(crypto.Signer) error
	Keys() []logserver.KeyInfo
}

func (c *controlServer) rotate(_ context.Context, r rotateRequest, _ func(done, total int64)) (any, error) {
	c.rotating.Lock()
	defer c.rotating.Unlock()
	return rotateKey(c.log, c.dir, r)
}

// rotateKey makes one step and settles the files. A new key is in its file before
// the store names it, and the files are renamed after that: a crash in between
// is settled by the next start or step.
func rotateKey(log rotator, dir *directory, r rotateRequest) (keys []logserver.KeyInfo, err error) {
	if err := dir.settleKeys(log.Keys()); err != nil {
		return nil, err
	}
	switch r.Step {
	case "begin", "receipt":
		name, use := nextKeyFile, log.BeginRotation
		if r.Step == "receipt" {
			name, use = nextReceiptKeyFile, log.RotateReceiptKey
		}
		key, err := dir.makeKey(name)
		if err != nil {
			return nil, err
		}
		if err := use(key); err != nil {
			return nil, err
		}
	case "finish":
		err = log.FinishRotation()
	case "abort":
		err = log.AbortRotation()
	default:
		err = fmt.Errorf("%q is no step of a rotation", r.Step)
	}
	if err != nil {
		return nil, err
	}
	return log.Keys(), dir.settleKeys(log.Keys())
}

// settleKeys brings the key files and the vkey file to what the store says: a
// next key that has become the active one takes its name, and one that was
// given up goes aside.
func (d *directory) settleKeys(keys []logserver.KeyInfo) error {
	state := map[string]string{}
	origin := ""
	for _, k := range keys {
		state[k.Vkey] = k.State
		if k.Role == logserver.RoleLog && k.State == logserver.KeyActive {
			vkey, err := checkpoint.ParseVkey(k.Vkey)
			if err != nil {
				return err
			}
			origin = vkey.Name()
		}
	}
	for _, f := range []struct{ current, next, name string }{
		{logKeyFile, nextKeyFile, origin},
		{receiptKeyFile, nextReceiptKeyFile, origin + "/receipt"},
	} {
		if err := d.settleKey(f.current, f.next, func(public ed25519.PublicKey) (string, error) {
			vkey, err := checkpoint.Vkey(f.name, public)
			return state[vkey], err
		}); err != nil {
			return err
		}
	}
	return wiring.WriteFile(filepath.Join(d.path, vkeyFile), vkeyText(keys))
}

// settleKey settles one pair of files; stateOf says what the store thinks of a
// key, "" if it does not know it.
func (d *directory) settleKey(current, next string, stateOf func(ed25519.PublicKey) (string, error)) error {
	key, err := keyfile.LoadEd25519(filepath.Join(d.path, next), wiring.Passphrase(d.passphraseFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	public := key.Public().(ed25519.PublicKey)
	state, err := stateOf(public)
	if err != nil {
		return err
	}
	aside := func(name string, public ed25519.PublicKey) string {
		return fmt.Sprintf("%s.retired-%x", name, public[:4])
	}
	switch state {
	case logserver.KeyActive:
		// The old key keeps a name, and the file that is looked for is there
		// at every moment.
		old, err := keyfile.LoadEd25519(filepath.Join(d.path, current), wiring.Passphrase(d.passphraseFile))
		if err == nil {
			err = os.Link(filepath.Join(d.path, current), filepath.Join(d.path, aside(current, old.Public().(ed25519.PublicKey))))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := d.rename(next, current); err != nil || current != logKeyFile {
			return err
		}
		// A key management service may have had the old key.
		if err := d.rename(kmsFile, kmsFile+".retired"); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	case logserver.KeyRetired:
		return d.rename(next, aside(next, public))
	}
	return nil
}

// rename gives a file of the directory another name, durably.
func (d *directory) rename(from, to string) error {
	if err := os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to)); err != nil {
		return err
	}
	return wiring.SyncDir(d.path)
}

func rotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Replace the log key or the receipt key",
		Long: `Replace a key without a new log, while the log runs or is stopped.

The log key changes in two steps, because whoever verifies checkpoints must learn
the new one in between:

    logserver rotate-key begin --dir D    a new key signs beside the old one
    logserver rotate-key finish --dir D   the old key signs no more
    logserver rotate-key abort --dir D    or: the new one signs no more

After begin, D/vkey has both verifier keys, the old one first. Add a log line with
the new one to every policy (the server's own, witnesses', clients'), restart the
server, and only then finish. Take a new backup after that: a restored store that
does not know the new key must be led through the same steps before it can catch
up.

The receipt key changes at once, at a tree size that status shows:

    logserver rotate-key receipt --dir D

Private keys that are retired stay in D as *.retired-*; destroy them. What they
signed stays valid. Every step that was interrupted can be run again.`,
	}
	for step, short := range map[string]string{
		"begin":   "Let a new log key sign beside the old one",
		"finish":  "Retire the old log key",
		"abort":   "Give the new log key up",
		"receipt": "Replace the receipt key",
	} {
		cmd.AddCommand(rotateStep(step, short))
	}
	return cmd
}

func rotateStep(step, short string) *cobra.Command {
	var dir directory
	var asJSON bool
	cmd := &cobra.Command{
		Use:   step,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return rotate(cmd, &dir, rotateRequest{Step: step}, asJSON)
		},
	}
	dir.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the keys as one JSON array")
	return cmd
}

func rotate(cmd *cobra.Command, dir *directory, request rotateRequest, asJSON bool) (err error) {
	log := located{dir: dir.path}
	var keys []logserver.KeyInfo
	if server := log.running(); server != nil {
		err = server.run(cmd.Context(), "rotate-key", request, &keys, func(int64, int64) {})
	} else {
		err = log.use(false, cmd.ErrOrStderr(), func(s *logserver.Store) (err error) {
			keys, err = rotateKey(s, dir, request)
			return err
		})
	}
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(keys)
	}
	for _, k := range keys {
		fmt.Fprintf(cmd.OutOrStdout(), "%-11s %-7s %s\n", k.Role, k.State, k.Vkey)
	}
	return nil
}
