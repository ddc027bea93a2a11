package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
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
one that the rules refuse, is not signed, nor is one with a signature in it that
does not hold: nobody could apply it any more. With --offline it is only shown.`,
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
			if err := f.checkSignatures(state); err != nil {
				return err
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
	data     []byte // as read, or as written since
	payload  []byte
	envelope *dsse.Envelope // nil for a bare payload
	change   membership.Change
}

func readChange(path string) (*changeFile, error) {
	data, err := readChangeFile(path)
	if err != nil {
		return nil, err
	}
	c := &changeFile{path: path, data: data, payload: data}
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

// readChangeFile returns the content of a file, one byte more than a change can
// have at most.
func readChangeFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxChangeFile+1))
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
		unchecked := ""
		if state == nil {
			unchecked = " (not checked)"
		}
		fmt.Fprintf(w, "signed so far by %s%s\n", strings.Join(f.signers(state), ", "), unchecked)
	}
}

// checkSignatures verifies the signatures that are in the file, if the state is
// known. A signer is told who has signed before, which anybody could have written
// there; and one that does not hold, or is of a key without a part in the change,
// spoils the whole envelope.
func (f *changeFile) checkSignatures(state *membership.State) error {
	if f.envelope == nil || state == nil {
		return nil
	}
	var keys []ed25519.PublicKey
	for _, s := range f.envelope.Signatures {
		if key := adminKey(state, s.KeyID); key != nil {
			keys = append(keys, key)
		}
	}
	for _, k := range f.addedKeys() {
		keys = append(keys, k.PublicKey)
	}
	if _, err := f.envelope.VerifyWith(membership.PayloadType, keys); err != nil {
		return withHint(fmt.Errorf("%q holds a signature that nobody accepts: %w", f.path, err),
			"take the file as it was before that signature was added, or the proposal, and have it signed from there")
	}
	return nil
}

// adminKey returns an admin's key for changes, nil if this is none.
func adminKey(state *membership.State, keyID string) ed25519.PublicKey {
	p, ok := state.KeyHolder(keyID)
	if !ok || p.Kind != membership.KindAdmin {
		return nil
	}
	key, _ := p.KeyFor(membership.UseChange, keyID)
	return key
}

// signers names who has signed, by their key ids where nothing else is known.
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
	whose := ""
	switch e := f.change.Effect.(type) {
	case membership.AddPrincipal:
		whose = e.Principal.ID
	case membership.RotateKey:
		whose = e.ID
	}
	keys := map[string]string{}
	for _, k := range f.addedKeys() {
		keys[k.ID()] = whose
	}
	return keys
}

// addedKeys returns the keys that the change adds.
func (f *changeFile) addedKeys() []membership.Key {
	switch e := f.change.Effect.(type) {
	case membership.AddPrincipal:
		return e.Principal.Keys
	case membership.RotateKey:
		if e.Add != nil {
			return []membership.Key{*e.Add}
		}
	}
	return nil
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
	// Somebody may have put another proposal, or one more signature, there while
	// the signer was reading.
	if now, err := readChangeFile(f.path); err != nil || !bytes.Equal(now, f.data) {
		return withHint(errors.Join(fmt.Errorf("%q has changed since it was shown, so your signature was not kept", f.path), err), "sign it again to see what it is now")
	}
	f.data = data
	return writeFile(f.path, data)
}

// missing says whose signatures are missing still, if the state is known.
func (f *changeFile) missing(state *membership.State) (list []string, known bool) {
	if state == nil {
		return nil, false
	}
	admins, added := map[string]bool{}, f.added()
	for _, s := range f.envelope.Signatures {
		if p, ok := state.KeyHolder(s.KeyID); ok && adminKey(state, s.KeyID) != nil {
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
