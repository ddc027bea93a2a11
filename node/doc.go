// Package node is the worker of a cluster: it takes assignments from a control
// plane that it does not trust, verifies each against the witnessed logs, runs
// what the tenant asked for, and attests to the outcome.
//
// # What is verified before anything runs
//
// An assignment is a claim. Before it runs anything the node has
//
//   - the membership checkpoint under its policy, with fresh cosignatures, and
//     every change up to it, folded from the pinned genesis;
//   - the audit and request checkpoints under theirs, signed by a key that the
//     membership names, and consistent with every checkpoint it has kept;
//   - contract, request, epoch and reschedule records: each opening's entry
//     proven to be in the log, and all of them folded by the rules that verifiers
//     use (package provenance), which covers the tenant's signatures, the
//     contract's limits, and the schedule;
//   - that the schedule names this node, with an attestation key that is valid at
//     the pinned epoch and now;
//   - that every epoch it knows of is mirrored in the audit log, and the request
//     stands before the record of the epoch that follows its pin;
//   - the proof bundles of the parents;
//   - the digests of module and input.
//
// Whatever fails has a [RefusalCode], is logged and counted, and nothing runs.
//
// # What is tried again
//
// A refusal of what the assignment is lasts: it is not looked at again unless the
// control plane assigns it anew. What may pass by itself (the control plane or a
// log does not answer, no fresh membership checkpoint, an epoch that is not
// proven yet, a payload that is not there, a runner that failed) is tried again
// after growing pauses, during which other assignments have their turn. The table
// in retry.go says which is which. A run that was stopped by its guard would be
// stopped again: it is given up. What is given up for good the control plane is
// told, so that it does not wait; that is all the telling does. An assignment that
// went stale in the queue is not given up: the stream is opened anew for it.
//
// # What is never done
//
// No two different attestations of one execution leave the node: the envelope is
// durable before anything of the run leaves, and what is stored is sent again, also
// after a restart. If its payloads may not have been handed in, the execution is run
// again first; a machine that then finds another result hands in neither. Old
// envelopes are removed once a floor and a tombstone forbid attesting their
// executions anew (prune.go, tombstone.go). A checkpoint that contradicts a kept one is refused and kept with it
// as evidence. A node that has learned of its own removal attests no more.
//
// # How it is
//
// [Node.Status] says what runs, what was seen of the logs, and what is wrong, as
// [Problem] codes; the control plane is told the codes, the operator the details. A
// node that is stopped gives back what it has not begun or cannot finish.
//
// # Trust
//
// Trusted are the two policies, the genesis, the node's directory and its keys.
// The control plane and everything that it serves, tiles included, are not. The
// runner is trusted to be deterministic; who else runs the same is the
// schedule's matter.
//
// # Concurrency
//
// [Node.Run] owns all goroutines: one reads the stream, and each assignment has
// its own. Up to Capacity run modules while others are verified, have their
// payloads fetched, or are handed in; a bounded number waits. Tenants take turns
// and are served round robin, each of them first come first served, so that one
// whose modules never end delays another's by a run, not by a backlog. The first
// run of a module, which compiles it, leaves a place for others. See [Node] for who
// owns which state.
package node
