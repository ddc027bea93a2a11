package compare

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// view is what one source showed.
type view struct {
	source Source
	// signed is the note as it was shown, nil if nothing usable was; then the
	// status says why, and the fields below mean nothing.
	signed     []byte
	checkpoint checkpoint.Checkpoint // signed by the log
	cosigned   []string              // names of witnesses of the policy
	quorum     bool                  // whether they satisfy it
	// status is "" as long as nothing speaks against the view.
	status  Status
	problem string
	branch  *branch // nil until arranged
}

// gather asks all sources at a time.
func (r *round) gather(ctx context.Context) []*view {
	views := make([]*view, len(r.comparison.Sources))
	var wg sync.WaitGroup
	for i, source := range r.comparison.Sources {
		wg.Go(func() { views[i] = r.ask(ctx, source) })
	}
	wg.Wait()
	return views
}

// ask reads and verifies the checkpoint of one source.
func (r *round) ask(ctx context.Context, source Source) *view {
	ctx, cancel := context.WithTimeout(ctx, r.comparison.timeout())
	defer cancel()
	v := &view{source: source}
	path := "checkpoint"
	if source.Kind == KindWitness {
		path = fmt.Sprintf("%x/checkpoint", sha256.Sum256([]byte(r.origin)))
	}
	signed, err := source.Fetch(ctx, path, checkpoint.MaxNoteSize)
	switch {
	case source.Kind == KindWitness && errors.Is(err, tiles.ErrNotFound):
		// "If the witness has never cosigned a checkpoint for that log, it MUST
		// respond with a 404" (c2sp.org/tlog-witness).
		v.status, v.problem = StatusNothing, "it has never cosigned this log"
	case err != nil:
		v.status, v.problem = StatusUnreachable, err.Error()
	default:
		r.verify(v, signed)
	}
	return v
}

// verify fills in what a signed note says. The log's signature alone makes it a
// view: a log that shows two histories need not have them cosigned.
func (r *round) verify(v *view, signed []byte) {
	c, err := checkpoint.Open(signed, r.origin, r.keys)
	if err != nil {
		v.status, v.problem = StatusInvalid, err.Error()
		return
	}
	v.signed, v.checkpoint = signed, c
	if v.cosigned, v.quorum, err = r.cosigners(signed); err != nil {
		v.status, v.problem = StatusInvalid, err.Error()
		return
	}
	if w := v.source.Witness; w != "" && !slices.Contains(v.cosigned, w) {
		v.status, v.problem = StatusInvalid, fmt.Sprintf("it has no cosignature of %q", w)
	}
}

// cosigners returns the witnesses of the policy that have cosigned, and whether
// they satisfy it. An error says that the log has not signed, or that a
// cosignature names a witness and is none.
func (r *round) cosigners(signed []byte) (names []string, quorum bool, err error) {
	verified, err := r.comparison.Policy.Verify(signed)
	var short *checkpoint.QuorumError
	if errors.As(err, &short) {
		return short.Have, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, c := range verified.Cosignatures {
		names = append(names, c.Witness)
	}
	return names, true, nil
}
