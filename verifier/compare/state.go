package compare

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

const (
	// MaxStateSize bounds a state, in bytes: a checkpoint, which JSON may write
	// longer than it is, and maxSeen sources.
	MaxStateSize = 2 << 20
	// maxSeen bounds the sources that a state remembers: those of a comparison and
	// as many that have been given up.
	maxSeen = 4 * MaxSources
	// maxSourceName bounds a source's name, in bytes: a long URL.
	maxSourceName = 2048
	// stateFormat marks a state and its version.
	stateFormat = "tallystick compare state v1"
)

// ErrState: the remembered state is damaged or of another log.
var ErrState = errors.New("unusable state")

// State is what runs remember of a log: the newest checkpoint of the one history
// that was seen, and how far each source has shown it. Nil remembers nothing. It
// is trusted: keep it where nobody else can write.
type State struct {
	origin  string
	signed  []byte           // nil if no history was settled yet
	sources map[string]int64 // largest size by source
}

type stateFile struct {
	Format     string       `json:"format"`
	Origin     string       `json:"origin"`
	Checkpoint string       `json:"checkpoint"`
	Sources    []sourceSize `json:"sources"`
}

type sourceSize struct {
	Source string `json:"source"`
	Size   int64  `json:"size"`
}

// Marshal returns the state as text for a file.
func (s *State) Marshal() ([]byte, error) {
	f := stateFile{Format: stateFormat, Origin: s.origin, Checkpoint: string(s.signed), Sources: []sourceSize{}}
	for name, size := range s.sources {
		f.Sources = append(f.Sources, sourceSize{name, size})
	}
	slices.SortFunc(f.Sources, func(a, b sourceSize) int { return cmp.Compare(a.Source, b.Source) })
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(f)
	return b.Bytes(), err
}

// ParseState reads exactly what Marshal wrote. Errors match ErrState.
func ParseState(text []byte) (*State, error) {
	if len(text) > MaxStateSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrState, len(text), MaxStateSize)
	}
	var f stateFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if f.Format != stateFormat {
		return nil, fmt.Errorf("%w: format %.60q is not %q", ErrState, f.Format, stateFormat)
	}
	s := &State{origin: f.Origin, sources: map[string]int64{}}
	if f.Checkpoint != "" {
		s.signed = []byte(f.Checkpoint)
	}
	for _, source := range f.Sources {
		if len(s.sources) == maxSeen || len(source.Source) > maxSourceName || source.Size < 0 {
			return nil, fmt.Errorf("%w: more than %d sources, or %.60q of size %d", ErrState, maxSeen, source.Source, source.Size)
		}
		s.sources[source.Source] = source.Size
	}
	if _, err := s.view(s.origin); err != nil {
		return nil, err
	}
	// Unknown and repeated members, and other spellings, show up here.
	if again, err := s.Marshal(); err != nil || !bytes.Equal(again, text) {
		return nil, fmt.Errorf("%w: it is not as it was written", ErrState)
	}
	return s, nil
}

// view returns what is remembered as a view, nil if nothing is. Its signature
// was verified when it was seen, perhaps by a key that the log has given up.
func (s *State) view(origin string) (*view, error) {
	if s == nil {
		return nil, nil
	}
	if s.origin != origin {
		return nil, fmt.Errorf("%w: it is of %q, not of %q", ErrState, s.origin, origin)
	}
	if s.signed == nil {
		return nil, nil
	}
	n, err := checkpoint.ParseNote(s.signed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	c, err := checkpoint.Parse(n.Text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if c.Origin != origin {
		return nil, fmt.Errorf("%w: its checkpoint is of %q, not of %q", ErrState, c.Origin, origin)
	}
	return &view{source: Source{Name: memoryName, Kind: KindMemory}, signed: s.signed, checkpoint: c}, nil
}

// seen returns the largest size that a source has shown. A note is what it is and
// does not go back.
func (s *State) seen(source Source) (int64, bool) {
	if s == nil || source.Kind == KindNote {
		return 0, false
	}
	size, ok := s.sources[source.Name]
	return size, ok
}

// state returns what to remember after the round. The remembered checkpoint is
// replaced only by one that extends it; as long as there is none, by the newest
// view if all views are of one history. What a split showed is left out, and an
// address that shows another source's view says nothing of this one's past.
func (r *round) state(old *State, memory *view) *State {
	next := &State{origin: r.origin, sources: map[string]int64{}}
	if old != nil {
		next.signed = old.signed
		for name, size := range old.sources {
			next.sources[name] = size
		}
	}
	switch {
	case memory != nil:
		next.signed = memory.branch.head.signed
	case len(r.branches) == 1:
		next.signed = r.branches[0].head.signed
	}
	for _, v := range r.views {
		if v.signed == nil || v == memory || v.status == StatusInvalid || v.source.Kind == KindNote {
			continue
		}
		if _, known := next.sources[v.source.Name]; known || len(next.sources) < maxSeen {
			next.sources[v.source.Name] = max(next.sources[v.source.Name], v.checkpoint.Size)
		}
	}
	return next
}
