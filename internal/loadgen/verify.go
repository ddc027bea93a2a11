package loadgen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// Verification is what became of a load's entries, as the log's tree says.
type Verification struct {
	Size     int64  `json:"tree_size"` // of the checkpoint
	RootHash string `json:"root_hash"`
	// Read is how many entries were read from the log, Confirmed how many of
	// those acknowledged were where they had to be, Missing how many were not.
	Read      int64  `json:"read"`
	Confirmed int64  `json:"confirmed"`
	Missing   int64  `json:"missing"`
	First     string `json:"first_missing,omitempty"`
	// RefusedPresent are in the log although it refused them, UnknownPresent
	// without an answer. Neither was promised.
	RefusedPresent int64 `json:"refused_present"`
	UnknownPresent int64 `json:"unknown_present"`
}

// lookAgain is how often the checkpoint is looked at until it covers the load.
const lookAgain = 50 * time.Millisecond

// Verify waits until the log's checkpoint covers everything acknowledged, reads
// the log up to it, and compares. Call it after Run. The error says why nothing
// could be found out; what the log did not keep is in the report.
func (l *Load) Verify(ctx context.Context, fetch tiles.Fetch, policy *checkpoint.Policy, progress func(done, size int64)) (*Report, error) {
	report := l.Report()
	first, last := l.span()
	if last < 0 {
		report.Verified = &Verification{}
		return report, nil
	}
	source, err := l.covering(ctx, fetch, policy, last)
	if err != nil {
		return report, err
	}
	c := source.Checkpoint()
	v := &Verification{Size: c.Size, RootHash: c.Root.String()}
	report.Verified = v
	var scratch []byte
	var number int64
	var ours, whole bool
	for b, err := range source.Bundles(ctx, first) {
		if err != nil {
			return report, fmt.Errorf("reading what was written: %w", err)
		}
		for i, entry := range b.Entries(0) {
			v.Read++
			if number, ours, whole, scratch = l.numberOf(entry, scratch); !ours || !whole {
				continue
			}
			switch claimed := l.claims.get(number); claimed {
			case b.First + int64(i):
				v.Confirmed++
			case refused:
				v.RefusedPresent++
			case unknown:
				v.UnknownPresent++
			}
		}
		if progress != nil {
			progress(b.First+int64(len(b.Leaves)), c.Size)
		}
	}
	if v.Missing = report.Acknowledged - v.Confirmed; v.Missing != 0 {
		v.First = l.missing(ctx, source)
	}
	return report, nil
}

// span returns the smallest and largest index that were answered, or -1.
func (l *Load) span() (first, last int64) {
	first, last = -1, -1
	for _, block := range l.claims.blocks {
		for _, index := range block {
			if index < 0 {
				continue
			}
			if first < 0 || index < first {
				first = index
			}
			last = max(last, index)
		}
	}
	return first, last
}

// covering returns the log at a checkpoint that covers an index.
func (l *Load) covering(ctx context.Context, fetch tiles.Fetch, policy *checkpoint.Policy, index int64) (*tiles.Source, error) {
	ctx, cancel := context.WithTimeout(ctx, l.options.Timeout)
	defer cancel()
	size := int64(-1)
	for {
		source, err := tiles.OpenSource(ctx, fetch, policy, 0)
		if err == nil {
			if size = source.Checkpoint().Size; size > index {
				return source, nil
			}
		} else if !errors.Is(err, tiles.ErrFetch) {
			return nil, err
		}
		wait := time.NewTimer(lookAgain)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			if err != nil {
				return nil, fmt.Errorf("waiting for a checkpoint: %w", err)
			}
			return nil, fmt.Errorf("waiting for a checkpoint that covers index %d: the last one has size %d: %w", index, size, ctx.Err())
		}
	}
}

// missing describes the first entry, by index, that is not where the log said.
func (l *Load) missing(ctx context.Context, source *tiles.Source) string {
	claimed := make(map[int64]int64) // index → number
	twice := int64(-1)
	for n, block := range l.claims.blocks {
		for i, index := range block {
			if index < 0 {
				continue
			}
			if _, ok := claimed[index]; ok && (twice < 0 || index < twice) {
				twice = index
			}
			claimed[index] = int64(n)*claimBlock + int64(i)
		}
	}
	if twice >= 0 {
		return fmt.Sprintf("index %d was answered for two entries", twice)
	}
	first, _ := l.span()
	for b, err := range source.Bundles(ctx, first) {
		if err != nil {
			return err.Error()
		}
		for i, entry := range b.Entries(0) {
			want, ok := claimed[b.First+int64(i)]
			if number, ours, whole, _ := l.numberOf(entry, nil); ok && (!ours || !whole || number != want) {
				return fmt.Sprintf("index %d does not hold entry number %d", b.First+int64(i), want)
			}
		}
	}
	return ""
}
