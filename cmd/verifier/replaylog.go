package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// wholeLog is an audit log as the fold of all its entries.
type wholeLog struct {
	fold *provenance.Fold
	// read is the tree that was read: the checkpoint's, or as much of it as there
	// are openings. A log that runs grows while they are saved.
	read checkpoint.Checkpoint
	// voids are the records that have no effect. An honest control plane writes
	// none.
	voids []voidRecord
	// erased are the copies of payloads that a record says were erased, and its
	// index. Every tenant has a copy of its own.
	erased map[tenantCopy]int64
}

// tenantCopy is a tenant's copy of a payload.
type tenantCopy struct {
	tenant string
	digest digest.Digest
}

// erasureOf says which record is about the erasure of a tenant's copy, "" if none
// is.
func (l *wholeLog) erasureOf(tenant string, d digest.Digest) string {
	at, ok := l.erased[tenantCopy{tenant, d}]
	if !ok {
		return ""
	}
	return fmt.Sprintf("record %d says that tenant %q's copy of payload %s was erased", at, tenant, d)
}

// voidRecord is a record without effect.
type voidRecord struct {
	Index  int64           `json:"index"`
	Kind   record.Kind     `json:"kind"`
	Code   provenance.Code `json:"code"`
	Detail string          `json:"detail"`
}

// maxVoids bounds the void records that are listed.
const maxVoids = 1000

// openSource opens a log at a URL or in a folder.
func openSource(ctx context.Context, place string, policy *checkpoint.Policy) (*tiles.Source, error) {
	fetch, err := tiles.Locate(&http.Client{Timeout: requestTimeout}, place)
	if err != nil {
		return nil, fail(exitUsage, "name a URL or a folder of a tlog-tiles log", "%w", err)
	}
	return tiles.OpenSource(ctx, fetch, policy, 0)
}

// entries calls visit for the entries of a log in order, each proven to be there.
func entries(ctx context.Context, source *tiles.Source, visit func(index int64, entry []byte) error) error {
	for bundle, err := range source.Bundles(ctx, 0) {
		if err != nil {
			return err
		}
		data := bundle.Data
		for index := bundle.First; len(data) > 0; index++ {
			n := 2 + int(binary.BigEndian.Uint16(data)) // the framing was checked
			if err := visit(index, data[2:n]); err != nil {
				return err
			}
			data = data[n:]
		}
	}
	return nil
}

// readMembership replays the membership log from the pinned genesis.
func readMembership(ctx context.Context, place string, trust verifier.Trust) (*membership.History, error) {
	source, err := openSource(ctx, place, trust.MembershipPolicy)
	if err != nil {
		return nil, err
	}
	history := membership.NewHistory()
	err = entries(ctx, source, func(index int64, change []byte) error {
		if index == 0 && !bytes.Equal(change, trust.Genesis) {
			return fail(exitMembership, "check that the genesis file is this cluster's", "the membership log does not begin with the pinned genesis")
		}
		if _, err := history.Append(bytes.Clone(change)); err != nil {
			return fail(exitMembership, "keep the log as evidence", "change %d: %w", index, err)
		}
		return nil
	})
	if err == nil && history.Size() == 0 {
		err = fail(exitMembership, "", "the membership log is empty")
	}
	if err != nil {
		return nil, err
	}
	return history, verifier.CheckLogKey(history, membership.LogMembership, trust.MembershipPolicy, source.Note())
}

// readLog folds a whole audit log. Every opening is held against its entry, and
// every entry against the checkpoint. It reads as far as there are openings, which
// is at least as far as the log went when they were saved.
func readLog(ctx context.Context, source *tiles.Source, openings string, history *membership.History, show func(done, size int64)) (*wholeLog, error) {
	file, err := os.Open(openings)
	if err != nil {
		return nil, fail(exitFailed, "", "reading the openings: %w", err)
	}
	defer file.Close()
	reader, err := provenance.NewOpeningReader(file)
	if err != nil {
		return nil, fail(exitMalformed, "save the openings with \"tally log openings\"", "%q: %w", openings, err)
	}
	c := source.Checkpoint()
	if reader.Origin() != c.Origin {
		return nil, fail(exitOther, "save the openings of this log", "%q has the openings of %q, this is %q", openings, reader.Origin(), c.Origin)
	}
	if then := reader.Tree(); then.N <= c.Size {
		root, err := source.RootAt(ctx, then.N)
		if err != nil {
			return nil, err
		}
		if root != then.Hash {
			return nil, fail(exitProof, "save the openings again; if that does not help, run \"verifier log\" to see whether the log has forked",
				"%q says that the log had root hash %s at size %d, and it has %s there", openings, then.Hash, then.N, root)
		}
	}
	log := &wholeLog{fold: provenance.NewFold(history.Current().Cluster(), history), erased: map[tenantCopy]int64{}}
	err = entries(ctx, source, func(index int64, entry []byte) error {
		opening, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return errOpeningsEnd
		}
		if err != nil {
			return fail(exitMalformed, "save the openings again", "%q: %w", openings, err)
		}
		effect, r, err := log.fold.Read(index, entry, opening)
		if err != nil {
			return fail(exitProof, "save the openings again; if they are still wrong the server does not show what it committed to", "%q: %w", openings, err)
		}
		// Its executions and all of later epochs would be void, and so be missing
		// from the fold without a word.
		if effect.Code == provenance.CodeEpochUnknown {
			return fail(exitNoOutcome, "fetch a newer copy", "the membership log is behind the audit log: record %d: %s", index, effect.Detail)
		}
		if effect.Void && len(log.voids) < maxVoids {
			log.voids = append(log.voids, voidRecord{index, record.KindOf(r), effect.Code, effect.Detail})
		}
		if e := r.GetErasure(); e != nil && !effect.Void && len(e.GetDigest()) == digest.Size {
			log.erased[tenantCopy{e.GetTenant(), digest.Digest(e.GetDigest())}] = index
		}
		show(index+1, c.Size)
		return nil
	})
	if err != nil && !errors.Is(err, errOpeningsEnd) {
		return nil, err
	}
	if log.fold.Size() == 0 {
		return nil, fail(exitNoOutcome, "name the log that the openings are of", "the log is empty: there is nothing to replay")
	}
	log.read = checkpoint.Checkpoint{Origin: c.Origin, Size: log.fold.Size()}
	if log.read.Root, err = source.RootAt(ctx, log.read.Size); err != nil {
		return nil, err
	}
	return log, nil
}

// errOpeningsEnd says that there are more entries than openings.
var errOpeningsEnd = errors.New("no more openings")
