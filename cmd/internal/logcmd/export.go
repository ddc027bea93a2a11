package logcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/logserver/export"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// exportConfig is what the flags of export say.
type exportConfig struct {
	dir    string
	store  string
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
repeated: it reads back and verifies all that the target holds, and writes only
what is missing or damaged. A target with anything else than a copy of this log
is refused.

A log that is not running is read from its directory (--dir), or from its bare
store without any key (--store), and nothing in it is changed. One that is
running, here or elsewhere, is read through its URL (--from and --vkey). To keep
a copy up to date use serve --export.`,
		Example: `  logserver export --dir d --to /srv/www/log
  logserver export --from http://127.0.0.1:8400 --vkey "$(cat d/vkey)" --to /srv/www/log`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runExport(cmd.Context(), config, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	config.source.register(cmd)
	cmd.Flags().StringVar(&config.dir, "dir", "", "the `directory` of a log that is not running")
	cmd.Flags().StringVar(&config.store, "store", "", "the bare store `directory` of a log that is not running")
	cmd.Flags().StringVar(&config.to, "to", "", "the `target`: a directory or the URL of a bucket")
	cmd.Flags().BoolVar(&config.asJSON, "json", false, "print the report as JSON")
	cmd.MarkFlagRequired("to")
	cmd.MarkFlagsOneRequired("dir", "store", "from")
	cmd.MarkFlagsMutuallyExclusive("dir", "store", "from")
	cmd.MarkFlagsRequiredTogether("from", "vkey")
	return cmd
}

func runExport(ctx context.Context, config exportConfig, stdout, stderr io.Writer) (err error) {
	fetch, policy, closeSource, err := config.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	bar := newProgress(stderr, "exporting", "entries")
	exporter, err := export.Open(ctx, export.Options{Fetch: fetch, Policy: func() (*checkpoint.Policy, error) { return policy, nil }, Target: config.to,
		Workers: config.source.workers, ReadBack: true, Progress: bar.set})
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
	mended := ""
	if report.Mended > 0 {
		mended = fmt.Sprintf(", %d of them in the place of what was missing or damaged", report.Mended)
	}
	fmt.Fprintf(stdout, "%s: copy of size %d, was %d; %s written%s\n", report.Origin, report.Size, report.From, wiring.Count(report.Objects, "object"), mended)
	return nil
}

// open returns how to read the log and which of its checkpoints to accept.
func (c *exportConfig) open() (tiles.Fetch, *checkpoint.Policy, func() error, error) {
	if c.source.from != "" {
		fetch, policy, err := c.source.open()
		return fetch, policy, func() error { return nil }, err
	}
	if c.store == "" {
		c.store = filepath.Join(c.dir, storeDir)
	}
	store, err := logserver.OpenStore(logserver.StoreOptions{Dir: c.store, ReadOnly: true})
	if errors.Is(err, logserver.ErrLocked) {
		err = fmt.Errorf("%w; while the log is running, export it with --from URL --vkey KEY", err)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	fetch, err := store.Resources()
	if err != nil {
		return nil, nil, nil, errors.Join(err, store.Close())
	}
	policy, err := keyPolicy(logKeys(store.Keys())...)
	if err == nil && c.source.policy != "" {
		policy, err = wiring.ReadPolicy(c.source.policy)
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, store.Close())
	}
	return fetch, policy, store.Close, nil
}

// logKeys returns the verifier keys that may have signed a log's checkpoints.
func logKeys(keys []logserver.KeyInfo) (vkeys []string) {
	for _, key := range keys {
		if key.Role == logserver.RoleLog {
			vkeys = append(vkeys, key.Vkey)
		}
	}
	return vkeys
}

// keepCopy keeps a static copy of a log up to date in the background, until the
// function that it returns is called. Failing to open the target is an error;
// later failures are the log's health's.
func keepCopy(log *logserver.Log, config serveConfig, logger *slog.Logger) (stop func() error, err error) {
	policy := func() (*checkpoint.Policy, error) { return keyPolicy(logKeys(log.Keys())...) }
	ctx, cancel := context.WithCancel(context.Background())
	exporter, err := export.Open(ctx, export.Options{Fetch: log.Resource, Policy: policy, Target: config.export})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("--export: %w", err)
	}
	keeper := export.NewKeeper(exporter, log, config.exportInterval, logger)
	log.ReportCopy(keeper)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		keeper.Run(ctx)
	}()
	return func() error {
		cancel()
		<-ended
		copyLast(log, exporter, logger)
		return exporter.Close()
	}, nil
}

// lastCopyTimeout bounds how long stopping waits for the last entries to be
// published and copied. The next start does what it leaves.
const lastCopyTimeout = 5 * time.Second

// copyLast brings the copy to the last entry that the log accepted: nobody
// would, while the log is stopped.
func copyLast(log *logserver.Log, exporter *export.Exporter, logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), lastCopyTimeout)
	defer cancel()
	err := log.Wait(ctx, log.Size())
	if err == nil {
		_, err = exporter.Run(ctx)
	}
	if err != nil {
		logger.Warn("copy does not have the last entries; the next start goes on", "err", err)
	}
}
