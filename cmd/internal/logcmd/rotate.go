package logcmd

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/control"
	"github.com/tallystick/tallystick/cmd/internal/keyplace"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// rotator is a running log, or the store of one that is stopped.
type rotator interface {
	BeginRotation(crypto.Signer) error
	FinishRotation() error
	AbortRotation() error
	RotateReceiptKey(crypto.Signer) error
	Keys() []logserver.KeyInfo
}

// rotateKey makes one step and settles the files. A new key is in its file before
// the store names it, and the files are renamed after that: a crash in between
// is settled by the next start or step.
func rotateKey(log rotator, dir *directory, r control.RotateRequest) ([]logserver.KeyInfo, error) {
	if err := dir.settleKeys(log.Keys()); err != nil {
		return nil, err
	}
	var err error
	switch r.Step {
	case "begin":
		err = dir.replaceKey(logPlace, keyplace.Of(log.Keys(), logserver.RoleLog), r.Key, log.BeginRotation)
	case "receipt":
		err = dir.replaceKey(receiptPlace, keyplace.Of(log.Keys(), logserver.RoleReceipt), r.Key, log.RotateReceiptKey)
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

// replaceKey makes the key that will replace the one in a place, or names the one
// in a service at the URI, and has the store take it. Doing it again with what
// the store has taken already changes nothing.
func (d *directory) replaceKey(place string, keys []logserver.KeyInfo, uri string, take func(crypto.Signer) error) error {
	if len(keys) == 0 {
		return fmt.Errorf("the log has no key of that kind")
	}
	for _, k := range keys {
		// What is in its place is in use: nobody may be told to remove it.
		if chosen, _ := readKMS(d.file(place + keyplace.NextSuffix + kmsSuffix)); k.State == logserver.KeyNext && chosen.uri != uri {
			return fmt.Errorf("a rotation to the key %q has begun, finish or abort it first", k.Vkey)
		}
	}
	active, err := checkpoint.ParseVkey(keys[0].Vkey)
	if err != nil {
		return err
	}
	held, made, err := d.makeKey(newKey{place: place + keyplace.NextSuffix, name: active.Name(), uri: uri})
	if err != nil {
		return err
	}
	err = take(held.Signer)
	if made && errors.Is(err, logserver.ErrInvalid) {
		// Nobody has used it, and the next step would wonder about it.
		return errors.Join(err, os.Remove(d.file(held.File)))
	}
	return err
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
the new one to every policy (the server's own, witnesses', clients'), have the
server read its own again with a hangup signal (SIGHUP), and only then finish. Take a new backup after that: a restored store that
does not know the new key must be led through the same steps before it can catch
up.

The receipt key changes at once, at a tree size that status shows:

    logserver rotate-key receipt --dir D

The new key is made in D, or is one of a key management service that --key names
by its URI, as with init; so a log moves to a service, away from it, or from one
to another. A receipt key in a service is called for each receipt that is asked
for: that is slow, and appends that ask for a proof fail while it is away.

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
	request := control.RotateRequest{Step: step}
	cmd := &cobra.Command{
		Use:   step,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return rotate(cmd, &dir, request, asJSON)
		},
	}
	dir.register(cmd)
	if step == "begin" || step == "receipt" {
		cmd.Flags().StringVar(&request.Key, "key", "", "`URI` of the new key in a key management service (default: a new key in the directory)")
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the keys as one JSON array")
	return cmd
}

func rotate(cmd *cobra.Command, dir *directory, request control.RotateRequest, asJSON bool) (err error) {
	log := located{dir: dir.path}
	var keys []logserver.KeyInfo
	if server := log.running(cmd.Context()); server != nil {
		keys, err = server.Rotate(cmd.Context(), request)
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
