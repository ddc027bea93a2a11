package main

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/keyplace"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func rotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Replace a key of one of the cluster's logs",
		Long: `Replace the key that signs a log's checkpoints, or its receipt key, while the
control plane is stopped; executions go on when it is started again. The log key
changes in two steps, because the admins and everybody's policies must name the
new one in between:

    controlapi rotate-key begin --log audit --dir D     a new key signs beside the old one
    controlapi rotate-key finish --log audit --dir D    the old key signs no more
    controlapi rotate-key abort --log audit --dir D     or: the new one signs no more

After begin, start the control plane, have the admins name both keys (tally member
propose log-keys), and add a log line with the new key to the policies of the
control plane, the witnesses, the nodes and everybody who verifies. Then finish.
Old log lines stay for what was signed before.

    controlapi rotate-key receipt --log audit --dir D   the receipt key, at once

Retired private keys stay in D/keys as *.retired-*; destroy them. Every step that
was interrupted can be run again.`,
	}
	for _, step := range []struct{ name, short string }{
		{"begin", "Let a new log key sign beside the old one"},
		{"finish", "Retire the old log key"},
		{"abort", "Give the new log key up"},
		{"receipt", "Replace the receipt key"},
	} {
		cmd.AddCommand(rotateStep(step.name, step.short))
	}
	return cmd
}

func rotateStep(step, short string) *cobra.Command {
	var dir directory
	var log string
	cmd := &cobra.Command{
		Use:   step,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name := membership.LogName(log)
			if name != membership.LogAudit && name != membership.LogMembership {
				return wiring.Usage(cmd, fmt.Errorf("--log %q is neither %q nor %q", log, membership.LogAudit, membership.LogMembership))
			}
			keys, err := dir.rotate(name, step, cmd.ErrOrStderr())
			for _, k := range keys {
				fmt.Fprintf(cmd.OutOrStdout(), "%-11s %-7s %s\n", k.Role, k.State, k.Vkey)
			}
			return err
		},
	}
	dir.register(cmd)
	cmd.Flags().StringVar(&log, "log", "", "audit or membership")
	cmd.MarkFlagRequired("log")
	return cmd
}

// rotate makes one step of a rotation and settles the files. A new key is in its
// file before the store names it, and the files are renamed after that: a crash
// in between is settled by the next step or start.
func (d *directory) rotate(name membership.LogName, step string, stderr io.Writer) (keys []logserver.KeyInfo, err error) {
	if _, err := d.logs(); err != nil {
		return nil, err
	}
	s, err := logserver.OpenStore(logserver.StoreOptions{Dir: d.file(string(name)), Logger: slog.New(slog.DiscardHandler), Fatal: wiring.EndProcess("controlapi", stderr)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := d.settle(name, s.Keys()); err != nil {
		return nil, err
	}
	switch step {
	case "begin":
		var key ed25519.PrivateKey
		if key, err = d.makeKey(string(name) + keyplace.NextSuffix); err == nil {
			err = s.BeginRotation(key)
		}
	case "receipt":
		var key ed25519.PrivateKey
		if key, err = d.makeKey(string(name) + receiptSuffix + keyplace.NextSuffix); err == nil {
			err = s.RotateReceiptKey(key)
		}
	case "finish":
		if err = d.namedByPolicy(name, s.Keys()); err == nil {
			err = s.FinishRotation()
		}
	case "abort":
		err = s.AbortRotation()
	}
	if err != nil {
		return nil, err
	}
	return s.Keys(), d.settle(name, s.Keys())
}

// namedByPolicy makes sure that the policy accepts the key that will sign alone:
// without its line nothing would ever satisfy the policy again.
func (d *directory) namedByPolicy(name membership.LogName, keys []logserver.KeyInfo) error {
	policy, err := wiring.ReadPolicy(d.file(policyFile(name)))
	if err != nil {
		return err
	}
	for _, k := range keys {
		named := slices.ContainsFunc(policy.Logs(), func(l checkpoint.LogKey) bool { return l.Vkey == k.Vkey })
		if k.Role == logserver.RoleLog && k.State == logserver.KeyNext && !named {
			return fmt.Errorf("%s has no log line with the new key %q: add it there, and to the policies of witnesses, nodes and users, once the admins have named it", d.file(policyFile(name)), k.Vkey)
		}
	}
	return nil
}

// settle brings key files and logs.json to what the store says: a next key that
// has become the active one takes its name, and one that was given up goes aside.
func (d *directory) settle(name membership.LogName, keys []logserver.KeyInfo) error {
	logs, err := d.logs()
	if err != nil {
		return err
	}
	log := &logs.Audit
	if name == membership.LogMembership {
		log = &logs.Membership
	}
	log.Keys, log.ReceiptKeys = nil, nil
	for _, k := range keys {
		switch {
		case k.State == logserver.KeyRetired:
		case k.Role == logserver.RoleLog:
			log.Keys = append(log.Keys, k.Vkey)
		default:
			log.ReceiptKeys = append(log.ReceiptKeys, k.Vkey)
		}
	}
	slices.Sort(log.Keys)
	for _, p := range []struct{ place, role string }{{string(name), logserver.RoleLog}, {string(name) + receiptSuffix, logserver.RoleReceipt}} {
		if err := d.place(p.place).Settle(keyplace.Of(keys, p.role)); err != nil {
			return err
		}
	}
	data, err := strictjson.Marshal(*logs)
	if err != nil {
		return err
	}
	return wiring.WriteFile(d.file(logsFile), data, 0o644)
}

// place returns the place of a key of the control plane's logs.
func (d *directory) place(name string) keyplace.Place {
	load := func(file string) (crypto.Signer, error) {
		return keyfile.LoadEd25519(d.file(keysDir, file), d.passphrase())
	}
	return keyplace.Place{Dir: d.file(keysDir), Name: name, Kinds: []string{".pem"}, Load: load, AsideAsPresent: true}
}

// nextKey is the key that a rotation has made, nil if none is under way.
func (d *directory) nextKey(file string) (ed25519.PrivateKey, error) {
	key, err := keyfile.LoadEd25519(d.keyFile(file+keyplace.NextSuffix), d.passphrase())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return key, err
}
