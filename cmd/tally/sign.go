package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
)

// maxChangeFile bounds a file with a change: a payload or an envelope.
const maxChangeFile = 2 * membership.MaxChangeEnvelope

func memberSignCommand(a *app) *cobra.Command {
	var keyName, changes string
	var yes, offline bool
	cmd := &cobra.Command{
		Use:   "sign FILE",
		Short: "Add your signature to a change, after showing what it does",
		Long: `Show a change in words, with what it replaces, and add a signature to its file: by
the profile's change key, or by --key, which is how the holder of a new key proves
to have it. A key is a PEM file or the URI of one in a key management service.

The change is first held to every rule against the present membership, which is
fetched and replayed from the profile's genesis, or read from --changes where
there is no network ("tally member export" writes that file). A stale change, or
one that the rules refuse, is not signed. With --offline it is only shown.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readChange(args[0])
			if err != nil {
				return err
			}
			var state *membership.State
			if !offline {
				if state, err = a.present(cmd.Context(), changes); err != nil {
					return withHint(err, "a signer without network takes the membership from --changes FILE, or signs what is shown with --offline")
				}
				if _, _, err := state.Preview(f.payload); err != nil {
					return refusedChange(err)
				}
			}
			show := cmd.ErrOrStderr()
			f.show(show, state)
			if !yes {
				if ok, err := confirm(cmd.InOrStdin(), show, "Sign it?"); err != nil || !ok {
					return errors.Join(err, errors.New("not signed"))
				}
			}
			signer, err := a.changeSigner(keyName)
			if err != nil {
				return err
			}
			if err := f.sign(signer, state); err != nil {
				return err
			}
			missing, known := f.missing(state)
			return a.printer.value(map[string]any{"file": args[0], "signatures": len(f.envelope.Signatures), "missing": missing}, func(w io.Writer) {
				fmt.Fprintf(w, "%s has %s now\n", args[0], count(len(f.envelope.Signatures), "signature"))
				for _, text := range missing {
					fmt.Fprintf(w, "  missing: %s\n", text)
				}
				if known && len(missing) == 0 {
					fmt.Fprintf(w, "it is complete: tally member apply %s\n", args[0])
				}
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&keyName, "key", "", "PEM file, or URI in a key management service, of the key to sign with (default the profile's change key)")
	fl.StringVar(&changes, "changes", "", "file with the membership log, to compare with instead of asking the control plane")
	fl.BoolVar(&offline, "offline", false, "do not compare with the present membership")
	fl.BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.MarkFlagsMutuallyExclusive("changes", "offline")
	return cmd
}

// A changeFile is a change on its way from signer to signer: a bare payload as
// it was proposed, or an envelope once somebody has signed it.
type changeFile struct {
	path     string
	payload  []byte
	envelope *dsse.Envelope // nil for a bare payload
	change   membership.Change
}

func readChange(path string) (*changeFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxChangeFile+1))
	if err != nil {
		return nil, err
	}
	c := &changeFile{path: path, payload: data}
	if envelope, err := dsse.Parse(data); err == nil {
		if envelope.PayloadType != membership.PayloadType {
			return nil, fmt.Errorf("%q holds a %q, not a membership change", path, envelope.PayloadType)
		}
		c.payload, c.envelope = envelope.Payload, envelope
	}
	if c.change, err = membership.ParseChange(c.payload); err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return c, nil
}

// show tells a signer what the change does; state is nil if it is not known.
func (f *changeFile) show(w io.Writer, state *membership.State) {
	fmt.Fprintf(w, "change for cluster %q, making epoch %d:\n", f.change.Cluster, f.change.Epoch)
	words := f.change.Describe()
	if state != nil {
		words = state.Describe(f.change)
	}
	for _, text := range words {
		fmt.Fprintf(w, "    %s\n", text)
	}
	if state == nil {
		fmt.Fprintln(w, "not compared with the present membership: it may be stale, or refused for another reason")
	}
	if f.envelope != nil {
		fmt.Fprintf(w, "signed so far by %s\n", strings.Join(f.signers(state), ", "))
	}
}

// signers names who has signed, by their key ids where nothing else is known.
// The signatures themselves are checked when the change is applied.
func (f *changeFile) signers(state *membership.State) (names []string) {
	for _, s := range f.envelope.Signatures {
		name := "key " + short(s.KeyID)
		if state != nil {
			if p, ok := state.KeyHolder(s.KeyID); ok {
				name = fmt.Sprintf("%s %q", p.Kind, p.ID)
			}
		}
		names = append(names, name)
	}
	return names
}

// added returns the ids of the keys that the change adds, with whose they are.
func (f *changeFile) added() map[string]string {
	keys := map[string]string{}
	switch e := f.change.Effect.(type) {
	case membership.AddPrincipal:
		for _, k := range e.Principal.Keys {
			keys[k.ID()] = e.Principal.ID
		}
	case membership.RotateKey:
		if e.Add != nil {
			keys[e.Add.ID()] = e.ID
		}
	}
	return keys
}

// sign adds a signature and keeps it in the file. A key that has no part in the
// change would spoil the whole envelope, so it is refused here.
func (f *changeFile) sign(signer dsse.Signer, state *membership.State) (err error) {
	id := dsse.KeyID(signer.Public())
	if state != nil && f.added()[id] == "" {
		if p, ok := state.KeyHolder(id); !ok || p.Kind != membership.KindAdmin {
			return withHint(fmt.Errorf("key %s is neither an admin's nor added by this change", id), "sign with an admin's change key, or with a key that the change adds")
		} else if _, ok := p.KeyFor(membership.UseChange, id); !ok {
			return withHint(fmt.Errorf("key %s of %q is not for changes", id, p.ID), "sign with the admin's key that has the use \"change\"")
		}
	}
	if f.envelope == nil {
		f.envelope, err = dsse.Sign(membership.PayloadType, f.payload, signer)
	} else {
		err = f.envelope.Add(signer)
	}
	if err != nil {
		return err
	}
	data, err := f.envelope.Marshal()
	if err != nil {
		return err
	}
	return writeFile(f.path, data)
}

// missing says whose signatures are missing still, if the state is known.
func (f *changeFile) missing(state *membership.State) (list []string, known bool) {
	if state == nil {
		return nil, false
	}
	admins, added := map[string]bool{}, f.added()
	for _, s := range f.envelope.Signatures {
		if p, ok := state.KeyHolder(s.KeyID); ok && p.Kind == membership.KindAdmin {
			admins[p.ID] = true
		}
		delete(added, s.KeyID)
	}
	if n := state.AdminThreshold(); uint64(len(admins)) < n {
		list = append(list, fmt.Sprintf("%d of %d admins", n-uint64(len(admins)), n))
	}
	for _, id := range sortedKeys(added) {
		list = append(list, fmt.Sprintf("the new key %s of %q", id, added[id]))
	}
	return list, true
}

// present returns the membership as it is now: from a file with the whole log,
// or from the control plane. Either way it is replayed from the pinned genesis.
func (a *app) present(ctx context.Context, changes string) (*membership.State, error) {
	h, err := a.history(ctx, changes)
	if err != nil {
		return nil, err
	}
	return h.Current(), nil
}

func (a *app) history(ctx context.Context, changes string) (*membership.History, error) {
	if changes == "" {
		p, c, err := a.client()
		if err != nil {
			return nil, err
		}
		return history(ctx, p, c)
	}
	p, err := loadProfile(a.profilePath)
	if err != nil {
		return nil, err
	}
	genesis, err := os.ReadFile(p.file(p.Genesis))
	if err != nil {
		return nil, fmt.Errorf("reading the genesis: %w", err)
	}
	data, err := readInput(changes)
	if err != nil {
		return nil, err
	}
	entries, err := membership.ParseLogFile(data)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", changes, err)
	}
	if len(entries) == 0 || !bytes.Equal(entries[0], genesis) {
		return nil, fmt.Errorf("%q does not begin with the genesis of the profile", changes)
	}
	h := membership.NewHistory()
	for i, entry := range entries {
		if _, err := h.Append(entry); err != nil {
			return nil, fmt.Errorf("%q: change %d: %w", changes, i+1, err)
		}
	}
	return h, nil
}

// refusedChange adds what to do about a change that the rules refuse.
func refusedChange(err error) error {
	var refused *membership.RefusalError
	if errors.As(err, &refused) && slices.Contains([]membership.RefusalCode{membership.RefusedReplay, membership.RefusedPrevious}, refused.Code) {
		return withHint(fmt.Errorf("the change is stale, another one was made since it was proposed: %s", refused.Detail), refused.Code.Hint())
	}
	return err
}

func (a *app) changeSigner(name string) (dsse.Signer, error) {
	if name != "" {
		key, err := loadKey(name)
		if err != nil {
			return nil, err
		}
		return dsse.NewSigner(key)
	}
	p, err := loadProfile(a.profilePath)
	if err != nil {
		return nil, err
	}
	key, err := p.key("change")
	if err != nil {
		return nil, err
	}
	return dsse.NewSigner(key)
}

// confirm asks a yes-or-no question; anything but yes is no.
func confirm(in io.Reader, out io.Writer, question string) (bool, error) {
	fmt.Fprintf(out, "%s [y/N] ", question)
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil && answer == "" {
		fmt.Fprintln(out)
		return false, nil
	}
	answer = strings.ToLower(answer)
	return answer == "y" || answer == "yes", nil
}
