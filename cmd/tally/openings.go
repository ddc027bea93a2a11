package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

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
			tmp, err := os.CreateTemp(filepath.Dir(output), "."+filepath.Base(output)+".*")
			if err != nil {
				return err
			}
			defer os.Remove(tmp.Name())
			defer tmp.Close()
			w := bufio.NewWriter(tmp)
			w.Write(provenance.FormatOpenings(origin, tree)) // Flush reports its error
			bar := newProgress()
			n := uint64(0)
			for next := uint64(0); ; {
				res, err := c.Log.ListRecords(cmd.Context(), connect.NewRequest(&pb.ListRecordsRequest{Start: next, PageSize: 1000}))
				if err != nil {
					return err
				}
				for _, r := range res.Msg.Records {
					if r.Index != n {
						return withHint(fmt.Errorf("entry %d is withheld", n), "use the profile of an auditor: others see their own records only")
					}
					w.Write(provenance.AppendOpening(nil, r.Opening))
					n++
				}
				bar.show(fmt.Sprintf("%d openings", n))
				if next = res.Msg.Next; next == 0 {
					break
				}
			}
			bar.done()
			if n < uint64(tree.N) {
				return fmt.Errorf("the control plane shows %d records, its checkpoint covers %d", n, tree.N)
			}
			if err := w.Flush(); err != nil {
				return fmt.Errorf("writing the openings: %w", err)
			}
			if err := tmp.Close(); err != nil {
				return fmt.Errorf("writing the openings: %w", err)
			}
			if err := os.Rename(tmp.Name(), output); err != nil {
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
