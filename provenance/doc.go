// Package provenance is what happened: it folds the records of the audit log
// into executions, decides their agreement, derives the provenance record and
// the chain, and defines the proof bundle that carries them to a stranger
// (docs/formats/execution.md and docs/formats/bundle.md).
//
// # The fold
//
// [Fold.Apply] takes the records of an audit log in order. The state that it
// makes is a function of those records and of the membership log alone: the
// control plane, a replica and an auditor that fold the same log hold the same
// state. A record that is not valid in the state it meets is void: it changes
// nothing, and the [Effect] carries one of a closed set of codes. [Fold.Check]
// answers beforehand, by the same rules, whether a record would be void.
//
// A fold begins at entry 0 of the log, or is partial: [NewPartialFold] folds
// the records that a proof bundle holds, which leave out what the bundle does
// not need. What a partial fold takes on trust is listed there.
//
// # Trust
//
// Records are suspect: envelopes are parsed strictly, signatures verified with
// the keys that membership knows, and every value that the records imply is
// compared. Membership is trusted as far as the genesis that the caller pinned.
// That a record stands at its index of the log is for the caller to prove.
//
// # Concurrency
//
// The package does no I/O and reads no clock. Of a Fold's methods only Apply
// changes it: the others may run in parallel with each other and not with Apply.
// The values that they return are copies, or never change.
package provenance
