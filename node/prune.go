package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/provenance"
)

// Attestations are kept so that none is ever made twice differently. They cannot
// all be kept for ever. The floor lets old ones go: it is an index of the audit
// log, durable before anything is removed, and what was requested below it is
// attested from what is kept or not at all. So the node needs nobody's word that
// an execution is decided, and a control plane that shows it an old one again gets
// a refusal in place of a second attestation.
//
// What is removed, the oldest requests first, is only what the audit log has: the
// control plane has taken the attestation, under an index that a witnessed
// checkpoint covers by now.

const (
	floorName = "floor"
	// pruneSlack is the part of what is kept by which it may be exceeded, so that
	// the directories are read once in a while only.
	pruneSlack = 10
)

// recorded notes that the audit log has the attestation of an execution at an
// index, as the control plane says; −1 if it refuses it for good.
func (n *Node) recorded(id digest.Digest, index int64) {
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
// the kept audit checkpoint. The caller holds the view's turn.
func (n *Node) prune(size int64) error {
	keep := n.config.KeepAttestations
	if n.store.count() <= keep+keep/pruneSlack {
		return nil
	}
	all := n.store.attested()
	var remove []digest.Digest
	floor := n.store.floor
	for _, id := range all[:len(all)-keep] {
		if !n.settled(id, size) {
			continue
		}
		st, err := n.store.statement(id)
		if err != nil {
			return err
		}
		remove = append(remove, id)
		floor = max(floor, st.RequestCheckpoint.Size)
	}
	if len(remove) == 0 {
		return nil
	}
	if err := n.store.setFloor(floor); err != nil {
		return err
	}
	if err := n.store.removeAttestations(remove); err != nil {
		return err
	}
	n.mu.Lock()
	for _, id := range remove {
		delete(n.delivered, id)
		delete(n.inherited, id)
	}
	n.mu.Unlock()
	n.config.Logger.Info("old attestations removed", "count", len(remove), "kept", n.store.count(), "floor", floor)
	return nil
}

// statement reads what the kept attestation of an execution says.
func (s *store) statement(id digest.Digest) (*provenance.Statement, error) {
	envelope, err := s.read(attestationName(id), dsse.MaxEnvelope)
	if err != nil {
		return nil, err
	}
	if envelope == nil {
		return nil, os.ErrNotExist
	}
	return parseAttestation(id, envelope)
}

func parseAttestation(id digest.Digest, envelope []byte) (*provenance.Statement, error) {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return nil, storeError(fmt.Errorf("file %q: %w", attestationName(id), err))
	}
	st, err := provenance.ParseStatement(e.Payload)
	if err != nil {
		return nil, storeError(fmt.Errorf("file %q: %w", attestationName(id), err))
	}
	return st, nil
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

// removeAttestations deletes files below the floor. Whether that lasts does not
// matter.
func (s *store) removeAttestations(list []digest.Digest) error {
	gone := make(map[digest.Digest]bool, len(list))
	for _, id := range list {
		if err := os.Remove(filepath.Join(s.dir, attestationName(id))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return storeError(err)
		}
		gone[id] = true
	}
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	s.order = slices.DeleteFunc(s.order, func(id digest.Digest) bool { return gone[id] })
	return nil
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

// markPut notes that the payloads of a kept attestation have been handed in, by
// making its file read-only. The mark need not last: without it the execution is
// run once more, and compared, before the attestation is handed in.
func (s *store) markPut(id digest.Digest) error {
	if err := os.Chmod(filepath.Join(s.dir, attestationName(id)), 0o400); err != nil {
		return storeError(err)
	}
	return nil
}

func (s *store) isPut(id digest.Digest) bool {
	info, err := os.Stat(filepath.Join(s.dir, attestationName(id)))
	return err == nil && info.Mode().Perm()&0o200 == 0
}
