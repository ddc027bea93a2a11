package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/member"
	"github.com/tallystick/tallystick/verifier/tiles"
	"github.com/tallystick/tallystick/verifier/wholelog"
)

// The exit codes. They never change their meaning; scripts rely on them.
const (
	exitFailed     = wiring.StatusFailed
	exitUsage      = wiring.StatusUsage
	exitMalformed  = 3
	exitPolicy     = 4
	exitProof      = 5
	exitMembership = 6
	exitRules      = 7
	exitDiffers    = 8
	exitNetwork    = 9
	exitExternal   = 10
	exitOther      = 11
	exitFork       = 12
	exitNoOutcome  = 13
	exitUnproven   = 14
	exitApart      = 15
	exitAbsent     = 16
	exitNoResult   = 17
)

var exitMeanings = []string{
	0:              "verified",
	exitFailed:     "a file cannot be read or written, or an internal error",
	exitUsage:      "wrong usage",
	exitMalformed:  "malformed input: bundle, proof, evidence, policy, genesis, state, tile",
	exitPolicy:     "a checkpoint is not signed and cosigned as the policy asks",
	exitProof:      "an inclusion or consistency proof fails, or entries do not make the root",
	exitMembership: "the membership does not follow from the pinned genesis",
	exitRules:      "the records do not make an execution by the rules, or nodes do not agree",
	exitDiffers:    "the replay has another outcome",
	exitNetwork:    "the log cannot be read, or too few show it to compare",
	exitExternal:   "the bundle leaves out the membership log, and it was not given",
	exitOther:      "the file is of another execution, principal, epoch, cluster or log",
	exitFork:       "the log went back or has forked",
	exitNoOutcome:  "the replay could not run to an outcome",
	exitUnproven:   "the evidence does not prove anything against the log",
	exitApart:      "views of the log could not be compared: nobody serves the tree of the larger one",
	exitAbsent:     "the principal is no member at that epoch (or with --absent: is one)",
	exitNoResult:   "proven: the execution ended without a result (diverged, cancelled or expired)",
}

// exitTable is the table of the package comment, for --help.
func exitTable() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for code, meaning := range exitMeanings {
		fmt.Fprintf(&b, "  %2d  %s\n", code, meaning)
	}
	return b.String()
}

// bundleExits has every code of package verifier.
var bundleExits = map[verifier.Code]int{
	verifier.CodeTrust:                exitMalformed,
	verifier.CodeFormat:               exitMalformed,
	verifier.CodeDamaged:              exitMalformed,
	verifier.CodeVersion:              exitMalformed,
	verifier.CodeOtherExecution:       exitOther,
	verifier.CodeAuditCheckpoint:      exitPolicy,
	verifier.CodeMembershipCheckpoint: exitPolicy,
	verifier.CodeRequestCheckpoint:    exitPolicy,
	verifier.CodeLogKeys:              exitPolicy,
	verifier.CodeExternalMembership:   exitExternal,
	verifier.CodeGenesis:              exitMembership,
	verifier.CodeMembership:           exitMembership,
	verifier.CodeConsistency:          exitProof,
	verifier.CodeInclusion:            exitProof,
	verifier.CodeRecord:               exitRules,
	verifier.CodeRules:                exitRules,
	verifier.CodeIncomplete:           exitRules,
	verifier.CodeProvenance:           exitRules,
	verifier.CodeAncestor:             exitRules,
	verifier.CodeNoResult:             exitNoResult,
}

// A sentinelExit is what an error that wraps a sentinel ends with.
type sentinelExit struct {
	err  error
	code int
	hint string
}

// logExits has every outcome of package tiles, the most telling first, since an
// error may match more than one.
var logExits = []sentinelExit{
	{tiles.ErrFork, exitFork, "keep the evidence and tell whoever relies on the log"},
	{tiles.ErrRollback, exitFork, "if a cache may be old, try again later; otherwise keep the state file as evidence"},
	{tiles.ErrState, exitMalformed, "the state file is not of this log; name another one with --state, or remove it to begin anew"},
	{tiles.ErrCheckpoint, exitPolicy, "check that the key or policy is this log's"},
	{tiles.ErrMalformed, exitMalformed, "what the URL serves is not a tlog-tiles log, or it is faulty"},
	{tiles.ErrTile, exitProof, "the log serves tiles that are not of its entries; tell its operator"},
	{tiles.ErrRoot, exitProof, "the log serves entries that are not of its checkpoint; do not rely on it"},
	{tiles.ErrFetch, exitNetwork, "check the URL; run the same command again to go on where it stopped"},
}

// wholeExits has every outcome of package wholelog.
var wholeExits = []sentinelExit{
	{wholelog.ErrGenesis, exitMembership, "check that the genesis file is this cluster's"},
	{wholelog.ErrChange, exitMembership, "keep the log as evidence"},
	{wholelog.ErrNoMembership, exitMembership, ""},
	{wholelog.ErrMembershipBehind, exitNoOutcome, "fetch a newer copy"},
	{wholelog.ErrOtherLog, exitOther, "save the openings of this log"},
	{wholelog.ErrOtherTree, exitProof, "save the openings again; if that does not help, run \"verifier log\" to see whether the log has forked"},
	{provenance.ErrOpening, exitProof, "save the openings again; if they are still wrong the server does not show what it committed to"},
	{wholelog.ErrSize, exitFailed, ""}, // no size is asked for that was not read
}

// A cliError is an error with its exit code and what to do about it.
type cliError struct {
	code int
	hint string // may be empty
	err  error
}

func (e *cliError) Error() string { return e.err.Error() }
func (e *cliError) Unwrap() error { return e.err }

func fail(code int, hint, format string, args ...any) error {
	return &cliError{code, hint, fmt.Errorf(format, args...)}
}

// complain prints an error and its hint and returns the exit code.
func complain(w io.Writer, err error) int {
	code, hint := classify(err)
	fmt.Fprintf(w, "verifier: error: %v\n", err)
	if hint != "" {
		fmt.Fprintf(w, "verifier: hint: %s\n", hint)
	}
	return code
}

func classify(err error) (code int, hint string) {
	var own *cliError
	var usage *wiring.UsageError
	var refused *verifier.Error
	var noMember *member.Error
	switch {
	case errors.As(err, &own):
		return own.code, own.hint
	case errors.As(err, &usage):
		return exitUsage, usage.Hint()
	case errors.As(err, &refused):
		return bundleExits[refused.Code], refused.Hint()
	case errors.As(err, &noMember):
		return memberExits[noMember.Code], noMember.Hint()
	}
	if e, ok := exitOf(err, wholeExits); ok {
		return e.code, e.hint
	}
	switch {
	case errors.Is(err, checkpoint.ErrPolicy), errors.Is(err, checkpoint.ErrKey):
		return exitMalformed, ""
	case errors.Is(err, context.Canceled):
		return exitFailed, "run the same command again"
	}
	if e, ok := exitOf(err, logExits); ok {
		return e.code, e.hint
	}
	return exitFailed, ""
}

// exitOf finds the first sentinel of a list that an error wraps.
func exitOf(err error, list []sentinelExit) (sentinelExit, bool) {
	i := slices.IndexFunc(list, func(e sentinelExit) bool { return errors.Is(err, e.err) })
	if i < 0 {
		return sentinelExit{}, false
	}
	return list[i], true
}
