package logcmd

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/control"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
)

func fsckCommand() *cobra.Command {
	var log located
	var request control.FsckRequest
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check everything that is stored against the entries",
		Long: `Read the whole store and recompute every tile, the root hash and the heads from
the entries; check deduplication keys, published checkpoints and that openings, as
the audit log of a control plane has them, open their entries. A log of a program
of your own may have openings of another form: --openings=false only counts them.
A running log is checked through its server, as it is at this moment, while it
goes on; otherwise the store is opened and left as it is. No private key is needed.

Each finding is a line that names the resource and, where they are known, the
bytes of it that are wrong. The exit status is 0 only if there is none. A stopped
store that lacks files is checked as far as it can be read.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fsck(cmd, log, request, asJSON)
		},
	}
	log.register(cmd)
	cmd.Flags().IntVar(&request.Workers, "workers", 0, "goroutines that hash (default: one for each CPU)")
	cmd.Flags().BoolVar(&request.Openings, "openings", true, "check that openings open their entries as those of a control plane do")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the report as one JSON object")
	return cmd
}

func fsck(cmd *cobra.Command, log located, request control.FsckRequest, asJSON bool) error {
	var report *logserver.FsckReport
	bar := newProgress(cmd.ErrOrStderr(), "checking", "entries")
	var err error
	if server := log.running(cmd.Context()); server != nil {
		report, err = server.Fsck(cmd.Context(), request, bar.set)
	} else {
		err = log.check(cmd.ErrOrStderr(), func(s *logserver.Store) (err error) {
			report, err = s.Fsck(cmd.Context(), request.Options(bar.set))
			return err
		})
	}
	bar.end()
	if err != nil {
		return err
	}
	if asJSON {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(report); err != nil {
			return err
		}
	} else {
		printFsck(cmd.OutOrStdout(), report)
	}
	if report.Count > 0 {
		return fmt.Errorf("%w: %d findings", logserver.ErrCorrupt, report.Count)
	}
	return nil
}

func printFsck(w io.Writer, r *logserver.FsckReport) {
	for _, f := range r.Findings {
		fmt.Fprintln(w, f)
	}
	if more := r.Count - int64(len(r.Findings)); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	verdict := "sound"
	if r.Count > 0 {
		verdict = "NOT SOUND"
	}
	openings := wiring.Count(r.Openings, "opening")
	if r.Openings > 0 && !r.OpeningsChecked {
		openings += " (not checked)"
	}
	fmt.Fprintf(w, "%s: %s: %s with root hash %s; %s, %s, %s, %s, %s\n",
		r.Origin, verdict, wiring.Count(r.Size, "entry"), r.Root, wiring.Count(r.Bundles, "entry bundle"), wiring.Count(r.Tiles, "tile"),
		wiring.Count(r.Notes, "checkpoint"), openings, wiring.Count(r.DedupKeys, "deduplication key"))
}
