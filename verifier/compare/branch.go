package compare

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// branch is a history: a checkpoint and the views that it extends.
type branch struct {
	head *view
	// readers are sources at the head's tree, by the name of who serves it; a nil
	// one stands for a source that does not.
	readers map[string]*tiles.Source
	// split is set if it is proven that this is not the first branch's history.
	split bool
	// doubt says why it could not be compared with an earlier branch; "" if it was.
	doubt string
}

// arrange sorts the views into branches. A view is compared with the newest view
// of each branch, which stands for all of them: what extends a tree extends
// everything that this tree extends.
func (r *round) arrange(ctx context.Context) {
	shown := slices.DeleteFunc(slices.Clone(r.views), func(v *view) bool { return v.signed == nil })
	// The order of equal sizes is that of the root hashes, so that a report does
	// not depend on who answered. Of equal checkpoints the one that most witnesses
	// have cosigned stands for the others: it says most as evidence.
	slices.SortStableFunc(shown, func(a, b *view) int {
		return cmp.Or(cmp.Compare(b.checkpoint.Size, a.checkpoint.Size),
			bytes.Compare(a.checkpoint.Root[:], b.checkpoint.Root[:]),
			cmp.Compare(len(b.cosigned), len(a.cosigned)))
	})
	for _, v := range shown {
		r.place(ctx, v)
	}
}

// place puts a view into the branch that it belongs to, or makes it the head of a
// new one. All heads are at least as large as it is.
func (r *round) place(ctx context.Context, v *view) {
	next := &branch{head: v, readers: map[string]*tiles.Source{}}
	var splits []Split
	for i, b := range r.branches {
		same, split, err := r.compare(ctx, b, v)
		switch {
		case err != nil:
			next.doubt = fmt.Sprintf("it could not be compared with the view of %q: %v", b.head.source.Name, err)
		case same:
			v.branch = b
			return
		default:
			splits = append(splits, split)
			next.split = next.split || i == 0
		}
	}
	v.branch = next
	r.branches = append(r.branches, next)
	r.splits = append(r.splits, splits...)
}

// compare finds out whether a view belongs to a branch, and if not, what proves
// it.
func (r *round) compare(ctx context.Context, b *branch, v *view) (same bool, split Split, err error) {
	head, c := b.head.checkpoint, v.checkpoint
	if c == head {
		return true, split, nil
	}
	// The smaller one was known; of equal ones what is remembered.
	e := &checkpoint.Evidence{Known: v.signed, Submitted: b.head.signed}
	if c.Size < head.Size {
		if same, err = r.past(ctx, b, c, e); same || err != nil {
			return same, split, err
		}
	} else if b.head.source.Kind == KindMemory {
		e.Known, e.Submitted = e.Submitted, e.Known
	}
	for _, key := range r.comparison.Policy.Logs() {
		e.Vkeys = append(e.Vkeys, key.Vkey)
	}
	split = Split{Sources: [2]string{b.head.source.Name, v.source.Name},
		Sizes: [2]int64{head.Size, c.Size}, RootHashes: [2]string{head.Root.String(), c.Root.String()}}
	// What is written must convince somebody else.
	finding, err := e.Judge(r.keys)
	if err != nil || finding != checkpoint.Fork {
		split.Problem = fmt.Sprintf("no evidence: it is judged %v, %v", finding, err)
		return false, split, nil
	}
	split.Evidence = e
	return false, split, nil
}

// past reports whether the tree of a branch's head had a smaller checkpoint's
// root hash at its size. If not it adds the proof to the evidence. Any source may
// have the tiles; the ones that showed the head come first.
func (r *round) past(ctx context.Context, b *branch, c checkpoint.Checkpoint, e *checkpoint.Evidence) (same bool, err error) {
	servers := slices.Clone(r.views)
	slices.SortStableFunc(servers, func(x, y *view) int {
		return cmp.Compare(distance(x, b.head), distance(y, b.head))
	})
	err = errNotServed
	for _, v := range servers {
		if v.source.Kind != KindLog && v.source.Kind != KindMirror || v.status == StatusUnreachable {
			continue
		}
		same, failed := r.pastFrom(ctx, v.source, b, c, e)
		if failed == nil {
			return same, nil
		}
		err = fmt.Errorf("%w; %q: %w", err, v.source.Name, failed)
	}
	return false, err
}

// distance is 0 for a view of the same checkpoint, 1 for any other.
func distance(v, head *view) int {
	if v.signed != nil && v.checkpoint == head.checkpoint {
		return 0
	}
	return 1
}

// pastFrom is past by the tiles of one source.
func (r *round) pastFrom(ctx context.Context, source Source, b *branch, c checkpoint.Checkpoint, e *checkpoint.Evidence) (same bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.comparison.timeout())
	defer cancel()
	reader, asked := b.readers[source.Name]
	if !asked {
		reader, err = tiles.OpenSourceAt(ctx, source.Fetch, b.head.checkpoint)
		b.readers[source.Name] = reader // nil after an error
	}
	switch {
	case err != nil:
		return false, err
	case reader == nil:
		return false, errNotThisTree
	}
	root, err := reader.RootAt(ctx, c.Size)
	if err != nil || root == c.Root {
		return err == nil, err
	}
	if e.Hashes, err = reader.Consistency(ctx, c.Size); err != nil {
		return false, err
	}
	e.RootAt = &root
	return false, nil
}

var (
	// errNotServed: no source that answers serves the tree of a checkpoint.
	errNotServed = errors.New("nobody serves the tree of the larger one")
	// errNotThisTree: a source was asked for a tree before and did not serve it.
	errNotThisTree = errors.New("it does not serve that tree")
)
