package logcmd

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
)

// lostFile lists, in the new log's directory, the entries that the old one had
// promised and that nobody can prove (docs/formats/successor.md).
const lostFile = "lost-entries.txt"

func succeedCommand() *cobra.Command {
	var dir string
	var next directory
	var origin string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "succeed",
		Short: "End a log for ever, and create the log that goes on after it",
		Long: `End the log in --dir: it never signs or appends again, and can still be served for
reading. Create a new log in --new-dir, with another origin and new keys, whose
first entry names the old log's last cosigned checkpoint.

This is how a log goes on whose store or keys are lost or no longer trusted, and
that has nobody to catch up from (logserver restore). Entries that the old log
had acknowledged beyond that checkpoint are lost: their receipts cannot be
honoured. They are listed in lost-entries.txt in the new directory; publish it.
Then give the new verifier key to clients and witnesses: nobody follows by
itself.

The server of the old log must be stopped, and there is no way back. An
interrupted command completes when it is run again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return succeed(cmd, dir, &next, origin, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "dir", "", "the old log's `directory`")
	flags.StringVar(&next.path, "new-dir", "", "the new log's `directory`")
	flags.StringVar(&origin, "origin", "", "the new log's unique `name`, a URL without schema, not that of the old log")
	flags.StringVar(&next.passphraseFile, "passphrase-file", "", "`file` with the passphrase for the new private keys (default: they are not encrypted)")
	next.registerNew(cmd)
	flags.BoolVar(&asJSON, "json", false, "write one JSON object, with what a confirm_successor_log change needs")
	for _, name := range []string{"dir", "new-dir", "origin"} {
		cmd.MarkFlagRequired(name)
	}
	return cmd
}

func succeed(cmd *cobra.Command, dir string, next *directory, origin string, asJSON bool) error {
	old := located{dir: dir}
	return old.use(false, cmd.ErrOrStderr(), func(s *logserver.Store) error {
		if s.Origin() == origin {
			return fmt.Errorf("--origin: %q is the old log's, the new one needs another", origin)
		}
		options, vkey, err := next.prepare(origin)
		if errors.Is(err, logserver.ErrExists) {
			// Perhaps this was complete: Succeed finds out.
			options, err = next.open()
		}
		if err != nil {
			return err
		}
		if options.Origin != origin {
			return fmt.Errorf("%w: %q is the directory of %q", logserver.ErrExists, next.path, options.Origin)
		}
		options.Fatal = wiring.EndProcess("logserver", cmd.ErrOrStderr())
		r, err := logserver.Succeed(s, options)
		if err != nil {
			return err
		}
		if r.Lost > 0 {
			if err := writeLost(s, r, filepath.Join(next.path, lostFile)); err != nil {
				return err
			}
		}
		if vkey != "" {
			if err := next.complete(vkey); err != nil {
				return err
			}
		}
		if asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
		}
		printSuccession(cmd.OutOrStdout(), r, next.path)
		return nil
	})
}

// writeLost writes the list of lost entries.
func writeLost(s *logserver.Store, r *logserver.Succession, path string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "tallystick lost entries v1\n%s\n", r.Origin)
	index := r.Size
	for h, err := range s.LeafHashes(r.Size) {
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%d %s\n", index, base64.StdEncoding.EncodeToString(h[:]))
		index++
	}
	return wiring.WriteFile(path, []byte(b.String()), 0o644)
}

func printSuccession(w io.Writer, r *logserver.Succession, dir string) {
	fmt.Fprintf(w, "%s has ended at its checkpoint of tree size %d\n", r.Origin, r.Size)
	if r.Lost > 0 {
		fmt.Fprintf(w, "lost: %s beyond it, listed in %s\n", wiring.Count(r.Lost, "entry"), filepath.Join(dir, lostFile))
	}
	fmt.Fprintf(w, "%s goes on in %s; the line for policies is\nlog %s\n", r.NewOrigin, dir, r.NewKeys[0])
}
