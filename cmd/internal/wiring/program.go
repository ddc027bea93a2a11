package wiring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit statuses that all programs share, beside 0. verifier and tally have
// more of their own, which their help lists.
const (
	StatusFailed = 1 // what was asked for failed, or was refused
	StatusUsage  = 2 // the command line is wrong
	// StatusStoreFailed is that of a server that ended because a write to its
	// store has an unknown outcome. Restarting it finds out and is safe.
	StatusStoreFailed = 3
)

// UsageError is a mistake in a command line: a command, an argument or a flag
// that is not there, is missing, or has a value that it cannot have.
type UsageError struct {
	command string
	err     error
}

// Usage says that err is about the command line of cmd.
func Usage(cmd *cobra.Command, err error) error { return &UsageError{cmd.CommandPath(), err} }

func (e *UsageError) Error() string { return e.err.Error() }
func (e *UsageError) Unwrap() error { return e.err }

// Hint says where the command line is explained.
func (e *UsageError) Hint() string { return fmt.Sprintf("see %q", e.command+" --help") }

// Main runs a program's command line, and after an error says in one line on
// standard error what went wrong, in a second one what to do if that is known,
// and ends the process with one of the exit statuses. Hint may be nil; it is told
// which command failed, and returns the second line or "".
func Main(root *cobra.Command, hint func(*cobra.Command, error) string) {
	cmd, err := Execute(root)
	if err != nil {
		os.Exit(complain(os.Stderr, cmd, err, hint))
	}
}

// Execute runs a command line and returns the command it was. The context of the
// command ends with SIGINT or SIGTERM. Whatever is wrong before the command has
// begun is a *UsageError. The program gets a flag --version.
func Execute(root *cobra.Command) (*cobra.Command, error) {
	root.Version = Version()
	begun := false
	prepare(root, &begun)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !begun {
		err = Usage(cmd, err)
	}
	return cmd, err
}

// prepare makes every command say that it has begun, and every group of commands
// refuse what is no command of it: cobra would print the group's help and report
// success.
func prepare(cmd *cobra.Command, begun *bool) {
	if cmd.Run == nil && cmd.RunE == nil && cmd.HasParent() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return Usage(c, fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath()))
		}
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			*begun = true
			return run(c, args)
		}
	}
	for _, sub := range cmd.Commands() {
		prepare(sub, begun)
	}
}

// complain says what went wrong and returns the exit status.
func complain(w io.Writer, cmd *cobra.Command, err error, hint func(*cobra.Command, error) string) int {
	status, text := StatusFailed, ""
	var usage *UsageError
	if errors.As(err, &usage) {
		status, text = StatusUsage, usage.Hint()
	} else if hint != nil {
		text = hint(cmd, err)
	}
	program := cmd.Root().Name()
	fmt.Fprintf(w, "%s: error: %v\n", program, err)
	if text != "" {
		fmt.Fprintf(w, "%s: hint: %s\n", program, text)
	}
	return status
}

// Version is the version of the module that this program was built from.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
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
