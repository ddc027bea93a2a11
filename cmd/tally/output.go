package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/printable"
	"github.com/tallystick/tallystick/keyfile"
)

// Exit codes, also in the help of the root command.
const (
	exitError  = wiring.StatusFailed
	exitUsage  = wiring.StatusUsage
	exitFailed = 3 // the execution ended, but not complete
	exitFalse  = 4 // an audit found an answer or the log to be false
	exitBlind  = 5 // an audit saw too little to say
)

// hintError carries advice for the user beside the error itself.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

func withHint(err error, hint string) error { return &hintError{err, hint} }

// codeError ends the program with a code of its own.
type codeError struct {
	err  error
	code int
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// report prints err for a person and returns the exit code.
func report(w io.Writer, err error) int {
	var ce *connect.Error
	text := err.Error()
	hint, code := "", exitError
	if errors.As(err, &ce) {
		text = printable.Text(ce.Message())
	}
	fmt.Fprintf(w, "tally: error: %s\n", text)
	var h *hintError
	if errors.As(err, &h) {
		hint = h.hint
	} else if errors.Is(err, keyfile.ErrPassphrase) {
		hint = "TALLY_PASSPHRASE_FILE names the file that holds the passphrase"
	}
	var usage *wiring.UsageError
	if errors.As(err, &usage) {
		hint, code = usage.Hint(), exitUsage
	}
	if hint != "" {
		fmt.Fprintf(w, "tally: hint: %s\n", hint)
	}
	var c *codeError
	if errors.As(err, &c) {
		code = c.code
	}
	return code
}

// printer writes results, for people or as JSON.
type printer struct {
	out  io.Writer
	json bool
}

// message prints m as JSON when asked for, else calls human.
func (p *printer) message(m proto.Message, human func(w io.Writer)) error {
	if !p.json {
		human(p.out)
		return nil
	}
	data, err := protojson.MarshalOptions{Multiline: true, EmitUnpopulated: true, UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", data)
	return err
}

// value prints v as JSON when asked for, else calls human.
func (p *printer) value(v any, human func(w io.Writer)) error {
	if !p.json {
		human(p.out)
		return nil
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", data)
	return err
}

// table prints rows under a header, aligned.
func table(w io.Writer, header string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, strings.ReplaceAll(header, "|", "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush()
}

// progress tells a person how a long operation goes: one line that changes on
// a terminal, a line for each new state elsewhere. It writes to standard error.
type progress struct {
	w    io.Writer
	tty  bool
	last string
}

func newProgress() *progress {
	return &progress{w: os.Stderr, tty: term.IsTerminal(int(os.Stderr.Fd()))}
}

func (p *progress) show(state string) {
	if state == p.last {
		return
	}
	p.last = state
	if p.tty {
		fmt.Fprintf(p.w, "\r\x1b[K%s", state)
	} else {
		fmt.Fprintln(p.w, state)
	}
}

// done leaves the last line standing.
func (p *progress) done() {
	if p.tty && p.last != "" {
		fmt.Fprintln(p.w)
	}
	p.last = ""
}

// count is a number of things, in words.
func count(n int, noun string) string { return wiring.Count(n, noun) }

// short is the first part of an id, for tables.
func short(id string) string {
	if len(id) > 16 {
		return id[:16]
	}
	return id
}
