// Package compare holds the checkpoints that several parties show of one log
// against each other, and proves it if the log has shown two histories.
//
// A log can only lie about its past by showing different trees to different
// people, or at different times. [Comparison.Run] asks the log, its mirrors and
// the witnesses what they were shown, at the same time, and adds what an earlier
// run has seen. Each view that the log's key signed must be a prefix of the newest
// one: the root hashes that it takes are computed from tiles (c2sp.org/tlog-tiles)
// that are verified against the newer checkpoint. Two views of which neither
// extends the other are a split, and leave [checkpoint.Evidence] that a third
// party can judge without asking anybody.
//
// What is late is not a split: a mirror or witness may be behind the log. A
// source that shows less than it showed itself in an earlier run has gone back,
// which an old cache does too and a witness never may. A source that does not
// answer, or shows what the log did not sign, changes nothing for the others.
//
// # Trust
//
// The [checkpoint.Policy] and the [State] are trusted. Sources are suspect in
// every byte, and nothing but the log's own signature counts as its word. Tiles
// can come from any source, since they are verified.
//
// # Concurrency
//
// Run asks all sources at a time, and all goroutines have ended when it returns.
// A Comparison does not change and may be used by several goroutines; a State by
// one at a time.
package compare
