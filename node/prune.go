package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
)

// Attestations are kept so that none is ever made twice differently. They cannot
// all be kept for ever. Two things let old ones go, both durable before anything
// is removed. The floor is an index of the audit log: what was requested below it
// is attested from what is kept or not at all. Tombstones (tombstone.go) do the
// same for an execution that is requested again above it. So the node needs
// nobody's word that an execution is decided, and a control plane that shows it an
// old one again gets a refusal in place of a second attestation.
//
// What is removed, the oldest requests first, is only what the audit log has: the
// control plane has taken the attestation, under an index that a witnessed
// checkpoint covers by now.

const (
	floorName = "floor"
	// pruneSlack is the part of what is kept by which it may be exceeded, so that
	// the directories are read once in a while only.
	pruneSlack = 10
	// maxAhead is how far beyond the kept checkpoint the log is believed to be: more
	// than it grows while a checkpoint is on its way. A control plane that names a
	// larger index could keep old attestations here for ever.
	maxAhead = 1 << 16
)

// recorded notes that the audit log has the attestation of an execution at an
// index, as the control plane says, as far as it is plausible; −1 if it refuses it
// for good.
func (n *Node) recorded(id digest.Digest, index int64) {
	index = min(index, n.health.size(membership.LogAudit)+maxAhead)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delivered[id] = index
}

// settled reports whether an attestation may go: nothing is being done about its
// execution, and the log has it below size, or it is of an earlier process, after
// whose end the control plane has told what is still open.
func (n *Node) settled(id digest.Digest, size int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	index, ok := n.delivered[id]
	return !n.busy[id.String()] && (!ok && n.inherited[id] || ok && index < size)
}

// prune removes the oldest attestations when too many are kept. size is that of
// the kept audit checkpoint. What cannot be read or removed stays and is a problem
// for the operator, but no reason not to work; an error is a failed write of what
// forbids attesting anew. The caller holds the view's turn.
func (n *Node) prune(size int64) error {
	keep := n.config.KeepAttestations
	if n.store.count() <= keep+keep/pruneSlack {
		return nil
	}
	if err := n.store.unearth(n.view.passed(n.store.floor)); err != nil {
		return err
	}
	all := n.store.attested()
	remove, floor, problem := n.removable(all[:len(all)-keep], size)
	if len(remove) > 0 {
		if err := n.store.setFloor(floor); err != nil {
			return err
		}
		if err := n.store.bury(remove); err != nil {
			return err
		}
		gone, err := n.store.removeAttestations(remove)
		problem = errors.Join(problem, err)
		n.mu.Lock()
		for _, id := range gone {
			delete(n.delivered, id)
			delete(n.inherited, id)
		}
		n.mu.Unlock()
		n.config.Logger.Info("old attestations removed", "count", len(gone), "kept", n.store.count(), "floor", floor)
	}
	if problem == nil {
		n.health.clear(ProblemDirectory)
		return nil
	}
	n.health.set(ProblemDirectory, fmt.Sprintf("old attestations stay: %.500s", problem))
	n.config.Logger.Error("old attestations cannot be removed", "error", problem)
	return nil
}

// removable returns what of a list may go, the floor that this takes, and the first
// reason why something stays that should go.
func (n *Node) removable(list []digest.Digest, size int64) (remove []tombstone, floor int64, problem error) {
	floor = n.store.floor
	room := n.store.room()
	for _, id := range list {
		if !n.settled(id, size) {
			continue
		}
		if len(remove) == room {
			return remove, floor, cmp.Or(problem, fmt.Errorf("%d executions have to be remembered until the membership changes and their submissions can be pinned no more", n.store.maxRemoved))
		}
		st, lastEpoch, err := n.store.statement(id)
		switch {
		case errors.Is(err, os.ErrNotExist): // somebody has removed it: it is attested no more
			remove = append(remove, tombstone{id, foreverPinned})
		case err != nil:
			problem = cmp.Or(problem, err)
		default:
			remove = append(remove, tombstone{id, lastEpoch})
			floor = max(floor, st.RequestCheckpoint.Size)
		}
	}
	return remove, floor, problem
}

// readFloor restores the floor.
func (s *store) readFloor() error {
	const most = 20 // digits of an index, and a newline
	data, err := s.read(floorName, most)
	if err != nil || data == nil {
		return err
	}
	if s.floor, err = strconv.ParseInt(strings.TrimSuffix(string(data), "\n"), 10, 64); err != nil {
		return storeError(fmt.Errorf("file %q: %w", floorName, err))
	}
	return nil
}

// setFloor makes a floor durable, and only then lets it count.
func (s *store) setFloor(floor int64) error {
	if err := s.replace(floorName, fmt.Appendf(nil, "%d\n", floor)); err != nil {
		return err
	}
	s.floor = floor
	return nil
}

// readAttested lists what is kept, in the order in which it was written.
func (s *store) readAttested() error {
	type file struct {
		id digest.Digest
		at time.Time
	}
	var files []file
	top := filepath.Join(s.dir, "attestations")
	shards, err := os.ReadDir(top)
	for _, shard := range shards {
		list, listErr := os.ReadDir(filepath.Join(top, shard.Name()))
		err = errors.Join(err, listErr)
		for _, e := range list {
			id, parseErr := digest.Parse(e.Name())
			info, infoErr := e.Info()
			if parseErr == nil && infoErr == nil { // else an unfinished file
				files = append(files, file{id, info.ModTime()})
			}
		}
	}
	if err != nil {
		return storeError(err)
	}
	slices.SortFunc(files, func(a, b file) int { return a.at.Compare(b.at) })
	for _, f := range files {
		s.order = append(s.order, f.id)
	}
	return nil
}

// removeAttestations deletes files whose tombstones are durable, and returns what
// is gone. Whether that lasts does not matter.
func (s *store) removeAttestations(list []tombstone) (removed []digest.Digest, err error) {
	gone := make(map[digest.Digest]bool, len(list))
	for _, t := range list {
		removeErr := os.Remove(filepath.Join(s.dir, attestationName(t.execution)))
		if removeErr != nil && !errors.Is(removeErr, os.ErrNotExist) {
			err = cmp.Or(err, storeError(removeErr))
			continue
		}
		gone[t.execution] = true
		removed = append(removed, t.execution)
	}
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	s.order = slices.DeleteFunc(s.order, func(id digest.Digest) bool { return gone[id] })
	return removed, err
}

// count is how many attestations are kept.
func (s *store) count() int {
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	return len(s.order)
}

// attested returns the executions whose attestations are kept, oldest first.
func (s *store) attested() []digest.Digest {
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	return slices.Clone(s.order)
}
