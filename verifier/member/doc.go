// Package member checks a membership proof: that a principal was a member of a
// cluster at an epoch, with which keys, or that it was none
// (docs/formats/membership-proof.md). One file is enough, and no network.
//
//	report, err := member.Verify(file, member.Trust{Policy: policy, Genesis: genesis},
//		member.Question{Principal: "node-1", Epoch: 7})
//
// # Trust
//
// The policy says which checkpoints of the membership log are acceptable, the
// genesis which cluster it is; both come from people and are believed. The file
// is suspect in every byte, and so are the changes that a caller may give
// beside it. Without them it is not checked that the changes up to the epoch
// were lawful: the report says what that rests on.
//
// The package does no I/O and reads no clock; it links nothing of the servers
// and compiles for GOOS=js GOARCH=wasm. All functions are safe for concurrent
// use.
package member
