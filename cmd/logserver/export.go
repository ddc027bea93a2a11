package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/logserver/export"
)

// exportConfig is what the flags of export say.
type exportConfig struct {
	source sourceFlags
	to     string
	asJSON bool
}

func exportCommand() *cobra.Command {
	var config exportConfig
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a static copy of a log's read path",
		Long: `Write a static c2sp.org/tlog-tiles tree of a log's published checkpoint, for any
file server or CDN to serve: entry bundles and tiles byte for byte as the log
serves them, and the checkpoint last, once everything that it implies is durable.

The target is a directory (a path or a file:// URL), or a bucket by a URL that a
linked gocloud.dev driver knows, such as s3://name?prefix=log/. The command can be
repeated: it verifies what the target holds and writes only what is missing. A
target with anything else than a copy of this log is refused. To keep a copy up
to date use serve --export.`,
		Example: `  logserver export --from http://127.0.0.1:8400 --vkey "$(cat d/vkey)" --to /srv/www/log`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runExport(cmd.Context(), config, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	config.source.register(cmd)
	cmd.Flags().StringVar(&config.to, "to", "", "the `target`: a directory or the URL of a bucket")
	cmd.Flags().BoolVar(&config.asJSON, "json", false, "print the report as JSON")
	for _, name := range []string{"from", "vkey", "to"} {
		cmd.MarkFlagRequired(name)
	}
	return cmd
}

func runExport(ctx context.Context, config exportConfig, stdout, stderr io.Writer) (err error) {
	fetch, policy, err := config.source.open()
	if err != nil {
		return err
	}
	bar := newProgress(stderr, "exporting")
	exporter, err := export.Open(ctx, export.Options{Fetch: fetch, Policy: policy, Target: config.to,
		Workers: config.source.workers, Progress: bar.set})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exporter.Close()) }()
	report, err := exporter.Run(ctx)
	bar.end()
	if err != nil {
		return err
	}
	if config.asJSON {
		return json.NewEncoder(stdout).Encode(report)
	}
	fmt.Fprintf(stdout, "%s: copy of size %d, was %d; %d objects written\n", report.Origin, report.Size, report.From, report.Objects)
	return nil
}
