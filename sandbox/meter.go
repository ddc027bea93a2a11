package sandbox

import (
	"context"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/tallystick/tallystick/sandbox/rewrite"
)

// DefaultSlice is how much gas a guest gets at a time. Between two slices it
// comes back to the host, where a run that has been cancelled ends, and where
// the Go runtime can stop its thread: some 0.1 to 4 ms apart. It costs nothing
// measurable (docs/design/045-metered-runs.md) and no outcome depends on it.
const DefaultSlice = 1_000_000

// A tank is the gas of one run: what is left of the current slice is a global
// of the guest, where rewritten code draws on it, and the rest of the budget is
// here. Only their sum is a fact about the run; how it is divided is not.
//
// A guest may go below zero for a few instructions, since rewritten code looks
// at the global only at loop heads and function entries. So the sum, too, can be
// negative, and then the budget is exhausted whatever the guest went on to do.
type tank struct {
	gas    api.MutableGlobal // int64: the slice; the guest's while it runs
	frames api.Global        // int32: calls left; negative once one was too many
	budget uint64            // at most MaxGas
	rest   uint64            // of the budget, not handed out yet
	slice  uint64
}

// newTank finds the globals that the rewriter added to the module and sets them
// to the first slice and to the limit of frames.
func newTank(m api.Module, l Limits, slice uint64) (*tank, error) {
	gas, ok := m.ExportedGlobal(rewrite.GasGlobal).(api.MutableGlobal)
	frames, ok2 := m.ExportedGlobal(rewrite.FramesGlobal).(api.MutableGlobal)
	if !ok || !ok2 {
		return nil, engineFault("the rewritten module lacks a counter")
	}
	first := min(l.Gas, slice)
	gas.Set(first)
	frames.Set(api.EncodeI32(int32(l.Frames)))
	return &tank{gas: gas, frames: frames, budget: l.Gas, rest: l.Gas - first, slice: slice}, nil
}

// charge takes n units, at most MaxGas, and reports whether the budget covers
// them and all before.
func (t *tank) charge(n uint64) bool {
	left := int64(t.gas.Get()) - int64(n)
	if left < 0 {
		// The debt and another slice. The rewriter keeps the global above -2^62, so
		// the sum does not overflow.
		more := min(t.rest, uint64(-left)+t.slice)
		t.rest -= more
		left += int64(more)
	}
	t.gas.Set(uint64(left))
	return left >= 0
}

// exhausted reports whether the guest used more than its budget.
func (t *tank) exhausted() bool { return int64(t.gas.Get())+int64(t.rest) < 0 }

// used is the gas used: the budget, if it is exhausted.
func (t *tank) used() uint64 {
	if t.exhausted() {
		return t.budget
	}
	return t.budget - t.rest - t.gas.Get()
}

// overflowed reports whether the guest called deeper than its limit.
func (t *tank) overflowed() bool { return api.DecodeI32(t.frames.Get()) < 0 }

// charge takes the gas of a host call or ends the run. Unmetered guests have no
// tank. A run that was cancelled ends here too.
func (g *guest) charge(n uint64) {
	if g.tank != nil && !g.tank.charge(n) {
		g.finish(endedBudget)
	}
	if g.ctx.Err() != nil {
		g.finish(endedStopped)
	}
}

// chargeBytes takes the gas for copying n bytes, before they are copied.
func (g *guest) chargeBytes(n uint64) {
	if n >= rewrite.HostBytesPerGas {
		g.charge(n / rewrite.HostBytesPerGas)
	}
}

// exportRefill defines the function that rewritten code calls when its slice is
// used up.
func exportRefill(r wazero.Runtime) error {
	refill := func(ctx context.Context, _ []uint64) { ctx.Value(guestKey{}).(*guest).charge(0) }
	_, err := r.NewHostModuleBuilder(rewrite.ImportModule).NewFunctionBuilder().
		WithGoFunction(api.GoFunc(refill), nil, nil).Export(rewrite.RefillImport).
		Instantiate(context.Background())
	if err != nil {
		return fmt.Errorf("defining %s.%s: %w", rewrite.ImportModule, rewrite.RefillImport, err)
	}
	return nil
}
