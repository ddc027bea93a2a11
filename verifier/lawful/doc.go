// Package lawful judges evidence that the log of a cluster's membership holds a
// change that no rule allows (docs/formats/evidence.md).
//
// A log that only grows is not yet an honest one: whoever owns a membership log
// can append what the admins never signed and have ordinary witnesses cosign
// it, since they look at the tree and not at what is in it. A cosigner of lawful
// membership (package witness) looks, refuses, and leaves [Evidence]. Anybody
// who has the cluster's genesis can judge it offline:
//
//	verdict, err := evidence.Judge(genesis)
//
// which is what `verifier evidence FILE` does.
//
// # Trust
//
// The genesis is trusted, and everything follows from it: the rules' signers,
// the log's origin and its keys. The evidence is suspect in every byte. The
// package does no I/O and reads no clock; it links nothing of the servers and
// compiles for GOOS=js GOARCH=wasm. All functions are safe for concurrent use.
package lawful
