package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
	"github.com/tallystick/tallystick/verifier/wholelog"
)

// openSource opens a log at a URL or in a folder.
func openSource(ctx context.Context, place string, policy *checkpoint.Policy) (*tiles.Source, error) {
	fetch, err := tiles.Locate(&http.Client{Timeout: requestTimeout}, place)
	if err != nil {
		return nil, fail(exitUsage, "name a URL or a folder of a tlog-tiles log", "%w", err)
	}
	return tiles.OpenSource(ctx, fetch, policy, 0)
}

// readMembership replays the membership log from the pinned genesis.
func readMembership(ctx context.Context, place string, trust verifier.Trust) (*membership.History, error) {
	source, err := openSource(ctx, place, trust.MembershipPolicy)
	if err != nil {
		return nil, err
	}
	history, err := wholelog.Membership(wholelog.Entries(ctx, source), trust.Genesis)
	if err != nil {
		return nil, err
	}
	return history, verifier.CheckLogKey(history, membership.LogMembership, trust.MembershipPolicy, source.Note())
}

// readLog folds a whole audit log. Every opening is held against its entry, and
// every entry against the checkpoint. It reads as far as there are openings, which
// is at least as far as the log went when they were saved.
func readLog(ctx context.Context, source *tiles.Source, openings string, history *membership.History, show func(done, size int64)) (*wholelog.Log, error) {
	file, err := os.Open(openings)
	if err != nil {
		return nil, fail(exitFailed, "", "reading the openings: %w", err)
	}
	defer file.Close()
	reader, err := provenance.NewOpeningReader(file)
	if err != nil {
		return nil, fail(exitMalformed, "save the openings with \"tally log openings\"", "%q: %w", openings, err)
	}
	if err := wholelog.CheckOpenings(ctx, source, reader); err != nil {
		return nil, fmt.Errorf("%q: %w", openings, err)
	}
	next := func() ([]byte, error) {
		opening, err := reader.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			err = fail(exitMalformed, "save the openings again", "%q: %w", openings, err)
		}
		return opening, err
	}
	size := source.Checkpoint().Size
	log, err := wholelog.Read(wholelog.Opened(ctx, source, next), history, func(index int64) { show(index+1, size) })
	if errors.Is(err, provenance.ErrOpening) {
		return nil, fmt.Errorf("%q: %w", openings, err)
	}
	if err == nil && log.Tree.N == 0 {
		err = fail(exitNoOutcome, "name the log that the openings are of", "the log is empty: there is nothing to replay")
	}
	return log, err
}

// erasureOf says which record is about the erasure of a payload that an execution
// takes, "" if none is.
func erasureOf(log *wholelog.Log, ex provenance.Execution, d digest.Digest) string {
	at, ok := log.Fold.Erased(ex.Tenant, d)
	if !ok {
		return ""
	}
	return fmt.Sprintf("record %d says that tenant %q's copy of payload %s was erased", at, ex.Tenant, d)
}
