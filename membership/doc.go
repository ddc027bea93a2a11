// Package membership decides who may act in a cluster: it folds signed changes
// into one [State] per epoch and derives from it the membership hash, its
// proofs, the cluster identity hash, the validity of keys and the schedule of
// an execution (docs/formats/membership.md).
//
// # Use
//
// [Genesis] makes the first state from the first entry of the membership log,
// [State.Apply] each further one. [History] does both for a whole log and
// remembers every epoch. To make a change, take an [Effect], let
// [State.Propose] (or [ProposeGenesis]) write the payload, show
// [State.Describe] to each signer, and collect their signatures in a DSSE
// envelope of type [PayloadType].
//
// # Trust
//
// Envelopes are untrusted: they come from strangers, or from a log that may
// lie. A returned State is trusted exactly as far as the genesis envelope that
// the fold began with, which the caller pins. Proofs ([CheckMember],
// [CheckAbsent]) are untrusted until checked against a membership hash and
// count that come from a state or from a witnessed change.
//
// Everything is a function of the bytes given: the same envelopes make the same
// states, hashes and refusals on every machine.
//
// # Concurrency
//
// A State is immutable and safe for concurrent use. A History is safe for
// concurrent use too; appends are serialised. All other values may be shared
// as long as nobody changes them.
package membership
