// Package logcmd is the command line of the log server: everything that the
// programs logserver and logserver-cloud are, but for what they link.
//
// A command of the operator works on a log that runs or on one that is stopped:
// it asks the server over the control socket beside the store (package control),
// or opens the store itself. Only commands that sign need a private key.
package logcmd

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/logserver/export"
)

// Root builds the command line of a program of the given name.
func Root(program string) *cobra.Command {
	root := &cobra.Command{
		Use:   program,
		Short: "Run a transparency log (c2sp.org/tlog-tiles)",
		Long: `Run a transparency log (c2sp.org/tlog-tiles): make it, serve it, look after it.

Exit codes: 0 done; 1 failed, or what was checked is not well; 2 wrong usage; 3 a
write to the store has an unknown outcome: start the program again, which finds out.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(initCommand(), serveCommand())
	root.AddCommand(exportCommand(), importCommand(), benchCommand())
	root.AddCommand(statusCommand(), fsckCommand(), backupCommand(), restoreCommand(), succeedCommand(), rotateCommand())
	return root
}

func initCommand() *cobra.Command {
	var dir directory
	var origin string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create a log and print its verifier key",
		Long: `Create a directory with a log's keys and its store, and sign the checkpoint of
the empty tree. Standard output receives the verifier key, which clients and
witnesses need, and nothing else. An interrupted init can be run again.

The log key may be in a key management service: --key takes its URI, of the form
scheme://key, and an executable sigstore-kms-scheme in PATH (sigstore's plugin
protocol) reaches it. The key must be an Ed25519 key that signs messages and not
hashes of them. The URI is remembered in the directory, and serve asks for no
signature before it needs one. The receipt key is a file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			vkey, err := dir.create(origin)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), vkey)
			return nil
		},
	}
	dir.register(cmd)
	dir.registerNew(cmd)
	cmd.Flags().StringVar(&origin, "origin", "", "the log's unique `name`, a URL without schema such as example.com/log")
	cmd.MarkFlagRequired("origin")
	return cmd
}

// serveConfig is what the flags of serve say.
type serveConfig struct {
	dir            directory
	listen         string
	policy         string
	failOpen       bool
	diskReserve    size
	bodyMemory     size
	replyMemory    size
	tileCache      size
	dedupFilter    size
	minInterval    time.Duration
	addrFile       string
	export         string
	exportInterval time.Duration
	verbose        bool
}

func serveCommand() *cobra.Command {
	var config serveConfig
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Accept, sign, publish and serve entries",
		Long: `Serve a log at the root of an address: POST /add, /add-batch and
/add-stream, the read paths of c2sp.org/tlog-tiles, proofs, /healthz and
/metrics. Whoever reaches the address can add entries.

With a policy file (c2sp.org/tlog-policy) each witness line needs the witness's
submission prefix as its URL, and a checkpoint is published when the witnesses
satisfy the quorum. Before it signs anything the log asks them whether they know
a head that its store does not. A hangup signal (SIGHUP) has the policy file read
again, for the log lines that a rotation of the log key takes. If it is not valid
or asks for other cosignatures, which takes a restart, the process says so and
goes on with what it had.

The log, one JSON object a line, goes to standard error, after a line
"listening addr=HOST:PORT" once requests are answered. On SIGTERM, what was
accepted is published if the witnesses allow, and the store is closed.

A full disk does not end the process, and on one that has not even room to open
the store the log is served to be read until there is. A write to the store whose outcome is not
known does, with exit code 3: restart it then, opening the log again finds out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := wiring.CheckAddress(config.listen); err != nil {
				return wiring.Usage(cmd, err)
			}
			return serve(cmd.Context(), config, cmd.ErrOrStderr())
		},
	}
	config.dir.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&config.listen, "listen", "", "`address` to listen on, HOST:PORT; port 0 takes a free one")
	flags.StringVar(&config.policy, "policy", "", "c2sp.org/tlog-policy `file` with the log's key, witnesses and quorum (default: no witnesses)")
	flags.BoolVar(&config.failOpen, "fail-open", false, "publish checkpoints also when the witnesses do not satisfy the policy")
	config.registerSizes(flags)
	flags.DurationVar(&config.minInterval, "min-interval", logserver.DefaultMinInterval, "shortest `time` between two checkpoints; use 1s or more with public witnesses")
	flags.StringVar(&config.addrFile, "addr-file", "", "`file` to write the listening address to, once listening")
	flags.StringVar(&config.export, "export", "", "keep a static copy of the read path up to date in this `target`: a directory or the URL of a bucket")
	flags.DurationVar(&config.exportInterval, "export-interval", export.DefaultInterval, "shortest `time` between two updates of the copy")
	flags.BoolVar(&config.verbose, "verbose", false, "log more, also what single witnesses and requests did")
	cmd.MarkFlagRequired("listen")
	return cmd
}

// registerSizes adds the flags that say how much disk and memory the log may
// take. The defaults are those of logserver.Options.
func (c *serveConfig) registerSizes(flags *pflag.FlagSet) {
	c.diskReserve = size{min: 1, max: math.MaxInt64, none: true}
	flags.Var(&c.diskReserve, "disk-reserve", "`size` to leave free on the disk, such as 2GiB: below it appends are refused until there is room (default: a tenth of the file system, at most 1GiB; none watches nothing)")
	c.bodyMemory = size{bytes: logserver.DefaultBodyBytes, min: minBodyMemory, max: maxMemory}
	flags.Var(&c.bodyMemory, "body-memory", "`size` of the memory for the bodies of appends under way: beyond it they are answered 503")
	c.replyMemory = size{bytes: logserver.DefaultReplyBytes, min: minReplyMemory, max: maxMemory}
	flags.Var(&c.replyMemory, "reply-memory", "`size` of the memory for entry bundles and tiles that clients are slow to take: beyond it they are answered 503")
	c.tileCache = size{bytes: logserver.DefaultTileCacheBytes, min: 1 << 10, max: maxMemory, none: true}
	flags.Var(&c.tileCache, "tile-cache", "`size` of the memory for tiles and bundles that were asked for last; none keeps nothing")
	c.dedupFilter = size{bytes: logserver.DefaultDedupFilterBytes, min: minFilter, max: maxMemory}
	flags.Var(&c.dedupFilter, "dedup-filter", "most `size` of the memory that spares look-ups of fresh deduplication keys, 12 bits each: with more keys than that appends get slower")
}

// closeTimeout bounds the last round after a request to stop.
const closeTimeout = 15 * time.Second

// options are those of the log that the flags and the directory name.
func (config *serveConfig) options(logger *slog.Logger, stderr io.Writer) (logserver.Options, error) {
	options, err := config.dir.open()
	if err != nil {
		return options, err
	}
	options.DiskReserve, options.ReadWhenFull = config.diskReserve.bytes, true
	options.Fatal = wiring.EndProcess("logserver", stderr)
	options.BodyBytes, options.ReplyBytes = int(config.bodyMemory.bytes), int(config.replyMemory.bytes)
	options.TileCacheBytes, options.DedupFilterBytes = int(config.tileCache.bytes), int(config.dedupFilter.bytes)
	options.FailOpen, options.MinInterval, options.Logger = config.failOpen, config.minInterval, logger
	if config.policy != "" {
		if options.Policy, err = wiring.ReadPolicy(config.policy); err != nil {
			return options, err
		}
	}
	return options, nil
}
