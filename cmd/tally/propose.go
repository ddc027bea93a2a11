package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func memberProposeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "propose",
		Short: "Write a change to be signed",
	}
	var output string
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "change.json", "`file` to write")
	propose := func(cmd *cobra.Command, effect membership.Effect) error {
		p, c, err := a.client()
		if err != nil {
			return err
		}
		h, err := history(cmd.Context(), p, c)
		if err != nil {
			return err
		}
		if rotation, ok := effect.(membership.RotateKey); ok {
			if effect, err = withWholeKeyID(h.Current(), rotation); err != nil {
				return err
			}
		}
		payload, err := h.Current().Propose(effect)
		if err != nil {
			return err
		}
		if err := keepHalfSigned(output, h.Current()); err != nil {
			return err
		}
		if err := writeFile(output, payload); err != nil {
			return err
		}
		change, err := membership.ParseChange(payload)
		if err != nil {
			return err
		}
		return a.printer.value(map[string]any{"file": output, "epoch": change.Epoch}, func(w io.Writer) {
			fmt.Fprintf(w, "%s would make epoch %d:\n", output, change.Epoch)
			for _, text := range h.Current().Describe(change) {
				fmt.Fprintf(w, "    %s\n", text)
			}
			fmt.Fprintf(w, "it must be signed by %s, and by each key that it adds: tally member sign %s\n",
				count(int(h.Current().AdminThreshold()), "admin"), output)
		})
	}
	cmd.AddCommand(
		proposeAdd(propose), proposeRemove(propose), proposeUpdate(propose), proposeRotate(propose),
		proposeNumber(propose, "admin-threshold N", "Set how many admins must sign a change",
			func(n uint64) membership.Effect { return membership.SetAdminThreshold{Threshold: n} }),
		proposeNumber(propose, "node-quorum N", "Set how many nodes must be members for work to be accepted",
			func(n uint64) membership.Effect { return membership.SetNodeQuorum{Quorum: n} }),
		proposeLimits(propose), proposeProtocolVersion(propose), proposeLogKeys(propose), proposeSuccessor(propose),
	)
	return cmd
}

// keepHalfSigned refuses to write over a change that somebody has signed and that
// can still be applied: signatures are made far away and cannot be made again here.
func keepHalfSigned(path string, state *membership.State) error {
	f, err := readChange(path)
	if err != nil || f.envelope == nil {
		return nil // there is nothing, or nothing that is worth keeping
	}
	if _, _, err := state.Preview(f.payload); err != nil {
		return nil // applied, stale or refused: its signatures are worth nothing any more
	}
	return withHint(fmt.Errorf("%q holds a change that %s signed and that is not applied yet", path, strings.Join(f.signers(state), " and ")),
		"write to another file with -o, or remove that one")
}

// withWholeKeyID completes the id of the key that goes from its beginning, as
// lists show it. What the principal does not have is left for the rules to refuse.
func withWholeKeyID(state *membership.State, r membership.RotateKey) (membership.Effect, error) {
	p, ok := state.Principal(r.ID)
	if r.Remove == "" || !ok {
		return r, nil
	}
	var found []string
	for _, k := range p.Keys {
		if strings.HasPrefix(k.ID(), r.Remove) {
			found = append(found, k.ID())
		}
	}
	if len(found) != 1 {
		return nil, withHint(fmt.Errorf("%d keys of %q have an id that begins with %q", len(found), r.ID, r.Remove), "`tally member list` shows the keys and their ids")
	}
	r.Remove = found[0]
	return r, nil
}

type proposer func(cmd *cobra.Command, effect membership.Effect) error

func proposeAdd(propose proposer) *cobra.Command {
	var keys, nodeLabels []string
	var p membership.Principal
	cmd := &cobra.Command{
		Use:   "add KIND ID --key USE[,USE]=FILE...",
		Short: "Add an admin, node, tenant or auditor",
		Long: `Add a principal. Each --key names what the key may sign and the file of its public
key; its holder signs the change too:

  tally member propose add node node-4 --key attestation=node-4.pem.pub --key token=node-4-token.pem.pub`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Kind, p.ID = membership.Kind(args[0]), args[1]
			for _, spec := range keys {
				k, err := newKey(spec)
				if err != nil {
					return wiring.Usage(cmd, err)
				}
				p.Keys = append(p.Keys, k)
			}
			var err error
			if p.Labels, err = labelMap(nodeLabels); err != nil {
				return wiring.Usage(cmd, err)
			}
			return propose(cmd, membership.AddPrincipal{Principal: p})
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "a key of it, `USE[,USE]=FILE`, may be repeated; uses are change, contract, submission, attestation, token")
	descriptionFlags(cmd, &p.Name, &p.TrustLevel, &nodeLabels)
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

func descriptionFlags(cmd *cobra.Command, name *string, trust *uint64, nodeLabels *[]string) {
	cmd.Flags().StringVar(name, "name", "", "a node's `name`, for people")
	cmd.Flags().Uint64Var(trust, "trust-level", 0, "a node's trust `level`, 0 to 1000")
	cmd.Flags().StringArrayVar(nodeLabels, "label", nil, "a node's label, `KEY=VALUE`; may be repeated")
}

func labelMap(list []string) (map[string]string, error) {
	parts, err := pairs(list)
	if err != nil || len(parts) == 0 {
		return nil, err
	}
	m := map[string]string{}
	for _, part := range parts {
		m[part[0]] = part[1]
	}
	return m, nil
}

func proposeRemove(propose proposer) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a principal: all its keys stop working at the new epoch",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return propose(cmd, membership.RemovePrincipal{ID: args[0]})
		},
	}
}

func proposeUpdate(propose proposer) *cobra.Command {
	var u membership.UpdatePrincipal
	var nodeLabels []string
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Describe a node anew: name, trust level and labels as given here",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u.ID = args[0]
			var err error
			if u.Labels, err = labelMap(nodeLabels); err != nil {
				return wiring.Usage(cmd, err)
			}
			return propose(cmd, u)
		},
	}
	descriptionFlags(cmd, &u.Name, &u.TrustLevel, &nodeLabels)
	return cmd
}

func proposeRotate(propose proposer) *cobra.Command {
	var add, remove string
	cmd := &cobra.Command{
		Use:   "rotate-key ID",
		Short: "Add a key, remove one, or both at once",
		Long: `Add a key, remove one, or both at once. Both at once is a rotation: what the old key
signed before stays good. A removal alone revokes the key.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := membership.RotateKey{ID: args[0], Remove: remove}
			if add != "" {
				k, err := newKey(add)
				if err != nil {
					return wiring.Usage(cmd, err)
				}
				r.Add = &k
			}
			return propose(cmd, r)
		},
	}
	cmd.Flags().StringVar(&add, "add", "", "the new key, `USE[,USE]=FILE`")
	cmd.Flags().StringVar(&remove, "remove", "", "`id` of the key that goes, or the beginning that tally member list shows")
	cmd.MarkFlagsOneRequired("add", "remove")
	return cmd
}

func proposeNumber(propose proposer, use, short string, effect func(uint64) membership.Effect) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[0], 10, 31)
			if err != nil {
				return wiring.Usage(cmd, fmt.Errorf("%q is not a number", args[0]))
			}
			return propose(cmd, effect(n))
		},
	}
}

func proposeLimits(propose proposer) *cobra.Command {
	return &cobra.Command{
		Use:   "limits FILE",
		Short: "Replace the cluster's limits by those of a JSON file",
		Long: `Replace the limits that contracts are held to. The file has all members of the
"limits" object in docs/formats/membership.md.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readInput(args[0])
			if err != nil {
				return err
			}
			var e membership.SetClusterLimits
			if err := strictjson.Unmarshal(data, &e.Limits, maxProfile); err != nil {
				return fmt.Errorf("%q: %w", args[0], err)
			}
			return propose(cmd, e)
		},
	}
}

func proposeProtocolVersion(propose proposer) *cobra.Command {
	return &cobra.Command{
		Use:   "protocol-version VERSION",
		Short: "Move the cluster to another protocol version",
		Long: `Move the cluster to another protocol version. A program that does not know the
version stops at this change, so bring every one to a release that knows it first.
This release knows ` + membership.ProtocolVersion + `.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return propose(cmd, membership.SetProtocolVersion{Version: args[0]})
		},
	}
}

func proposeLogKeys(propose proposer) *cobra.Command {
	var keys, receipts []string
	cmd := &cobra.Command{
		Use:   "log-keys audit|membership --key VKEY...",
		Short: "Replace the keys of a log; it keeps its origin",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return propose(cmd, membership.SetLogKeys{Log: membership.LogName(args[0]), Keys: keys, ReceiptKeys: receipts})
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "`vkey` that may sign checkpoints; may be repeated")
	cmd.Flags().StringArrayVar(&receipts, "receipt-key", nil, "`vkey` that may sign receipt heads; may be repeated")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

// A succession is what `logserver succeed --json` prints about a log that ended.
type succession struct {
	Origin         string   `json:"origin"`
	NewOrigin      string   `json:"new_origin"`
	NewKeys        []string `json:"new_keys"`
	NewReceiptKeys []string `json:"new_receipt_keys,omitempty"`
	Checkpoint     string   `json:"checkpoint"`
	Size           uint64   `json:"size"`
	Lost           uint64   `json:"lost"`
}

// maxSuccession bounds the file: a checkpoint of at most checkpoint.MaxNoteSize,
// in which each line break takes one byte more, and some keys.
const maxSuccession = 2*checkpoint.MaxNoteSize + 16<<10

func proposeSuccessor(propose proposer) *cobra.Command {
	return &cobra.Command{
		Use:   "successor audit|membership FILE",
		Short: "Confirm the log that goes on after one that ended",
		Long: `Confirm that a log of the cluster ended and which log goes on after it. FILE is what
"logserver succeed --json" printed, or - for standard input. The old log's last
cosigned checkpoint in it becomes part of the change: compare it with what your
witnesses have, since entries beyond it are lost.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readInput(args[1])
			if err != nil {
				return err
			}
			var s succession
			if err := strictjson.Unmarshal(data, &s, maxSuccession); err != nil {
				return withHint(fmt.Errorf("%q: %w", args[1], err), "give it the output of `logserver succeed --json`")
			}
			return propose(cmd, membership.ConfirmSuccessorLog{Log: membership.LogName(args[0]), Checkpoint: s.Checkpoint,
				NewOrigin: s.NewOrigin, NewKeys: s.NewKeys, NewReceiptKeys: s.NewReceiptKeys})
		},
	}
}
