package logcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/logserver/importer"
)

// importConfig is what the flags of import say.
type importConfig struct {
	dir    directory
	source sourceFlags
	origin string
	asJSON bool
}

func importCommand() *cobra.Command {
	var config importConfig
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Make a log that begins with another log's entries",
		Long: `Make a log with the entries of another one, the source: any log that speaks
c2sp.org/tlog-tiles, or a static copy of one, as export makes it. Every entry is
verified against the source's checkpoint, which --vkey must have signed, before
it is taken. An interrupted import is gone on with by the same command, also
when the source has grown.

The new log has the name --origin, which must not be the source's, and keys of
its own, which are made in the directory as init does. Its first tree is the
source's: same size, same root hash. The source's checkpoint is kept in the store
as evidence of that. Nothing is signed or served before the import is complete.

Two stores must never sign under one origin. To bring a restored or replaced
store of the same log up to date, with the log's own key, use
logserver restore --catch-up-from instead.

Standard output receives the new log's verifier key, as with init.`,
		Example: `  logserver import --dir new --origin example.com/new --from https://old.example/log/ --vkey 'old.example/log+…'`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runImport(cmd.Context(), config, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	config.dir.register(cmd)
	config.dir.registerNew(cmd)
	config.source.register(cmd)
	cmd.Flags().StringVar(&config.origin, "origin", "", "the new log's unique `name`, a URL without schema such as example.com/log")
	cmd.Flags().BoolVar(&config.asJSON, "json", false, "print a report as JSON in place of the verifier key")
	for _, name := range []string{"from", "vkey", "origin"} {
		cmd.MarkFlagRequired(name)
	}
	return cmd
}

// importReport is the answer with --json.
type importReport struct {
	*importer.Report
	Vkey string `json:"vkey"` // of the new log
}

func runImport(ctx context.Context, config importConfig, stdout, stderr io.Writer) error {
	fetch, policy, err := config.source.open()
	if err != nil {
		return err
	}
	options, vkey, err := config.dir.prepare(config.origin)
	if err != nil {
		return err
	}
	options.ImportFrom = config.source.vkey
	if err := logserver.Create(options); err != nil && !errors.Is(err, logserver.ErrExists) {
		return err
	}
	bar := newProgress(stderr, "importing", "entries")
	report, err := importer.Run(ctx, importer.Options{Log: options, Fetch: fetch, Policy: policy,
		Workers: config.source.workers, Progress: bar.set})
	bar.end()
	if err != nil {
		return fmt.Errorf("importing into %q: %w", config.dir.path, err)
	}
	// The directory holds a log from here on.
	if err := config.dir.complete(vkey); err != nil {
		return err
	}
	if config.asJSON {
		return json.NewEncoder(stdout).Encode(importReport{report, vkey})
	}
	fmt.Fprintln(stdout, vkey)
	return nil
}
