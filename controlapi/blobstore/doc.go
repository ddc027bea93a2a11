// Package blobstore keeps payloads: modules, inputs, outputs and diagnostics.
//
// A payload is stored under its owner, the id of a principal, and its SHA-256
// digest, so that a digest resolves only in the namespace of its owner: knowing
// the digest of somebody else's payload opens nothing, and putting a payload
// says nothing about who else has it. Each is encrypted with
// XChaCha20-Poly1305 under a random key of its own. Keys live in a directory
// apart from the payloads, so that a backup of the one without the other is
// useless, and destroying a key is erasure, whatever copies of the payload
// exist.
//
// # Trust
//
// The payload directory is untrusted: the cipher authenticates every payload
// together with its owner and digest, and the digest of what was decrypted is
// compared, so whoever writes there can withhold payloads but neither change
// nor swap nor read them. Whoever reads the key directory too can read the
// payloads. Owners are checked for form and digests are 32 bytes, so neither
// can name a file outside the directories.
//
// # Durability and concurrency
//
// When Put returns, payload and key have been synced to disk with the
// directories that name them; when Erase returns, so has the removal of the
// key. All methods are safe for concurrent use; those on one payload exclude
// each other where they must. Two processes must not use the same directories.
package blobstore
