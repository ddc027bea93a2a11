// Package sandbox runs one WebAssembly module under a contract's limits and
// says, bit for bit repeatably, how it ended.
//
// A module is a WASI preview 1 "command" in any language. It sees its input on
// standard input, writes its output to standard output and diagnostics to
// standard error, and reads its arguments, environment, clock and randomness
// from host functions of our own: the clock is a counter, randomness is a
// function of the contract's seed and the input, and there are no files,
// sockets or threads. The table of these functions, and of the capabilities
// that grant them, is host interface version 1 (see [Capabilities]).
//
// # Trust
//
// The module, its input, and everything a worker process sends back are
// untrusted. [Admit] refuses statically whatever could differ between engines
// or exhaust the compiler. A [Pool] runs modules in worker processes that hold
// no keys, no environment and no descriptors but their pipes, and that the
// system confines ([Enforcement]), so that a fault of the engine's compiler
// reaches nothing of value; native code that workers share comes from processes
// that ran no guest; an [Engine] runs a module in this process and is what a
// worker uses.
//
// # Outcomes and errors
//
// An [Outcome] is a fact about (module, job): every node, architecture and
// run finds the same one. What is not such a fact is an error and never an
// Outcome: [ErrStopped] (cancelled, or the wall-clock guard passed) and
// [ErrEngineFault] (out of memory, worker died, compiler absent). A module
// that may not run at all is refused with a [*Refusal].
//
// # Metering
//
// A job with a gas limit runs the module as the rewriter made it (package
// rewrite): it counts its gas and its frames, NaNs have one form, and its outcome
// is read from the counters, never from an engine's words. Gas is handed out in
// slices; between two of them a run that was cancelled ends.
//
// A job without one runs the module as it is, for development: gas is absent
// from the outcome, a stack overflow is an engine fault because its depth is the
// engine's, NaN payloads are the engine's, and a module that loops for ever ends
// in ErrStopped.
//
// # Concurrency
//
// A Pool is safe for concurrent use. An [Engine] belongs to one goroutine.
package sandbox
