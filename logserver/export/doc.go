// Package export keeps a static copy of a log's public read path,
// c2sp.org/tlog-tiles, in a directory or a bucket, so that any file server or
// CDN can serve reads.
//
// An [Exporter] brings the copy up to the log's published checkpoint: it writes
// entry bundles and tiles, full and at the widths that the checkpoint implies,
// makes them durable, and replaces the checkpoint last. So whoever reads the
// copy at any time finds everything that its checkpoint implies, and a reader
// of an older checkpoint keeps finding what that one implied. Objects are
// byte for byte what the log itself serves. [Keep] does it again after each
// publication.
//
// There is no state beside the copy. A run verifies the copy's own checkpoint
// and goes on from there; what an interrupted run left beyond it is read back,
// verified, and not written again.
//
// # Trust
//
// The log's key is trusted. What is read, from the log and from the copy, is
// suspect: nothing is written that has not been verified against the log's
// checkpoint, and a copy that holds another log's checkpoint, or one that the
// log's tree does not lead to, is never touched. Whoever can write to the target
// can damage or withhold the copy; a client that verifies is not deceived by it.
//
// # Concurrency
//
// An Exporter must not be used by two goroutines at a time, and a target has one
// exporter. Two of the same log do no harm beyond a checkpoint that goes back
// for a moment: what they write is the same.
package export
