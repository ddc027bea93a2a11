package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
)

func memberCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "member",
		Short: "Govern membership: propose, sign and apply changes",
		Long: `A membership change is a file: "propose" writes it, each admin and the holder of
each key that it adds sign it with "sign", and "apply" hands it in. The file
travels by any means, and a half-signed one keeps as long as no other change is
made; everybody sees in words what they sign. The state that a proposal builds on
is replayed here from the profile's genesis, so the control plane cannot slip
anything in.`,
	}
	cmd.AddCommand(memberListCommand(a), memberHistoryCommand(a), memberDiffCommand(a), memberShowCommand(a),
		memberExportCommand(a), memberKeyCommand(a), memberProposeCommand(a), memberSignCommand(a), memberApplyCommand(a))
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
			var list []listedPrincipal
			for principal := range state.Principals() {
				list = append(list, listed(principal))
			}
			return a.printer.value(list, func(w io.Writer) {
				var rows [][]string
				for _, m := range list {
					for i, k := range m.Keys {
						row := []string{"", "", "", "", short(k.KeyID), joinUses(k.Uses)}
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

// listedPrincipal is a principal with the ids of its keys.
type listedPrincipal struct {
	membership.Principal
	Keys []listedKey `json:"keys"`
}

type listedKey struct {
	KeyID string `json:"key_id"`
	membership.Key
}

func listed(p membership.Principal) listedPrincipal {
	l := listedPrincipal{Principal: p}
	for _, k := range p.Keys {
		l.Keys = append(l.Keys, listedKey{k.ID(), k})
	}
	return l
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

// newKey reads USE[,USE]=FILE: a public key, or a private one, in a file or a key
// management service, of which only the public half is used.
func newKey(spec string) (membership.Key, error) {
	uses, path, ok := strings.Cut(spec, "=")
	if !ok {
		return membership.Key{}, fmt.Errorf("key %q is not USE[,USE]=FILE", spec)
	}
	pub, err := keyfile.LoadPublic(path)
	if err != nil || inKMS(path) {
		if errors.Is(err, fs.ErrNotExist) && !inKMS(path) {
			return membership.Key{}, err
		}
		key, perr := loadKey(path)
		if inKMS(path) && perr != nil {
			return membership.Key{}, perr
		}
		if perr != nil {
			return membership.Key{}, fmt.Errorf("neither a public key (%w) nor a private one (%w)", err, perr)
		}
		pub = key.Public().(ed25519.PublicKey)
	}
	k := membership.Key{Algorithm: membership.AlgorithmEd25519, PublicKey: pub}
	for _, use := range strings.Split(uses, ",") {
		k.Uses = append(k.Uses, membership.Use(use))
	}
	return k, nil
}
