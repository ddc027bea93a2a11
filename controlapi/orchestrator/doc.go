// Package orchestrator is the core of the control plane: it admits contracts
// and submissions, keeps the audit log and the fold over it, mirrors membership
// epochs, schedules executions, derives the records that the fold implies and
// assembles proofs. Callers have been authenticated; what they may do beyond
// their own tenant is the API edge's to decide (docs/architecture.md).
//
// # Trust
//
// Nobody trusts this package for more than availability and discretion. It
// verifies every envelope before it appends it, because a record that the fold
// finds void would be a receipt for nothing, but verifiers and nodes repeat
// every check. Envelopes, modules and inputs are untrusted bytes; the logs and
// the blob store are trusted to keep what they were given.
//
// # The rules are the fold's
//
// Whether a record takes effect is decided by package provenance alone. Every
// mutation builds its record, asks the fold whether the record would take
// effect after everything applied so far, and appends it guarded by the
// registers that this judgement rested on: "epoch" is the current epoch,
// "retired/<contract hash>" is 1 once a contract is retired, and
// "x/<execution id>" counts the records of an execution that took effect. If a
// guard does not hold, the log has moved on: the record is built and judged
// again.
//
// # Concurrency
//
// One goroutine, the applier, reads the audit log in index order and applies it
// to the view. Only it changes what the log implies; everybody else reads under
// the view's read lock, and holds it for no I/O. (Deadlines and abandonments,
// which the log does not imply, are set under the write lock by the timers and
// by Abandon.) An operation that
// makes a record of its own answers after the view covers it, so everyone reads
// their writes. The deriver appends what the view asks for: provenance and
// divergence records, and reschedule and expired records when deadlines have
// passed. Two followers wait for published checkpoints; each stream and each
// watch has a goroutine that ends with it. Starting up is the same code from
// index 0. All methods of Orchestrator are safe for concurrent use; Close waits
// for its goroutines.
package orchestrator
