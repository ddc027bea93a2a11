package tiles

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// MaxStateSize bounds a state, in bytes: two edges of 8 tiles in base64, and a
// checkpoint.
const MaxStateSize = 2 << 20

// stateVersion is the version of the form that Marshal writes.
const stateVersion = 1

// State is what an audit remembers of a log. The zero value remembers nothing.
// It is trusted: keep it where only the auditor can write.
type State struct {
	// Checkpoint is the signed note of the newest tree that was verified, nil if
	// none was.
	Checkpoint []byte

	edge *edge // of that tree; nil if there is none
	// paused is the edge of a run that was interrupted, an extension of edge that
	// no checkpoint has confirmed yet; nil if there is none.
	paused *edge
}

type wireState struct {
	Version    int      `json:"version"`
	Checkpoint string   `json:"checkpoint,omitempty"`
	Edge       [][]byte `json:"edge,omitempty"`
	Paused     [][]byte `json:"paused,omitempty"`
}

// Marshal returns the state as text for a file.
func (s *State) Marshal() ([]byte, error) {
	return json.MarshalIndent(wireState{stateVersion, string(s.Checkpoint), s.edge.bytes(), s.paused.bytes()}, "", " ")
}

// ParseState reads what Marshal wrote. Errors match ErrState.
func ParseState(b []byte) (*State, error) {
	if len(b) > MaxStateSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrState, len(b), MaxStateSize)
	}
	var w wireState
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the state", ErrState)
	}
	if w.Version != stateVersion {
		return nil, fmt.Errorf("%w: version %d, this program knows %d", ErrState, w.Version, stateVersion)
	}
	s := &State{}
	if w.Checkpoint != "" {
		s.Checkpoint = []byte(w.Checkpoint)
	}
	var err error
	if s.edge, err = parseEdge(w.Edge); err != nil {
		return nil, err
	}
	if s.paused, err = parseEdge(w.Paused); err != nil {
		return nil, err
	}
	if (s.edge == nil) != (s.Checkpoint == nil) {
		return nil, fmt.Errorf("%w: a checkpoint without its tree, or a tree without its checkpoint", ErrState)
	}
	return s, nil
}

// bytes returns the hashes of each level, none for a nil edge.
func (e *edge) bytes() [][]byte {
	if e == nil {
		return nil
	}
	out := make([][]byte, len(e.levels))
	for level, hashes := range e.levels {
		out[level] = []byte{}
		for _, h := range hashes {
			out[level] = append(out[level], h[:]...)
		}
	}
	return out
}

func parseEdge(levels [][]byte) (*edge, error) {
	if len(levels) == 0 {
		return nil, nil
	}
	e := new(edge)
	if len(levels) != len(e.levels) {
		return nil, fmt.Errorf("%w: %d levels of tiles, want %d", ErrState, len(levels), len(e.levels))
	}
	for level, b := range levels {
		n := len(b) / tlog.HashSize
		hashes, err := parseTile(b, n, n)
		if err != nil || n >= width || level == maxLevel && n >= width/2 {
			return nil, fmt.Errorf("%w: level %d of the edge has %d bytes", ErrState, level, len(b))
		}
		e.levels[level] = hashes
	}
	return e, nil
}

// check returns the remembered tree, the zero Checkpoint if there is none, after
// making sure that the state is whole and of this log.
func (s *State) check(origin string) (checkpoint.Checkpoint, error) {
	if s.Checkpoint == nil {
		return checkpoint.Checkpoint{}, nil
	}
	n, err := checkpoint.ParseNote(s.Checkpoint)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("%w: %w", ErrState, err)
	}
	known, err := checkpoint.Parse(n.Text)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("%w: %w", ErrState, err)
	}
	switch {
	case known.Origin != origin:
		return known, fmt.Errorf("%w: it is of %q, the log is %q", ErrState, known.Origin, origin)
	case s.edge.size() != known.Size || s.edge.root() != known.Root:
		return known, fmt.Errorf("%w: its hashes do not make its checkpoint", ErrState)
	}
	return known, nil
}

// start returns the edge from which to reach a size.
func (s *State) start(size int64) *edge {
	switch {
	case s.paused != nil && s.paused.size() <= size:
		return s.paused.clone()
	case s.edge != nil:
		return s.edge.clone()
	}
	return new(edge)
}

// pause remembers where an interrupted run stood.
func (s *State) pause(e *edge) *State {
	return &State{Checkpoint: s.Checkpoint, edge: s.edge, paused: e}
}

// forget drops what no checkpoint has confirmed.
func (s *State) forget() *State { return &State{Checkpoint: s.Checkpoint, edge: s.edge} }
