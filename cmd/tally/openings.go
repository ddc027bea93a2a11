package main

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

func logOpeningsCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "openings",
		Short: "Save the openings of the whole audit log, for auditors",
		Long: `Save the openings of all entries of the audit log to a file, up to now
and at least as far as its published checkpoint, whose size and root hash the file says. With it
and the public log, "verifier replay --all" recomputes and replays every execution.
Only auditors see all openings: use the profile of one. The file holds the records
in clear, so keep it like them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			policy, err := p.policy(p.AuditPolicy)
			if err != nil {
				return err
			}
			origin, err := policy.Origin()
			if err != nil {
				return err
			}
			verified, err := published(cmd.Context(), p, c)
			if err != nil {
				return err
			}
			tree := verified.Checkpoint.Tree()
			bar := newProgress()
			n := uint64(0)
			err = wiring.ReplaceFile(output, 0o600, func(file io.Writer) error {
				if _, err := file.Write(provenance.FormatOpenings(origin, tree)); err != nil {
					return fmt.Errorf("writing the openings: %w", err)
				}
				n, err = saveOpenings(cmd.Context(), c, file, bar)
				if err == nil && n < uint64(tree.N) {
					err = fmt.Errorf("the control plane shows %d records, its checkpoint covers %d", n, tree.N)
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.printer.value(map[string]any{"file": output, "openings": n}, func(w io.Writer) {
				fmt.Fprintf(w, "openings: %s (%d entries)\n", output, n)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "audit.openings", "file to write")
	return cmd
}

// saveOpenings writes the openings of all records that the control plane shows,
// and returns how many these are.
func saveOpenings(ctx context.Context, c *client.Client, file io.Writer, bar *progress) (n uint64, err error) {
	w := bufio.NewWriter(file)
	for next := uint64(0); ; {
		res, err := c.Log.ListRecords(ctx, connect.NewRequest(&pb.ListRecordsRequest{Start: next, PageSize: 1000}))
		if err != nil {
			return n, err
		}
		for _, r := range res.Msg.Records {
			if r.Index != n {
				return n, withHint(fmt.Errorf("entry %d is withheld", n), "use the profile of an auditor: others see their own records only")
			}
			w.Write(provenance.AppendOpening(nil, r.Opening)) // Flush reports its error
			n++
		}
		bar.show(fmt.Sprintf("%d openings", n))
		if next = res.Msg.Next; next == 0 {
			break
		}
	}
	bar.done()
	if err := w.Flush(); err != nil {
		return n, fmt.Errorf("writing the openings: %w", err)
	}
	return n, nil
}
