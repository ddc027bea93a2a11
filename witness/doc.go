// Package witness cosigns the checkpoints of transparency logs that only grow.
// It implements c2sp.org/tlog-witness: add-checkpoint and the monitoring
// endpoint, with Ed25519 and ML-DSA-44 cosignatures (c2sp.org/tlog-cosignature).
//
// # What it promises
//
// For one origin it never cosigns two checkpoints that are not consistent, and
// never a smaller one after a larger one. It keeps that promise over races,
// crashes and failing disks: a checkpoint is on disk, and has replaced exactly
// the one that it was checked against, before its cosignature leaves the
// process. When a write has failed and may or may not have happened, the origin
// is refused until its head has been read back from disk and written again.
//
// All submission prefixes, whichever keys they answer with, share one head per
// origin, so what one key has cosigned binds the other.
//
// # Trust
//
// Requests are suspect in every byte; what gets past the log's signature is
// still checked as if the log were malicious. The policy file and the
// directory are trusted: whoever can write the directory can roll the witness
// back, and whoever can read it can sign in its name. One process owns the
// directory at a time. Restoring it from a backup rolls it back; a witness whose
// directory is lost should start over under a new name and new keys.
//
// # Directory
//
//	ed25519.pem, mldsa44.pem    private keys, mode 0600
//	vkeys                       their verifier keys, one a line
//	lock                        held while a process serves
//	heads/<origin hash>         the signed note cosigned last, with cosignatures
//	evidence/<origin hash>-...  checkpoints of a log that do not go together
//
// # HTTP
//
// Requests and answers are signed and public, so the server speaks plain HTTP.
// Put a proxy in front of it for TLS; what a proxy can do is keep silent.
//
// # Concurrency
//
// A Witness is safe for concurrent use. Requests for different origins do not
// wait for each other.
package witness
