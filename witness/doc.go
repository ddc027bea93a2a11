// Package witness cosigns the checkpoints of transparency logs that only grow.
// It implements c2sp.org/tlog-witness: add-checkpoint and the monitoring
// endpoint, with Ed25519 and ML-DSA-44 cosignatures (c2sp.org/tlog-cosignature).
// With a LawfulConfig it is a cosigner of lawful membership, which also holds
// every change of a membership log to the rules. docs/witness.md has the
// specification sentence by sentence, with the tests.
//
// # What it promises
//
// For one origin it never cosigns two checkpoints that are not consistent, and
// never a smaller one after a larger one. It keeps that promise over races,
// crashes and failing disks: a checkpoint is on disk, and has replaced exactly
// the one that it was checked against, before its cosignature leaves the
// process. When a write has failed and may or may not have happened, nothing is
// cosigned until all heads are on disk anew.
//
// All submission prefixes, whichever keys they answer with, share one head per
// origin, so what one key has cosigned binds the other.
//
// A cosigner of lawful membership promises in addition that the tree it cosigned
// holds nothing but lawful changes of the genesis that it was given, and that a
// key which they name has signed it.
//
// # Trust
//
// Requests are suspect in every byte; what gets past the log's signature is
// still checked as if the log were malicious. So is what a cosigner reads from a
// membership log, at the address that its operator has configured and nowhere
// else. The policy file, the genesis and the directory are trusted: whoever can
// write the directory can roll the witness back, and whoever can read it can
// sign in its name. One process owns the directory at a time. Restoring it from
// a backup rolls it back; a witness whose directory is lost should start over
// under a new name and new keys.
//
// # Directory
//
//	ed25519.pem, mldsa44.pem    private keys, mode 0600
//	vkeys                       their verifier keys, one a line
//	lock                        held while a process serves
//	heads                       journal of what was cosigned, see journal.go
//	evidence/<origin hash>-...  what logs have signed and should not have
//	genesis.json, changes       of a cosigner of lawful membership only: its
//	                            genesis, and the lawful changes after it
//
// # Limits
//
// Memory is bounded by the logs that policies have named, times the longest
// checkpoint (usually 4 kB, with extension lines at most 128 kB), by the requests
// under way, and by the changes of one membership log. The journal is written
// anew when it has doubled.
//
// # Concurrency
//
// A Witness is safe for concurrent use. Requests for different origins do not
// wait for each other but for the disk, which takes them in groups.
package witness
