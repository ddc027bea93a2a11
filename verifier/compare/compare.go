package compare

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

const (
	// MaxSources bounds the sources of a comparison. A policy has a handful of
	// witnesses; all views are held in memory, each of at most half a megabyte.
	MaxSources = 64
	// DefaultTimeout is how long a source may take when nothing is said.
	DefaultTimeout = 10 * time.Second
	// DefaultAtLeast is how many sources must show a checkpoint when nothing is
	// said: one alone has nothing to be compared with.
	DefaultAtLeast = 2
	// roundTimeouts bounds a run, in timeouts of a source: sources that are slow
	// in turn, or show many histories, must not keep a monitor busy for ever.
	roundTimeouts = 12
)

// ErrSources: the sources are too many, or cannot be told apart by their names.
var ErrSources = errors.New("unusable sources")

// Kind says what a source is.
type Kind string

const (
	KindLog     Kind = "log"     // serves checkpoint and tiles, and signs them
	KindMirror  Kind = "mirror"  // serves somebody else's checkpoint and tiles
	KindWitness Kind = "witness" // serves the checkpoint that it cosigned last
	KindNote    Kind = "note"    // has one checkpoint that somebody was shown, whatever path is asked for
	KindMemory  Kind = "memory"  // what an earlier run has seen; never a Source's
)

// Source is a place where the log's checkpoints are shown.
type Source struct {
	// Name tells it from the others, in reports and in a State; a URL for example.
	Name string
	Kind Kind
	// Fetch reads below the monitoring prefix of the log, mirror or witness.
	Fetch tiles.Fetch
	// Witness is the name that the policy has for a witness, "" if it has none. If
	// it is there the witness's view must have its cosignature.
	Witness string
}

// Comparison says what to compare and how.
type Comparison struct {
	// Policy names one origin and the keys of that log. A view need not satisfy
	// its quorum: who cosigned what is part of the report.
	Policy  *checkpoint.Policy
	Sources []Source // 1 to MaxSources
	// Timeout bounds what is waited for a source's checkpoint, and for each
	// comparison that its tiles are read for; 0 means DefaultTimeout.
	Timeout time.Duration
	// AtLeast is how many sources must show a checkpoint of the log for the
	// comparison to mean something; 0 means DefaultAtLeast.
	AtLeast int
}

// check refuses a comparison that cannot be made.
func (c *Comparison) check() (origin string, err error) {
	if origin, err = c.Policy.Origin(); err != nil {
		return "", err
	}
	if len(c.Sources) == 0 || len(c.Sources) > MaxSources {
		return "", fmt.Errorf("%w: %d of them, want 1 to %d", ErrSources, len(c.Sources), MaxSources)
	}
	names := map[string]bool{memoryName: true}
	for _, s := range c.Sources {
		if s.Name == "" || len(s.Name) > maxSourceName || names[s.Name] {
			return "", fmt.Errorf("%w: %.80q is there twice, empty, or longer than %d bytes", ErrSources, s.Name, maxSourceName)
		}
		names[s.Name] = true
	}
	return origin, nil
}

func (c *Comparison) timeout() time.Duration {
	if c.Timeout <= 0 {
		return DefaultTimeout
	}
	return c.Timeout
}

func (c *Comparison) atLeast() int {
	if c.AtLeast <= 0 {
		return DefaultAtLeast
	}
	return c.AtLeast
}

// Run compares once. Remembered is the state that the last run returned, nil for
// the first; the returned one is for the next. What was found is in the report:
// an error means that nothing could be, because of the policy
// (checkpoint.ErrManyOrigins), the sources (ErrSources), the state (ErrState), or
// the context.
func (c *Comparison) Run(ctx context.Context, remembered *State) (*Report, *State, error) {
	origin, err := c.check()
	if err != nil {
		return nil, remembered, err
	}
	memory, err := remembered.view(origin)
	if err != nil {
		return nil, remembered, err
	}
	bounded, cancel := context.WithTimeout(ctx, roundTimeouts*c.timeout())
	defer cancel()

	r := &round{comparison: c, origin: origin, keys: c.Policy.LogKeys(origin)}
	r.views = r.gather(bounded)
	if memory != nil {
		memory.cosigned, memory.quorum, _ = r.cosigners(memory.signed)
		r.views = append(r.views, memory)
	}
	r.arrange(bounded)
	if err := ctx.Err(); err != nil {
		return nil, remembered, err
	}
	return r.report(remembered), r.state(remembered, memory), nil
}

// round is one run. It belongs to the goroutine that called Run.
type round struct {
	comparison *Comparison
	origin     string
	keys       []note.Verifier // of the log
	views      []*view         // in the order of the sources, then memory
	branches   []*branch       // the newest first
	splits     []Split
}
