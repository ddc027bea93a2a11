package sandbox

import "context"

// runDirect runs one job in this process with a fresh compiler-mode engine.
func runDirect(ctx context.Context, job Job) (*Result, error) {
	e := NewEngine(EngineConfig{})
	defer e.Close()
	return e.Run(ctx, job)
}
