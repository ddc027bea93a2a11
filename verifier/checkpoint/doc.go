// Package checkpoint reads, signs, cosigns and judges the statements that a
// transparency log makes about its tree.
//
// It implements, to the text of the specifications:
//
//   - signed notes and verifier keys, c2sp.org/signed-note;
//   - checkpoints, c2sp.org/tlog-checkpoint;
//   - cosignatures by witnesses, c2sp.org/tlog-cosignature: Ed25519 (type 0x04)
//     and ML-DSA-44 (type 0x06);
//   - trust policies, c2sp.org/tlog-policy;
//   - offline proofs, c2sp.org/tlog-proof, and the RFC 6962 inclusion and
//     consistency proofs that they rest on.
//
// # Trust
//
// Everything that comes in as bytes is suspect until the function that took it
// says otherwise. A [Checkpoint] from [Parse] or [ParseAny] is only well
// formed; one from [Open] was signed by a pinned key of the log; one from
// [Policy.Verify] was signed by a log of the policy and cosigned by a quorum of
// its witnesses. A [Policy] and the keys in it are trusted: whoever writes the
// policy decides what is believed.
//
// Signatures by keys that nobody named are ignored, as the note specification
// demands. A signature that carries the name and ID of a named key and does not
// verify makes the whole note unacceptable.
//
// # Purity
//
// The package does no I/O and reads no clock: times are arguments. It holds no
// mutable state, so all functions and all methods are safe for concurrent use,
// as long as the caller leaves the slices that it passed in alone. It compiles
// for GOOS=js GOARCH=wasm, where the browser runs the same checks.
package checkpoint
