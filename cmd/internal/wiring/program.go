package wiring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/keyfile"
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
// begun is a *UsageError; a command whose output could not be written has failed.
// The program gets a flag --version.
func Execute(root *cobra.Command) (*cobra.Command, error) {
	root.Version = Version()
	out := &output{w: root.OutOrStdout()}
	root.SetOut(out)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	begun := false
	prepare(root, &begun)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case out.err != nil && (err == nil || errors.Is(err, out.err)):
		err = fmt.Errorf("standard output: %w", out.err)
	case err != nil && !begun:
		if own := (*UsageError)(nil); !errors.As(err, &own) {
			err = Usage(cmd, err)
		}
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = interrupt(err)
	}
	return cmd, err
}

// interrupted is what a command fails with that a signal has ended: what else went
// wrong meanwhile says so too, and decides about hint and exit status.
type interrupted struct {
	cause error // context.Canceled if there is nothing else
}

func interrupt(err error) error {
	if onlyCanceled(err) {
		err = context.Canceled
	}
	return interrupted{err}
}

func (e interrupted) Error() string {
	if e.cause == context.Canceled {
		return "interrupted"
	}
	return "interrupted: " + e.cause.Error()
}

func (e interrupted) Unwrap() error { return e.cause }

// joined is the type of an error in which several failed.
var joined = reflect.TypeOf(errors.Join(context.Canceled))

// onlyCanceled reports whether an error comes from a canceled context and from
// nothing else. Of errors that were joined each has to; what wraps several at once
// is one error, of which one part says what kind it is and another where it came
// from.
func onlyCanceled(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		if reflect.TypeOf(err) != joined {
			return slices.ContainsFunc(e.Unwrap(), onlyCanceled)
		}
		return !slices.ContainsFunc(e.Unwrap(), func(part error) bool { return !onlyCanceled(part) })
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return onlyCanceled(inner)
		}
	}
	return errors.Is(err, context.Canceled)
}

// output remembers why it could not be written to, since what prints a table or a
// help text does not look. It is used by one goroutine at a time, as any output.
type output struct {
	w   io.Writer
	err error // the first one
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// helpCommand is cobra's own but for a topic that does not exist, which is a
// mistake in the command line.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Explain a command",
		Long:  "Explain a command, as --help after it does.",
		Args:  cobra.ArbitraryArgs,
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
			if topic, rest, err := c.Root().Find(args); err == nil && len(rest) == 0 {
				for _, sub := range topic.Commands() {
					if sub.IsAvailableCommand() {
						names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			topic, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return Usage(c.Root(), fmt.Errorf("no help for %q: no such command", strings.Join(args, " ")))
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

// prepare makes every command say that it has begun and which arguments it takes,
// and every group of commands refuse what is no command of it: cobra would print
// the group's help and report success.
func prepare(cmd *cobra.Command, begun *bool) {
	if check := cmd.Args; check != nil && cmd.HasParent() {
		cmd.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			var own *UsageError // of the program, which says more than that the number is wrong
			if err == nil || errors.As(err, &own) {
				return err
			}
			return argumentsError(c, args)
		}
	}
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

// argumentsError says which arguments a command takes, as its usage line names
// them, and which it was given.
func argumentsError(cmd *cobra.Command, args []string) error {
	_, want, _ := strings.Cut(cmd.Use, " ")
	switch {
	case want == "", strings.HasPrefix(want, "-"): // flags only
		return fmt.Errorf("unexpected argument %q: %q takes none", args[0], cmd.CommandPath())
	case len(args) == 0:
		return fmt.Errorf("missing argument: want %s %s", cmd.CommandPath(), want)
	}
	return fmt.Errorf("the arguments %q: want %s %s", args, cmd.CommandPath(), want)
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
	if text == "" && errors.Is(err, keyfile.ErrPassphrase) && cmd.Flags().Lookup("passphrase-file") != nil {
		text = "--passphrase-file names the file that holds the passphrase, which is the same for all private keys of a directory"
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
