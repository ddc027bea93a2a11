package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// view is what the node knows of the cluster's logs: the largest checkpoint of
// each that it has accepted, the membership folded up to it, and where the audit
// log has each epoch. All of it is verified, and durable before it is used.
//
// One goroutine at a time holds turn and may call the methods; it keeps it while
// it fetches, since what it fetches is judged against the state that it found.
// history is safe to read without.
type view struct {
	store   *store
	source  LogSource
	trust   verifier.Trust
	maxAge  time.Duration // of the membership log's cosignatures
	logger  *slog.Logger
	health  *health
	history *membership.History

	turn   chan struct{}
	logs   map[membership.LogName]*logView
	epochs map[uint64]int64 // least proven index of each epoch's record
	keyed  uint64           // epochs whose log keys are in logs
}

// logView is what is known of one log.
type logView struct {
	name   membership.LogName
	policy *checkpoint.Policy
	// head is the largest checkpoint accepted, note its bytes; nil before any.
	head  *checkpoint.Checkpoint
	note  []byte
	cache *tileCache
	// accepted are notes that were accepted as head was, by digest. None of what
	// was checked can become untrue: policies do not change, keys stay, and every
	// later head continues the one that the note was consistent with.
	accepted map[digest.Digest]accepted
	// keys are those that any epoch so far named for an origin.
	keys map[string][]note.Verifier
	// withheld says that the log did not have tiles of head's tree when it was last
	// asked.
	withheld bool
	// shown is the path of what is kept of that, empty if there is too much already.
	shown string
}

// accepted is a checkpoint that satisfied policy and membership.
type accepted struct {
	checkpoint checkpoint.Checkpoint
	// judged and stale bound when the cosignatures that made up the quorum were
	// fresh: both inclusive; of the membership log only.
	judged, stale time.Time
}

// maxAccepted bounds the notes remembered of a log: a backlog of as many rounds
// needs each verified once.
const maxAccepted = 512

// remember notes that signed was accepted.
func (l *logView) remember(signed []byte, a accepted) {
	if len(l.accepted) >= maxAccepted {
		clear(l.accepted)
	}
	l.accepted[digest.Of(signed)] = a
}

// openView restores the view that the store holds.
func openView(s *store, config *Config, h *health) (*view, error) {
	trust := config.Trust
	v := &view{
		store:   s,
		source:  callBound{config.Logs, config.Timing.Call},
		trust:   trust,
		maxAge:  config.MaxAge,
		logger:  config.Logger,
		health:  h,
		history: membership.NewHistory(),
		turn:    make(chan struct{}, 1),
		logs:    make(map[membership.LogName]*logView),
	}
	for name, policy := range map[membership.LogName]*checkpoint.Policy{
		membership.LogAudit: trust.AuditPolicy, membership.LogMembership: trust.MembershipPolicy,
	} {
		if _, err := policy.Origin(); err != nil {
			return nil, fmt.Errorf("%s policy: %w", name, err)
		}
		v.logs[name] = &logView{name: name, policy: policy, cache: newTileCache(),
			accepted: make(map[digest.Digest]accepted), keys: make(map[string][]note.Verifier)}
	}
	if _, err := v.history.Append(trust.Genesis); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	if err := s.changes(func(envelope []byte) error {
		_, err := v.history.Append(envelope)
		if err != nil {
			err = storeError(fmt.Errorf("change %d, under this genesis: %w", v.history.Size(), err))
		}
		return err
	}); err != nil {
		return nil, err
	}
	if err := v.learnKeys(); err != nil {
		return nil, err
	}
	for _, l := range v.logs {
		if err := v.restoreHead(l); err != nil {
			return nil, err
		}
	}
	var err error
	v.epochs, err = s.epochs(v.auditOrigin())
	return v, err
}

// restoreHead reads the kept checkpoint of a log. It was accepted when it was
// kept; a policy that has changed since does not matter for what it forbids.
func (v *view) restoreHead(l *logView) error {
	signed, err := v.store.head(l.name)
	if err != nil || signed == nil {
		return err
	}
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return storeError(fmt.Errorf("file %q: %w", headName(l.name), err))
	}
	c, err := checkpoint.Parse(n.Text)
	if err != nil {
		return storeError(fmt.Errorf("file %q: %w", headName(l.name), err))
	}
	if l.name == membership.LogMembership {
		root, err := v.history.Root(uint64(c.Size))
		if err != nil || root != c.Root {
			return storeError(fmt.Errorf("file %q is of size %d and does not match the %d changes kept; move the directory away to start anew",
				headName(l.name), c.Size, v.history.Size()))
		}
	}
	l.head, l.note = &c, signed
	v.health.saw(l.name, c)
	return nil
}

// take waits for the turn; give ends it.
func (v *view) take(ctx context.Context) error {
	select {
	case v.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	if err := v.store.failed(); err != nil {
		v.give()
		return err
	}
	return nil
}

func (v *view) give() { <-v.turn }

// acceptMembership judges a checkpoint of the membership log and folds the
// changes up to it. now is the time for its freshness.
func (v *view) acceptMembership(ctx context.Context, signed []byte, now time.Time) (checkpoint.Checkpoint, error) {
	l := v.logs[membership.LogMembership]
	if a, ok := l.accepted[digest.Of(signed)]; ok && !now.Before(a.judged) && !now.After(a.stale) {
		return a.checkpoint, nil
	}
	verified, err := l.policy.VerifyFresh(signed, now, v.maxAge)
	if errors.Is(err, checkpoint.ErrStale) {
		return checkpoint.Checkpoint{}, refuseCause(RefusedStale, err)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, refuseCause(RefusedMembership, err)
	}
	c := verified.Checkpoint
	if err := v.consistent(ctx, l, c, signed); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if uint64(c.Size) > v.history.Size() {
		if err := v.extendHistory(ctx, l, c); err != nil {
			return checkpoint.Checkpoint{}, err
		}
	}
	if root, err := v.history.Root(uint64(c.Size)); err != nil || root != c.Root {
		return checkpoint.Checkpoint{}, refuse(RefusedChanges, "the changes of this genesis do not hash to the checkpoint of size %d: another cluster's log, or a wrong genesis", c.Size)
	}
	if err := v.signedByNamedKey(l, c, signed); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if err := v.keep(l, c, signed); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if oldest, ok := oldestCosignature(verified); ok {
		l.remember(signed, accepted{c, now, oldest.Add(v.maxAge)})
	}
	return c, nil
}

// knownMembership holds a checkpoint of the membership log that need not be fresh,
// since it comes with a parent's proof, to the changes that this node has folded.
func (v *view) knownMembership(ctx context.Context, signed []byte) error {
	l := v.logs[membership.LogMembership]
	verified, err := l.policy.Verify(signed)
	if err != nil {
		return refuseCause(RefusedParent, err)
	}
	c := verified.Checkpoint
	if root, err := v.history.Root(uint64(c.Size)); err == nil && root == c.Root {
		return nil
	}
	if err := v.consistent(ctx, l, c, signed); err != nil {
		return err
	}
	return refuse(RefusedParent, "a parent's membership checkpoint has size %d, and %d changes are known", c.Size, v.history.Size())
}

// oldestCosignature is the time of the oldest cosignature that was counted, false
// if none was.
func oldestCosignature(verified *checkpoint.Verified) (time.Time, bool) {
	if len(verified.Cosignatures) == 0 {
		return time.Time{}, false
	}
	oldest := slices.MinFunc(verified.Cosignatures, func(a, b checkpoint.Cosignature) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
	return time.Unix(oldest.Timestamp, 0), true
}

// acceptAudit judges a checkpoint of the audit log, after the membership, which
// names the log's keys. code is the refusal for one that the policy refuses.
func (v *view) acceptAudit(ctx context.Context, signed []byte, code RefusalCode) (checkpoint.Checkpoint, error) {
	l := v.logs[membership.LogAudit]
	if a, ok := l.accepted[digest.Of(signed)]; ok {
		return a.checkpoint, nil
	}
	verified, err := l.policy.Verify(signed)
	if err != nil {
		return checkpoint.Checkpoint{}, refuseCause(code, err)
	}
	c := verified.Checkpoint
	if err := v.signedByNamedKey(l, c, signed); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if err := v.consistent(ctx, l, c, signed); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if err := v.keep(l, c, signed); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	l.remember(signed, accepted{checkpoint: c})
	return c, nil
}

// consistent checks a cosigned checkpoint against the kept one of its log: the
// root hash that the larger tree has at the smaller size, computed from tiles
// that hash to the larger tree's root, must be the smaller one's.
func (v *view) consistent(ctx context.Context, l *logView, c checkpoint.Checkpoint, signed []byte) error {
	if l.head == nil || l.head.Origin != c.Origin {
		return nil // nothing kept, or kept of a log that this one succeeds
	}
	older, newer := l.head.Tree(), c.Tree()
	if older.N > newer.N {
		older, newer = newer, older
	}
	root := newer.Hash
	var hashes []tlog.Hash
	if older.N == 0 {
		root = checkpoint.EmptyRoot
	} else if older.N < newer.N {
		// Tiles of a tree that has forked do not hash to the other. What is served
		// now decides, so that a fork is told from tiles that are wrong.
		var err error
		if root, hashes, err = v.rootAt(ctx, l, older, newer, l.cache); errors.Is(err, RefusedConsistency) {
			root, hashes, err = v.rootAt(ctx, l, older, newer, newTileCache())
		}
		if newer == l.head.Tree() && errors.Is(err, ErrNotFound) {
			return errors.Join(err, v.withheld(l, c, signed))
		}
		if err != nil {
			return err
		}
	}
	if root == older.Hash {
		return nil
	}
	e := &checkpoint.Evidence{Known: l.note, Submitted: signed, Hashes: hashes}
	if older.N < newer.N {
		e.RootAt = &root
	}
	return v.forked(l, c, e)
}

// rootAt computes the root hash that the newer tree has at the size of the older,
// and the hashes that prove it if that is not the older's.
func (v *view) rootAt(ctx context.Context, l *logView, older, newer tlog.Tree, cache *tileCache) (root tlog.Hash, hashes []tlog.Hash, err error) {
	tiles := &logTiles{ctx: ctx, source: v.source, log: l.name, cache: cache}
	reader := tlog.TileHashReader(newer, tiles)
	if root, err = tlog.TreeHash(older.N, reader); err == nil && root != older.Hash {
		hashes, err = tlog.ProveTree(newer.N, older.N, reader) // for the evidence
	}
	if err != nil {
		return root, nil, tileError(tiles, err)
	}
	if tiles.fetched {
		v.served(l)
	}
	return root, hashes, nil
}

// withheld says, and keeps what there is to show for it, that the log does not have
// the tree of the kept checkpoint any more: it was rolled back, or it has forked
// and the other history is still the shorter one. That proves nothing: c, the
// submitted checkpoint, may well belong to the same history. The proof follows if
// the log serves a tree of that size again. An error is one of the directory.
func (v *view) withheld(l *logView, c checkpoint.Checkpoint, signed []byte) error {
	if l.withheld {
		return nil
	}
	name, err := v.store.keepUnproven(l.name, *l.head, &checkpoint.Evidence{Known: l.note, Submitted: signed})
	if err != nil {
		return err
	}
	l.withheld, l.shown = true, name
	v.tellWithheld()
	v.logger.Error("the log does not serve its witnessed tree any more", "log", l.name, "kept_size", l.head.Size, "size", c.Size, "kept", name)
	return nil
}

// served ends what withheld said.
func (v *view) served(l *logView) {
	if l.withheld {
		l.withheld = false
		v.tellWithheld()
	}
}

// tellWithheld says of which logs it is true.
func (v *view) tellWithheld() {
	var details []string
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		if l := v.logs[name]; l.withheld {
			see := fmt.Sprintf("see %q", l.shown)
			if l.shown == "" {
				see = fmt.Sprintf("%q is full: move its files away", filepath.Join(v.store.dir, "unproven"))
			}
			details = append(details, fmt.Sprintf("the %s log no longer serves its witnessed tree of size %d; %s", name, l.head.Size, see))
		}
	}
	if len(details) == 0 {
		v.health.clear(ProblemWithheld)
	} else {
		v.health.set(ProblemWithheld, strings.Join(details, "; "))
	}
}

// tileError tells a log that could not be reached from one that serves tiles
// which do not hash to what was cosigned.
func tileError(tiles *logTiles, err error) error {
	if tiles.failed != nil {
		return tiles.failed
	}
	return refuseCause(RefusedConsistency, err)
}

// forked keeps two checkpoints that contradict each other, as received; c is the
// submitted one.
func (v *view) forked(l *logView, c checkpoint.Checkpoint, e *checkpoint.Evidence) error {
	for _, key := range l.policy.Logs() {
		e.Vkeys = append(e.Vkeys, key.Vkey)
	}
	v.health.set(ProblemFork, fmt.Sprintf("%s checkpoint of size %d contradicts the kept one of size %d", l.name, c.Size, l.head.Size))
	data, err := e.Format()
	if err == nil {
		var path string
		if path, err = v.store.keepEvidence(data); err == nil {
			v.logger.Error("the log has forked", "log", l.name, "size", c.Size, "kept_size", l.head.Size, "evidence", path)
			return refuse(RefusedFork, "%s checkpoint of size %d contradicts the kept one of size %d; evidence is in %q", l.name, c.Size, l.head.Size, path)
		}
	}
	v.logger.Error("the log has forked, and the evidence could not be kept", "log", l.name, "size", c.Size, "kept_size", l.head.Size, "error", err)
	return refuse(RefusedFork, "%s checkpoint of size %d contradicts the kept one of size %d", l.name, c.Size, l.head.Size)
}

// signedByNamedKey: a policy says whom its owner believes; that this is a log of
// the cluster is for the membership to say.
func (v *view) signedByNamedKey(l *logView, c checkpoint.Checkpoint, signed []byte) error {
	if _, err := checkpoint.Open(signed, c.Origin, l.keys[c.Origin]); err != nil {
		return refuseCause(RefusedLogKey, err)
	}
	return nil
}

// keep makes a checkpoint the kept one if it is larger.
func (v *view) keep(l *logView, c checkpoint.Checkpoint, signed []byte) error {
	if l.head != nil && l.head.Origin == c.Origin && l.head.Size >= c.Size {
		return nil
	}
	if err := v.store.setHead(l.name, signed); err != nil {
		return err
	}
	l.head, l.note = &c, bytes.Clone(signed)
	v.health.saw(l.name, c)
	return nil
}

// extendHistory folds the entries up to a cosigned checkpoint that is consistent
// with the kept one.
func (v *view) extendHistory(ctx context.Context, l *logView, c checkpoint.Checkpoint) error {
	if c.Size > membership.MaxPrincipals*100 { // more changes than a cluster could ever make
		return refuse(RefusedChanges, "membership log of %d changes", c.Size)
	}
	tiles := &logTiles{ctx: ctx, source: v.source, log: l.name, cache: l.cache}
	reader := tlog.TileHashReader(c.Tree(), tiles)
	have := int64(v.history.Size())
	if root, err := tlog.TreeHash(have, reader); err != nil {
		return tileError(tiles, err)
	} else if mine, err := v.history.Root(uint64(have)); err != nil || mine != root {
		return refuse(RefusedChanges, "the membership log does not begin with the %d changes that this node knows: another cluster's log, or a wrong genesis", have)
	}
	for have < c.Size {
		end := min(have/tileWidth*tileWidth+tileWidth, c.Size)
		entries, err := v.authenticEntries(tiles, reader, have, end)
		if err != nil {
			return err
		}
		for i, envelope := range entries {
			if _, err := v.history.Append(envelope); err != nil {
				// The entries before it are lawful and authentic: keep those.
				refusal := refuseCause(RefusedChanges, fmt.Errorf("entry %d of the membership log: %w", have+int64(i), err))
				return errors.Join(refusal, v.store.appendChanges(entries[:i]), v.learnKeys())
			}
		}
		if err := v.store.appendChanges(entries); err != nil {
			return err
		}
		have = end
	}
	v.logger.Info("membership changed", "epoch", v.history.Size())
	return v.learnKeys()
}

// authenticEntries reads entries start to end−1 and compares their hashes with
// those of the tree.
func (v *view) authenticEntries(tiles *logTiles, reader tlog.HashReader, start, end int64) ([][]byte, error) {
	var indexes []int64
	for i := start; i < end; i++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, i))
	}
	hashes, err := reader.ReadHashes(indexes)
	if err != nil {
		return nil, tileError(tiles, err)
	}
	entries, err := tiles.entries(start, end)
	if errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		return nil, refuseCause(RefusedConsistency, err)
	}
	for i, e := range entries {
		if tlog.RecordHash(e) != hashes[i] {
			return nil, refuse(RefusedConsistency, "entry %d of the %s log does not have the hash that was cosigned", start+int64(i), tiles.log)
		}
	}
	return entries, nil
}

// learnKeys collects the keys that the epochs since the last call name for the
// logs. A key stays: what it signed before it was replaced remains good.
func (v *view) learnKeys() error {
	for v.keyed < v.history.Size() {
		state, err := v.history.StateAt(v.keyed + 1)
		if err != nil {
			return storeError(err)
		}
		for name, l := range v.logs {
			named := state.Logs().Named(name)
			for _, vkey := range named.Keys {
				key, err := checkpoint.ParseVkey(vkey)
				if err != nil {
					return storeError(err)
				}
				if !slices.ContainsFunc(l.keys[named.Origin], func(k note.Verifier) bool { return k.(*checkpoint.Key).Vkey() == vkey }) {
					l.keys[named.Origin] = append(l.keys[named.Origin], key)
				}
			}
		}
		v.keyed++
	}
	return nil
}

// auditOrigin is the origin of the one log that the audit policy is about.
func (v *view) auditOrigin() string {
	origin, _ := v.trust.AuditPolicy.Origin() // openView has checked it
	return origin
}

// learnEpochs notes where the audit log has the records of epochs. The first one
// of an epoch counts, so only a smaller index replaces what is known.
func (v *view) learnEpochs(proven map[uint64]int64) error {
	changed := false
	for epoch, index := range proven {
		if known, ok := v.epochs[epoch]; !ok || index < known {
			v.epochs[epoch] = index
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return v.store.setEpochs(v.auditOrigin(), v.epochs)
}
