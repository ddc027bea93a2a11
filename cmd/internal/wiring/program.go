package wiring

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs a program's command line, and after an error says in one line on
// standard error what went wrong and ends the process with status 1. The context
// of the commands ends with SIGINT or SIGTERM. Hint may be nil; it is told which
// command failed, and a text that it returns is shown as a second line.
func Main(root *cobra.Command, hint func(*cobra.Command, error) string) {
	refuseUnknown(root)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cmd, err := root.ExecuteContextC(ctx)
	stop()
	if err != nil {
		os.Exit(complain(os.Stderr, cmd, err, hint))
	}
}

// refuseUnknown makes every group of commands refuse what is no command of it:
// cobra would print the group's help and report success.
func refuseUnknown(cmd *cobra.Command) {
	if cmd.Run == nil && cmd.RunE == nil && cmd.HasParent() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return fmt.Errorf("unknown command %q for %q (see %q)", args[0], c.CommandPath(), c.CommandPath()+" --help")
		}
	}
	for _, sub := range cmd.Commands() {
		refuseUnknown(sub)
	}
}

// complain says what went wrong and returns the exit status.
func complain(w io.Writer, cmd *cobra.Command, err error, hint func(*cobra.Command, error) string) int {
	program := cmd.Root().Name()
	fmt.Fprintf(w, "%s: error: %v\n", program, err)
	if hint != nil {
		if text := hint(cmd, err); text != "" {
			fmt.Fprintf(w, "%s: hint: %s\n", program, text)
		}
	}
	return 1
}

// Logger writes one JSON object a line, as every server of this project logs.
// Verbose lets through what is of interest only when one looks for a fault.
func Logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
