package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	lawfulness "github.com/tallystick/tallystick/verifier/lawful"
	"github.com/tallystick/tallystick/verifier/tiles"
)

const (
	// lawfulTimeout bounds reading a membership log for one request, short of the
	// time that a log gives a witness. What was read by then is kept, so the next
	// request goes on from there.
	lawfulTimeout = 8 * time.Second
	// fetchTimeout bounds one request to the log.
	fetchTimeout = 5 * time.Second
	// maxChanges bounds the changes that are kept in memory, a few kilobytes each.
	// Every one of them was signed by the cluster's admins.
	maxChanges = 1_000_000
)

// LawfulConfig says which membership a cosigner looks at.
type LawfulConfig struct {
	// Genesis is the cluster's first change, which the operator had from people and
	// not from the log. It binds the directory for ever.
	Genesis []byte
	// Fetch reads from the membership log. Nothing in a request has an influence on
	// where it reads, but for the tree size in the names of tiles. See LogReader.
	Fetch tiles.Fetch
}

// LogReader returns a Fetch that reads from a log's monitoring prefix, an http or
// https URL, and from nowhere else: redirects are refused.
func LogReader(prefix string) (tiles.Fetch, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = maxHeaderBytes
	return tiles.HTTP(&http.Client{
		Transport:     transport,
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, prefix)
}

// lawful knows the changes of a cluster up to what was cosigned, and possibly
// beyond: a request that was refused or ended early has left what it read.
//
// What is beyond the head binds nobody. The changes are those of the pinned
// genesis, each signed by the admins of its time, so it does not matter where
// they came from; but a log may show others in their place until a checkpoint
// that covers them is cosigned.
type lawful struct {
	genesis []byte
	fetch   tiles.Fetch
	file    *changeFile
	metrics *metrics
	logger  *slog.Logger

	// turn is held, by one value in it, over using what follows. A mutex could not
	// be given up when a request ends.
	turn    chan struct{}
	history *membership.History
	// named has the epoch that named a key for the membership log first, by origin,
	// line break and vkey.
	named map[string]uint64
}

// openLawful returns nil for an ordinary witness. It makes sure that a directory
// is always the one or always the other: a cosigner's key stands for one set of
// statements (c2sp.org/tlog-cosignature, "Additional statements").
func openLawful(config Config, s *store, d disk, m *metrics) (*lawful, error) {
	pinned, err := readFile(d, filepath.Join(config.Dir, genesisFile), membership.MaxChangeEnvelope)
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("reading genesis: %w", err)
	}
	isPinned := err == nil
	switch {
	case config.Lawful == nil && isPinned:
		return nil, fmt.Errorf("%q is the directory of a cosigner of lawful membership: name its genesis and its log, or make another witness", config.Dir)
	case config.Lawful == nil:
		return nil, nil
	case isPinned && !bytes.Equal(pinned, config.Lawful.Genesis):
		return nil, fmt.Errorf("%q belongs to the cluster of another genesis, the one in its file %q", config.Dir, genesisFile)
	case !isPinned && s.used():
		return nil, fmt.Errorf("%q is the directory of an ordinary witness, which has cosigned without looking at changes: make another one", config.Dir)
	}
	l := &lawful{genesis: config.Lawful.Genesis, fetch: config.Lawful.Fetch, metrics: m, logger: config.Logger, turn: make(chan struct{}, 1)}
	if err := l.restart(nil); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	if !isPinned {
		if err := replaceFile(d, config.Dir, genesisFile, l.genesis); err != nil {
			return nil, fmt.Errorf("writing genesis: %w", err)
		}
	}
	if l.file, err = openChanges(d, config.Dir, l.append, l.logger); err != nil {
		return nil, err
	}
	for _, h := range s.heads() {
		if !l.covers(h.tree()) {
			l.logger.Warn("the changes on file are not those that were cosigned: they will be read from the log again", "origin", h.checkpoint.Origin)
			if err := l.restart(nil); err != nil {
				return nil, fmt.Errorf("genesis: %w", err)
			}
		}
	}
	l.metrics.known(l.history.Size())
	return l, nil
}

func (l *lawful) close() error { return l.file.close() }

// checkPolicy refuses a policy with logs that are not this cluster's.
func (l *lawful) checkPolicy(policy *checkpoint.Policy) error {
	for _, log := range policy.Logs() {
		if origin := policy.Logs()[0].Origin; log.Origin != origin {
			return fmt.Errorf("a cosigner of lawful membership cosigns for one log, and the policy names %q and %q", origin, log.Origin)
		}
	}
	return nil
}

// covers reports whether a tree that was cosigned can be that of the changes, as
// far as they are known.
func (l *lawful) covers(t tlog.Tree) bool {
	if t.N == 0 || uint64(t.N) > l.history.Size() {
		return true
	}
	root, err := l.history.Root(uint64(t.N))
	return err == nil && root == t.Hash
}

// check returns nil if every change that a checkpoint covers is lawful, and a key
// that they name has signed it. Known is what was cosigned last, which the
// checkpoint extends. Nobody's lock is held.
func (l *lawful) check(ctx context.Context, known tlog.Tree, r *request) error {
	if r.checkpoint.Size == 0 {
		return nil // of no change there is nothing to say
	}
	ctx, cancel := context.WithTimeout(ctx, lawfulTimeout)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for another request that reads them: %w", ErrUnreadable, ctx.Err())
	}
	defer func() { <-l.turn }()
	err := l.extend(ctx, known, r)
	l.file.save(l.history, l.logger)
	l.metrics.known(l.history.Size())
	if err != nil {
		return err
	}
	return l.checkKeys(r)
}

// extend reads the changes that are not known yet, and applies each.
func (l *lawful) extend(ctx context.Context, known tlog.Tree, r *request) error {
	c := r.checkpoint
	if l.history.Size() >= uint64(c.Size) && l.covers(c.Tree()) {
		return nil
	}
	src, err := tiles.OpenSourceAt(ctx, l.fetch, c)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if err := l.align(ctx, src, known, r); err != nil {
		return err
	}
	start := int64(l.history.Size())
	for bundle, err := range src.Bundles(ctx, start) {
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
		for _, entry := range bundle.Entries(start) {
			if err := l.take(ctx, src, entry, r); err != nil {
				return err
			}
		}
	}
	if l.history.Size() != uint64(c.Size) || !l.covers(c.Tree()) {
		return fmt.Errorf("%w: the log's %d entries do not make its tree", ErrUnreadable, l.history.Size())
	}
	return nil
}

// align gives up changes that the tree of a checkpoint does not have, until what
// is known is its beginning.
func (l *lawful) align(ctx context.Context, src *tiles.Source, known tlog.Tree, r *request) error {
	for {
		have := min(int64(l.history.Size()), r.checkpoint.Size)
		root, err := src.RootAt(ctx, have)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
		keep := int64(1)
		switch {
		case l.covers(tlog.Tree{N: have, Hash: root}):
			return nil
		case have == 1:
			return l.otherGenesis(ctx, src, r)
		case have > known.N:
			keep = max(keep, known.N)
		}
		if err := l.restart(l.envelopes(uint64(keep))); err != nil {
			return fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
	}
}

// otherGenesis is the finding that the log begins with something else than the
// pinned genesis.
func (l *lawful) otherGenesis(ctx context.Context, src *tiles.Source, r *request) error {
	for bundle, err := range src.Bundles(ctx, 0) {
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
		return l.unlawful(ctx, src, r, [][]byte{bundle.Entries(0)[0]},
			&membership.RefusalError{Code: membership.RefusedGenesis, Detail: "the log does not begin with the pinned genesis"})
	}
	return fmt.Errorf("%w: no entry in a log of size %d", ErrUnreadable, r.checkpoint.Size)
}

// take applies the next entry of the log.
func (l *lawful) take(ctx context.Context, src *tiles.Source, entry []byte, r *request) error {
	if l.history.Size() == maxChanges {
		return fmt.Errorf("%w: more than %d changes", ErrUnreadable, maxChanges)
	}
	err := l.append(entry)
	var refusal *membership.RefusalError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, membership.RefusedVersion), !errors.As(err, &refusal):
		// A later release of this program may well find it lawful.
		return fmt.Errorf("%w: entry %d: %w", ErrUnreadable, l.history.Size(), err)
	}
	return l.unlawful(ctx, src, r, append(l.envelopes(l.history.Size()), entry), refusal)
}

// append applies one change and notes the log keys that it names.
func (l *lawful) append(envelope []byte) error {
	if _, err := l.history.Append(envelope); err != nil {
		return err
	}
	log := l.history.Current().Logs().Membership
	for _, vkey := range log.Keys {
		if name := log.Origin + "\n" + vkey; l.named[name] == 0 {
			l.named[name] = l.history.Size()
		}
	}
	return nil
}

// restart makes the history of the genesis and some changes that are known to be
// lawful; nil means the genesis alone.
func (l *lawful) restart(envelopes [][]byte) error {
	l.history, l.named = membership.NewHistory(), map[string]uint64{}
	if envelopes == nil {
		envelopes = [][]byte{l.genesis}
	}
	for _, e := range envelopes {
		if err := l.append(e); err != nil {
			return err
		}
	}
	return nil
}

// envelopes returns the first n changes.
func (l *lawful) envelopes(n uint64) [][]byte {
	var out [][]byte
	for epoch := uint64(1); epoch <= n; epoch++ {
		if _, envelope, err := l.history.Change(epoch); err == nil {
			out = append(out, envelope)
		}
	}
	return out
}

// checkKeys holds a checkpoint to the keys that its own changes, or those before
// them, name for the log. The policy alone does not make a key the log's.
func (l *lawful) checkKeys(r *request) error {
	for _, sig := range r.signatures {
		for i, key := range r.log.keys {
			epoch := l.named[r.checkpoint.Origin+"\n"+r.log.vkeys[i]]
			if key.KeyHash() == sig.KeyID && epoch != 0 && epoch <= uint64(r.checkpoint.Size) {
				return nil
			}
		}
	}
	return fmt.Errorf("%w %q", ErrForeignKey, r.checkpoint.Origin)
}

// unlawfulError is ErrUnlawful with what shows it to others.
type unlawfulError struct {
	index    int64
	refusal  *membership.RefusalError
	evidence *lawfulness.Evidence // nil if the log could not be read any more
}

func (e *unlawfulError) Error() string {
	return fmt.Sprintf("%v: entry %d: %v: %s", ErrUnlawful, e.index, e.refusal.Code, e.refusal.Detail)
}

// Unwrap returns ErrUnlawful and the membership's refusal.
func (e *unlawfulError) Unwrap() []error { return []error{ErrUnlawful, e.refusal} }

// unlawful makes the finding that the last of a log's first entries is refused.
func (l *lawful) unlawful(ctx context.Context, src *tiles.Source, r *request, entries [][]byte, refusal *membership.RefusalError) error {
	e := &unlawfulError{index: int64(len(entries)) - 1, refusal: refusal}
	hashes, err := src.Consistency(ctx, int64(len(entries)))
	if err != nil {
		l.logger.Warn("evidence not kept: the log cannot be read any more", "origin", r.checkpoint.Origin, "error", err)
		return e
	}
	e.evidence = &lawfulness.Evidence{Genesis: l.genesis, Entries: entries, Checkpoint: r.signed, Hashes: hashes}
	return e
}
