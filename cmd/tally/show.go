package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier/member"
)

func memberShowCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show PRINCIPAL[@EPOCH]",
		Short: "Prove that somebody was a member at an epoch, or was not",
		Long: `Fetch the proof that a principal is a member at an epoch, with which keys, or that
it is none, check it here under the profile's policy and genesis, and show what it
proves. With -o the proof is kept in a file, which "verifier member" checks
offline. Without an epoch it is the current one.`,
		Example: "  tally member show node-4@7 -o node-4.tallymember",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, epoch, err := parseWho(args[0])
			if err != nil {
				return wiring.Usage(cmd, err)
			}
			p, c, err := a.client()
			if err != nil {
				return err
			}
			file, report, err := memberProof(cmd.Context(), p, c, id, epoch)
			if err != nil {
				return err
			}
			if output == "-" {
				_, err := a.printer.out.Write(file)
				return err
			}
			if output != "" {
				if err := writeFile(output, file); err != nil {
					return fmt.Errorf("writing the membership proof: %w", err)
				}
			}
			return a.printer.value(report, func(w io.Writer) {
				printMember(w, report)
				if output != "" {
					fmt.Fprintf(w, "\nmembership proof: %s (%d bytes)\n", output, len(file))
				}
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to keep the proof in, - for standard output")
	return cmd
}

// parseWho reads PRINCIPAL[@EPOCH]; epoch 0 is the current one.
func parseWho(text string) (id string, epoch uint64, err error) {
	id, number, given := strings.Cut(text, "@")
	if given {
		if epoch, err = strconv.ParseUint(number, 10, 63); err != nil || epoch == 0 {
			return "", 0, fmt.Errorf("%q is not PRINCIPAL[@EPOCH], as in node-4@7", text)
		}
	}
	return id, epoch, nil
}

// memberProof fetches a membership proof and checks it.
func memberProof(ctx context.Context, p *profile, c *client.Client, id string, epoch uint64) ([]byte, *member.Report, error) {
	trust, err := p.membershipTrust()
	if err != nil {
		return nil, nil, err
	}
	if epoch == 0 {
		if epoch, err = currentEpoch(ctx, c, trust); err != nil {
			return nil, nil, err
		}
	}
	res, err := c.Membership.VerifyMembership(ctx, connect.NewRequest(&pb.VerifyMembershipRequest{Principal: id, Epoch: epoch}))
	if err != nil {
		return nil, nil, err
	}
	m := res.Msg
	proof := membership.ProofFile{
		Principal: id, Epoch: m.Epoch, Member: m.Member,
		Change: m.Change, ChangeProof: m.InclusionProof, GenesisProof: m.GenesisProof, Checkpoint: m.MembershipCheckpoint,
	}
	for _, l := range m.Leaves {
		proof.Leaves = append(proof.Leaves, membership.Leaf{Index: l.Index, Data: l.Data, Proof: l.InclusionProof})
	}
	file, err := proof.Marshal()
	if err != nil {
		return nil, nil, fmt.Errorf("the control plane's answer: %w", err)
	}
	report, err := member.Verify(file, member.Trust{Policy: trust.Policy, Genesis: trust.Genesis}, member.Question{Principal: id, Epoch: epoch})
	if err != nil {
		return nil, nil, fmt.Errorf("the control plane's answer does not hold: %w", err)
	}
	return file, report, nil
}

// currentEpoch is the last one that a fresh checkpoint of the membership log covers,
// since each change makes the next. A proof's own checkpoint does not tell: it is
// the first that covers its epoch, and keeps the cosignatures of that time.
func currentEpoch(ctx context.Context, c *client.Client, trust client.MembershipTrust) (uint64, error) {
	root, err := c.Control.GetClusterRoot(ctx, connect.NewRequest(&pb.GetClusterRootRequest{}))
	if err != nil {
		return 0, err
	}
	verified, err := trust.VerifyCheckpoint(root.Msg.MembershipCheckpoint)
	if err != nil {
		return 0, err
	}
	return uint64(verified.Checkpoint.Size), nil
}

func printMember(w io.Writer, r *member.Report) {
	if r.As == nil {
		fmt.Fprintf(w, "%q is no member at epoch %d\n", r.Principal, r.Epoch)
	} else {
		fmt.Fprintf(w, "%s %q is a member at epoch %d\n", r.As.Kind, r.Principal, r.Epoch)
		if r.As.Kind == membership.KindNode {
			fmt.Fprintf(w, "  name %q, trust level %d, labels %s\n", r.As.Name, r.As.TrustLevel, labels(r.As.Labels))
		}
		for _, k := range r.As.Keys {
			fmt.Fprintf(w, "  key %s for %s\n", k.ID(), joinUses(k.Uses))
		}
	}
	fmt.Fprintf(w, "membership hash %s, %d principals\n", r.MembershipHash, r.MembershipCount)
	fmt.Fprintf(w, "the checkpoint covers %s:\n", count(int(r.LastEpoch), "epoch"))
	for _, s := range r.Checkpoint.Cosignatures {
		fmt.Fprintf(w, "  cosigned by %s\n", s.Witness)
	}
}

func memberDiffCommand(a *app) *cobra.Command {
	var changes string
	cmd := &cobra.Command{
		Use:   "diff FROM [TO] | diff FILE",
		Short: "Tell the difference between two epochs, or what a proposal would make of the present",
		Long: `Tell in words what differs between the membership at two epochs, TO being the
current one if it is left out, or between the present and what a proposed or
half-signed change in FILE would make of it. The membership is replayed here from
the profile's genesis.`,
		Example: "  tally member diff 3 7\n  tally member diff change.json",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to, err := a.sides(cmd.Context(), args, changes)
			if err != nil {
				return err
			}
			list := from.Diff(to)
			if list == nil {
				list = []membership.Difference{}
			}
			return a.printer.value(map[string]any{"from_epoch": from.Epoch(), "to_epoch": to.Epoch(), "differences": list}, func(w io.Writer) {
				fmt.Fprintf(w, "from epoch %d to epoch %d: %s\n", from.Epoch(), to.Epoch(), count(len(list), "difference"))
				for _, d := range list {
					fmt.Fprintf(w, "  %s\n", d)
				}
			})
		},
	}
	cmd.Flags().StringVar(&changes, "changes", "", "file with the membership log, instead of asking the control plane")
	return cmd
}

// sides returns the two states that are to be compared.
func (a *app) sides(ctx context.Context, args []string, changes string) (from, to *membership.State, err error) {
	epochs := make([]uint64, len(args))
	for i, arg := range args {
		if epochs[i], err = strconv.ParseUint(arg, 10, 63); err != nil && len(args) == 2 {
			return nil, nil, fmt.Errorf("%q is not an epoch", arg)
		}
	}
	isFile := err != nil
	var proposal *changeFile
	if isFile {
		if proposal, err = readChange(args[0]); err != nil {
			return nil, nil, err
		}
	}
	h, err := a.history(ctx, changes)
	if err != nil {
		return nil, nil, err
	}
	if isFile {
		to, _, err = h.Current().Preview(proposal.payload)
		return h.Current(), to, refusedChange(err)
	}
	if from, err = h.StateAt(epochs[0]); err != nil {
		return nil, nil, err
	}
	if len(epochs) == 1 {
		return from, h.Current(), nil
	}
	to, err = h.StateAt(epochs[1])
	return from, to, err
}

func memberExportCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export -o FILE",
		Short: "Keep every change of the membership in a file",
		Long: `Fetch every change of the membership, check that they follow from the profile's
genesis and are those that the witnesses cosigned, and keep them in one file: the
entry bundles of the membership log in a row. "tally member sign --changes" and
"verifier --changes" read it where there is no network.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.history(cmd.Context(), "")
			if err != nil {
				return err
			}
			var entries [][]byte
			for epoch := uint64(1); epoch <= h.Size(); epoch++ {
				_, envelope, err := h.Change(epoch)
				if err != nil {
					return err
				}
				entries = append(entries, envelope)
			}
			return a.save(output, membership.FormatLogFile(entries), "membership log")
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write, - for standard output")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}
