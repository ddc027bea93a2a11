// Package logserver is an append-only Merkle log in one Pebble store: it
// sequences, integrates, signs, gathers cosignatures for, publishes and serves
// entries according to c2sp.org/tlog-tiles, c2sp.org/tlog-checkpoint and, as a
// client, c2sp.org/tlog-witness.
//
// # Life of an entry
//
// [Log.Append] hashes the entry on its caller's goroutine and adds it to the
// batch that is gathering. The sequencer takes the batch, decides on
// deduplication keys and guards, gives every accepted entry its index and
// writes entries, openings, tree hashes, registers and the new head in one
// Pebble commit with one sync. The next batch is whatever arrived meanwhile: a
// large one is built while that sync is under way, a small one after it. Nothing
// is shown or answered before its own sync has returned, and answers are in order.
// When Append returns, the entry is therefore
//
//   - sequenced: its index is durable and belongs to no other data, ever, and
//   - integrated: the head that Append returns covers it.
//
// A publisher goroutine works in rounds. Each takes the newest tree and makes it
//
//   - signed: checked from stored bytes to extend the last signed one, signed
//     by the log key, and stored before it leaves the process; and then
//   - published: cosigned by witnesses until the policy is satisfied, stored,
//     and served. A published checkpoint that satisfies the policy is witnessed.
//
// # Trust
//
// A client needs to trust nothing here: it verifies the published checkpoint
// under its own policy, and everything else against that. The store is trusted
// to keep what it has acknowledged; bytes that rot or were changed in it are
// found before they are signed. A store that is older than what the witnesses
// have seen is found when it is opened, before anything is signed or appended.
// Witnesses are asked over the network and their answers are suspect: only
// cosignatures that verify under the policy's keys count. Entries are public.
// Openings are private; [Handler] never serves them.
//
// Deduplication keys, guards and registers are conveniences for the embedder,
// enforced by the sequencer; the tree does not commit to them.
//
// # HTTP
//
// [Handler] and [ReadHandler] serve what docs/formats/log-http.md specifies, and
// [Serve] runs them, and answers plain appends itself. Strangers send requests:
// everything that one of them can make the log hold is bounded, in bytes of bodies
// and replies, entries that wait, streams and connections, and what is beyond a
// bound is refused with 503. Every refusal has a code of a closed set, over HTTP
// and in the metrics.
//
// # Concurrency
//
// All methods of [Log] are safe for concurrent use. The sequencer's first
// goroutine owns the edge of the tree, its second the groups that are applied;
// the publisher goroutine owns the rounds; readers use immutable views that the
// sequencer replaces after each sync. [Log.Close] stops them in that order and
// blocks until they have ended.
//
// # Errors
//
// An error whose outcome is unknown stops the log from writing anything until
// it has been opened again (ErrReload). When the store cannot even return such
// an error it goes to Options.Fatal, which ends the process: the same rule, kept
// by a restart. Opening is always a recovery: a clean stop and a power cut leave
// the same kind of store. A full disk is no such error: appends are refused with
// ErrDiskFull before the store meets it, and resume by themselves.
package logserver
