// Package record is the private content of the audit log: the record kinds,
// their one canonical wire form, and the commitment that turns a record into a
// public entry (docs/formats/record.md).
//
// A record's bytes are checked by [Check], which walks the protobuf wire form
// against the schema and accepts exactly one encoding of every message. It is
// applied when a record is written ([Marshal]) and when one is read ([Parse]),
// so the library that encodes and decodes the fields is never trusted to be
// deterministic, and nothing is ever serialised again before it is hashed: an
// [Opening] keeps the bytes it was made from.
//
// # Trust
//
// Bytes are suspect until Parse has returned nil. A parsed record is well
// formed: its version, identifiers, lengths and counts are in range. It is not
// authentic: envelopes inside are unverified, and whether a record has any
// effect is for package provenance to say. Salts must come from a
// cryptographic random source and never be used twice; whoever learns a salt
// can test guesses of the record.
//
// The package does no I/O, reads no clock and holds no mutable state. All
// functions are safe for concurrent use.
package record
