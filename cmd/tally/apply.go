package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

func memberApplyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "apply FILE",
		Short: "Hand in a signed change",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if errors.Is(err, fs.ErrNotExist) {
				return withHint(err, "`tally member propose` writes one")
			}
			if err != nil {
				return err
			}
			envelope, err := dsse.Parse(data)
			if err != nil {
				return withHint(fmt.Errorf("%q: %w", args[0], err), "sign it first: tally member sign "+args[0])
			}
			p, c, err := a.client()
			if err != nil {
				return err
			}
			h, err := history(cmd.Context(), p, c)
			if err != nil {
				return err
			}
			if err := applicable(h, envelope, data); err != nil {
				return refusedChange(err)
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

// applicable checks a signed change against every rule before it is handed in.
// The change that made its epoch may be handed in again.
func applicable(h *membership.History, envelope *dsse.Envelope, data []byte) error {
	_, _, err := h.Current().Apply(data)
	if !errors.Is(err, membership.RefusedReplay) {
		return err
	}
	change, parseErr := membership.ParseChange(envelope.Payload)
	if parseErr != nil {
		return parseErr
	}
	if info, _, historyErr := h.Change(change.Epoch); historyErr == nil && info.PayloadDigest == digest.Of(envelope.Payload) {
		return nil
	}
	return err
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
