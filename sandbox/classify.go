package sandbox

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/sys"
)

// classify decides how a run ended. The counters of a metered guest rule, then
// the host's own state; the engine's error only tells a trap from a fault, and
// by its identity, not its words. So the order in which things went wrong is
// never asked for: a guest whose budget is used up is that, whether it also
// called too deep, exited or trapped before the next look at its gas.
func classify(ctx context.Context, g *guest, err error) (Outcome, error) {
	if g.end == endedStopped {
		return Outcome{}, fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx))
	}
	if g.tank == nil {
		return endedBy(ctx, g, err)
	}
	if g.tank.outlined() {
		return Outcome{}, engineFault("the outline of a program ran in its place")
	}
	gas := g.tank.used()
	switch {
	case g.tank.exhausted():
		return Outcome{Kind: KindBudgetExhausted, Gas: &gas}, nil
	case g.tank.overflowed():
		return Outcome{Kind: KindStackExhausted, Gas: &gas}, nil
	}
	o, err := endedBy(ctx, g, err)
	o.Gas = &gas
	return o, err
}

// endedBy decides how a run ended whose counters are within their limits.
func endedBy(ctx context.Context, g *guest, err error) (Outcome, error) {
	switch g.end {
	case endedExit:
		if g.exitCode == 0 {
			return Outcome{Kind: KindOK}, nil
		}
		return Outcome{Kind: KindExit, ExitCode: g.exitCode}, nil
	case endedOutput:
		return Outcome{Kind: KindOutputTooLarge}, nil
	}
	if err == nil {
		return Outcome{Kind: KindOK}, nil
	}
	if exit := (*sys.ExitError)(nil); errors.As(err, &exit) && ctx.Err() != nil {
		return Outcome{}, fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx))
	}
	overflow := stackOverflow()
	switch {
	case overflow == nil:
		return Outcome{}, engineFault("the engine's stack overflow error is unknown")
	case errors.Is(err, overflow):
		return Outcome{}, engineFault("native stack used up; its depth is the engine's")
	case isTrap(err, overflow):
		return Outcome{Kind: KindTrap}, nil
	}
	return Outcome{}, engineFault("running: %w", err)
}

// isTrap reports whether err wraps an error of the same type as trap, the type
// the engine reserves for what WebAssembly calls traps.
func isTrap(err, trap error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if reflect.TypeOf(err) == reflect.TypeOf(trap) {
			return true
		}
	}
	return false
}

func trapText(err error) string {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	text := err.Error()
	return text[:min(len(text), maxTrapText)]
}

// stackOverflow returns the error value by which the engine, in both modes,
// reports a stack overflow. Its package is internal, so the value is obtained
// by making one: a function that calls itself, in the interpreter, whose stack
// is 2,000 frames.
var stackOverflow = sync.OnceValue(func() error {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	m, err := r.Instantiate(ctx, []byte("\x00asm\x01\x00\x00\x00"+
		"\x01\x04\x01\x60\x00\x00"+ // type 0: () -> ()
		"\x03\x02\x01\x00"+ // function 0 of type 0
		"\x07\x05\x01\x01f\x00\x00"+ // exported as f
		"\x0a\x06\x01\x04\x00\x10\x00\x0b")) // call 0
	if err != nil {
		return nil
	}
	_, err = m.ExportedFunction("f").Call(ctx)
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err
})
