package logcmd

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/logserver"
)

// statusReport is what status says.
type statusReport struct {
	// Running says that a server answered; otherwise the rest is what the store
	// tells, and nothing is said of health, queue, policy and disk.
	Running bool `json:"running"`
	logserver.Status
}

func statusCommand() *cobra.Command {
	var log located
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how a log is at a glance",
		Long: `Ask the server of a running log how it is, or look into the store of a stopped
one: health and its reasons, tree sizes, publication, queue, disk, and every key
with its state. The exit status is 0 if the log is running and healthy, or is
stopped and could be started; otherwise 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status(cmd, log, asJSON)
		},
	}
	log.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}

func status(cmd *cobra.Command, log located, asJSON bool) error {
	var report statusReport
	var err error
	if server := log.running(cmd.Context()); server != nil {
		report.Running = true
		report.Status, err = server.Status(cmd.Context())
	} else {
		err = log.use(true, cmd.ErrOrStderr(), func(s *logserver.Store) (err error) {
			report.Status, err = s.Status()
			return err
		})
	}
	if err != nil {
		return err
	}
	if asJSON {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(report); err != nil {
			return err
		}
	} else {
		printStatus(cmd.OutOrStdout(), &report)
	}
	if len(report.Reasons) > 0 {
		return fmt.Errorf("log %q is not healthy", report.Origin)
	}
	return nil
}

func printStatus(w io.Writer, r *statusReport) {
	state := "stopped"
	switch {
	case r.Successor != "":
		state = "ended"
	case !r.Running && len(r.Reasons) > 0:
		state = "stopped, NOT READY"
	case !r.Running:
	case r.Healthy:
		state = "healthy"
	default:
		state = "NOT HEALTHY"
	}
	fmt.Fprintf(w, "%s: %s\n", r.Origin, state)
	for _, reason := range r.Reasons {
		fmt.Fprintf(w, "  because  %s\n", reason)
	}
	fmt.Fprintf(w, "  entries  %d integrated, %d signed, %d published\n", r.Integrated, r.Signed, r.Published)
	if r.Running {
		fmt.Fprintf(w, "  publish  %s, quorum %s, %.1f s behind\n", r.Publication, r.Quorum, r.Behind)
		if r.CosignedAge != nil {
			fmt.Fprintf(w, "           size %d witnessed, cosigned %.0f s ago\n", r.Witnessed, *r.CosignedAge)
		}
		if r.Quorum == "none" {
			fmt.Fprintln(w, "           without witnesses nothing but this store stands against a second history")
		}
		fmt.Fprintf(w, "  queue    %d of %d entries, %d of %d bytes\n", r.QueuedEntries, r.MaxQueuedEntries, r.QueuedBytes, r.MaxQueuedBytes)
		m := r.Memory
		fmt.Fprintf(w, "  memory   %s\n", strings.Join([]string{
			"bodies " + ofMemory(m.Bodies, m.MaxBodies), "replies " + ofMemory(m.Replies, m.MaxReplies),
			"tile cache " + ofMemory(m.TileCache, m.MaxTileCache), "dedup filter at most " + formatSize(m.MaxDedupFilter)}, ", "))
		if r.DiskFree != nil {
			fmt.Fprintf(w, "  disk     %d MiB free, appends stop at %d MiB\n", *r.DiskFree>>20, r.DiskReserve>>20)
		}
	}
	for _, k := range r.Keys {
		line := fmt.Sprintf("  %-11s %-7s %s", k.Role, k.State, k.Vkey)
		if k.State == logserver.KeyRetired {
			line += fmt.Sprintf(" (signed up to size %d)", k.Size)
		}
		fmt.Fprintln(w, line)
	}
}

// ofMemory says how much of a bound is in use.
func ofMemory(used, bound int64) string {
	if bound <= 0 {
		return "none"
	}
	return fmt.Sprintf("%d KiB of %s", (used+1<<10-1)>>10, formatSize(bound))
}
