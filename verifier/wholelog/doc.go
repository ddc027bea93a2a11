// Package wholelog recomputes what a whole audit log says: the state of every
// execution, which records are void, and the trees that the log had on the way.
// It is what the programs of auditors have in common.
//
//	members, err := wholelog.Membership(wholelog.Entries(ctx, membershipLog), genesis)
//	log, err := wholelog.Read(wholelog.Opened(ctx, auditLog, openings.Next), members, nil)
//	for ex := range log.Fold.Executions() { … }
//
// # Trust
//
// The genesis is trusted. Entries are what the log committed to: [Entries] and
// [Opened] prove each against the checkpoint of their [tiles.Source]; whoever has
// them from elsewhere compares [Log.Root] with a checkpoint before anything rests
// on what was read. Openings are suspect: each is held against its entry. What is
// read here is not replayed: that an attested outcome is right takes a run of the
// module.
//
// # Errors
//
// What can be wrong with the logs is a closed set: the Err values of this package
// and [provenance.ErrOpening]. Errors of what entries and openings come from are
// returned as they are.
//
// # Concurrency
//
// A [Log] does not change any more and may be read by several goroutines. The
// package links nothing of the servers and compiles for GOOS=js GOARCH=wasm.
package wholelog
