package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

func memberCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "member",
		Short: "Govern membership: propose, sign and apply changes",
		Long: `A membership change is a file: "propose" writes it, each admin and the holder of
each key that it adds sign it with "sign", and "apply" hands it in. The file
travels by any means; everybody sees in words what they sign. The state that a
proposal builds on is replayed here from the profile's genesis, so the control
plane cannot slip anything in.`,
	}
	cmd.AddCommand(memberListCommand(a), memberHistoryCommand(a), memberProposeCommand(a), memberSignCommand(a), memberApplyCommand(a))
	return cmd
}

// history fetches the membership log and replays it from the pinned genesis.
// The replay must meet a checkpoint that the profile's policy accepts and that is
// fresh.
func history(ctx context.Context, p *profile, c *client.Client) (*membership.History, error) {
	trust, err := p.membershipTrust()
	if err != nil {
		return nil, err
	}
	return c.Members(ctx, trust)
}

func memberListCommand(a *app) *cobra.Command {
	var epoch uint64
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the principals",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			h, err := history(cmd.Context(), p, c)
			if err != nil {
				return err
			}
			state := h.Current()
			if epoch != 0 {
				if state, err = h.StateAt(epoch); err != nil {
					return err
				}
			}
			var list []membership.Principal
			for principal := range state.Principals() {
				list = append(list, principal)
			}
			return a.printer.value(list, func(w io.Writer) {
				var rows [][]string
				for _, m := range list {
					for i, k := range m.Keys {
						row := []string{"", "", "", "", short(k.ID()), joinUses(k.Uses)}
						if i == 0 {
							row[0], row[1], row[2], row[3] = m.ID, string(m.Kind), fmt.Sprint(m.TrustLevel), labels(m.Labels)
						}
						rows = append(rows, row)
					}
				}
				table(w, "PRINCIPAL|KIND|TRUST|LABELS|KEY|USES", rows)
				fmt.Fprintf(w, "\nepoch %d, admin threshold %d, node quorum %d\nmembership hash %s\n",
					state.Epoch(), state.AdminThreshold(), state.NodeQuorum(), state.MembershipHash())
			})
		},
	}
	cmd.Flags().Uint64Var(&epoch, "epoch", 0, "at this epoch (default the current one)")
	return cmd
}

func joinUses(uses []membership.Use) string {
	parts := make([]string, len(uses))
	for i, u := range uses {
		parts[i] = string(u)
	}
	return strings.Join(parts, ",")
}

func memberHistoryCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "Tell every change since the genesis",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			h, err := history(cmd.Context(), p, c)
			if err != nil {
				return err
			}
			type line struct {
				Epoch  uint64   `json:"epoch"`
				Kind   string   `json:"kind"`
				Words  []string `json:"words"`
				Admins []string `json:"admins"`
			}
			var lines []line
			for e := uint64(1); e <= h.Size(); e++ {
				info, _, err := h.Change(e)
				if err != nil {
					return err
				}
				words := info.Change.Describe()
				if e > 1 {
					if before, err := h.StateAt(e - 1); err == nil {
						words = before.Describe(info.Change)
					}
				}
				lines = append(lines, line{e, string(info.Change.Effect.Kind()), words, info.Admins})
			}
			return a.printer.value(lines, func(w io.Writer) {
				for _, l := range lines {
					fmt.Fprintf(w, "epoch %d  %s, signed by %s\n", l.Epoch, l.Kind, strings.Join(l.Admins, ", "))
					for _, text := range l.Words {
						fmt.Fprintf(w, "    %s\n", text)
					}
				}
			})
		},
	}
}

func memberSignCommand(a *app) *cobra.Command {
	var keyPath string
	var yes bool
	cmd := &cobra.Command{
		Use:   "sign FILE",
		Short: "Add your signature to a change, after showing what it does",
		Long: `Show a change in words and add a signature to its file: by the profile's change
key, or by --key, which is how the holder of a new key proves to have it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			payload, envelope, err := readChange(args[0])
			if err != nil {
				return err
			}
			change, err := membership.ParseChange(payload)
			if err != nil {
				return err
			}
			show := cmd.ErrOrStderr()
			fmt.Fprintf(show, "change for cluster %q, making epoch %d:\n", change.Cluster, change.Epoch)
			for _, text := range change.Describe() {
				fmt.Fprintf(show, "    %s\n", text)
			}
			if !yes {
				if ok, err := confirm(cmd.InOrStdin(), show, "Sign it?"); err != nil || !ok {
					return errors.Join(err, errors.New("not signed"))
				}
			}
			signer, err := changeSigner(a, keyPath)
			if err != nil {
				return err
			}
			if envelope == nil {
				envelope, err = dsse.Sign(membership.PayloadType, payload, signer)
			} else {
				err = envelope.Add(signer)
			}
			if err != nil {
				return err
			}
			data, err := envelope.Marshal()
			if err != nil {
				return err
			}
			if err := writeFile(args[0], data); err != nil {
				return err
			}
			return a.printer.value(map[string]any{"file": args[0], "signatures": len(envelope.Signatures)}, func(w io.Writer) {
				fmt.Fprintf(w, "%s has %d signatures now\n", args[0], len(envelope.Signatures))
			})
		},
	}
	cmd.Flags().StringVar(&keyPath, "key", "", "PEM file of the key to sign with (default the profile's change key)")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// readChange reads a proposal, which is a bare payload, or one that has been
// signed already, which is an envelope.
func readChange(path string) (payload []byte, envelope *dsse.Envelope, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	if envelope, err := dsse.Parse(data); err == nil {
		if envelope.PayloadType != membership.PayloadType {
			return nil, nil, fmt.Errorf("%q holds a %q, not a membership change", path, envelope.PayloadType)
		}
		return envelope.Payload, envelope, nil
	}
	return data, nil, nil
}

func changeSigner(a *app, keyPath string) (dsse.Signer, error) {
	if keyPath != "" {
		key, err := keyfile.LoadEd25519(keyPath, passphraseFromEnv())
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

func memberApplyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "apply FILE",
		Short: "Hand in a signed change",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			envelope, err := dsse.Parse(data)
			if err != nil {
				return withHint(fmt.Errorf("%q: %w", args[0], err), "sign it first: tally member sign "+args[0])
			}
			h, err := history(cmd.Context(), p, c)
			if err != nil {
				return err
			}
			if _, _, err := h.Current().Apply(data); err != nil {
				var refused *membership.RefusalError
				if errors.As(err, &refused) && refused.Code != membership.RefusedReplay {
					return withHint(err, refused.Code.Hint())
				}
			}
			epoch, duplicate, err := apply(cmd.Context(), c, envelope, data)
			if err != nil {
				return err
			}
			return a.printer.value(map[string]any{"epoch": epoch, "duplicate": duplicate, "change": digest.Of(envelope.Payload)}, func(w io.Writer) {
				again := ""
				if duplicate {
					again = " (it was applied before)"
				}
				fmt.Fprintf(w, "the cluster is at epoch %d%s\n", epoch, again)
			})
		},
	}
}

// apply uses the operation that is meant for the kind of change.
func apply(ctx context.Context, c *client.Client, envelope *dsse.Envelope, data []byte) (epoch uint64, duplicate bool, err error) {
	change, err := membership.ParseChange(envelope.Payload)
	if err != nil {
		return 0, false, err
	}
	if add, ok := change.Effect.(membership.AddPrincipal); ok && add.Principal.Kind == membership.KindNode {
		res, err := c.Membership.RegisterTrustedNode(ctx, connect.NewRequest(&pb.RegisterTrustedNodeRequest{Envelope: data}))
		if err != nil {
			return 0, false, err
		}
		return res.Msg.Epoch, res.Msg.Duplicate, nil
	}
	res, err := c.Membership.ApplyChange(ctx, connect.NewRequest(&pb.ApplyChangeRequest{Envelope: data}))
	if err != nil {
		return 0, false, err
	}
	return res.Msg.Epoch, res.Msg.Duplicate, nil
}

// newKey reads USE[,USE]=FILE: a public key, or a private one of which only the
// public half is used.
func newKey(spec string) (membership.Key, error) {
	uses, path, ok := strings.Cut(spec, "=")
	if !ok {
		return membership.Key{}, fmt.Errorf("key %q is not USE[,USE]=FILE", spec)
	}
	pub, err := keyfile.LoadPublic(path)
	if err != nil {
		key, perr := keyfile.LoadEd25519(path, passphraseFromEnv())
		if perr != nil {
			return membership.Key{}, err
		}
		pub = key.Public().(ed25519.PublicKey)
	}
	k := membership.Key{Algorithm: membership.AlgorithmEd25519, PublicKey: pub}
	for _, use := range strings.Split(uses, ",") {
		k.Uses = append(k.Uses, membership.Use(use))
	}
	return k, nil
}
