// Command bench measures the log against its peers and prints the table that
// docs/benchmarks.md explains; scripts/bench-log builds what it needs and runs
// it. docs/design/027-how-we-measure.md says why it measures so.
//
// Every series runs in processes of its own: this binary, started again with a
// role and a job as arguments, the logserver binary, or Tessera's conformance
// server. Series alternate between us and the peers, each in a fresh directory,
// and nothing is deleted before the end. It works on Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) == 3 && os.Args[1] == roleArgument {
		err = runRole(ctx, os.Args[2])
	} else {
		err = run(ctx, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures what the command line asks for.
func run(ctx context.Context, args []string) (err error) {
	b := bench{ctx: ctx, results: make(map[string]*outcome)}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.logserver, "logserver", "", "the logserver `binary`")
	flags.StringVar(&b.tessera, "tessera", "", "Tessera's conformance server, the `binary` built from cmd/conformance/posix")
	flags.StringVar(&b.base, "dir", "", "`directory` on the disk to measure; a new one in it is used and removed at the end")
	flags.BoolVar(&b.quick, "quick", false, "short series, one of each, and small logs: shows that it works, its figures mean little")
	openings := flags.Bool("openings", false, "entries of 32 bytes with an opening of 300 bytes and a deduplication key, as the control plane has them")
	pattern := flags.String("rows", "", "measure only the rows whose names match this regular `expression`")
	jsonFile := flags.String("json", "", "write the rows to this `file` too")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if b.only, err = regexp.Compile(*pattern); err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	b.shape = plain
	if *openings {
		b.shape = withOpening
	}
	if err := b.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cleanUp()) }()
	b.machine()
	b.measure()
	b.table(os.Stdout)
	if *jsonFile != "" {
		if err := b.writeJSON(*jsonFile); err != nil {
			return err
		}
	}
	return b.failed()
}
