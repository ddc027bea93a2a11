// Package verifier checks proof bundles: files that prove one completed
// execution to somebody who trusts neither the server nor the network
// (docs/formats/bundle.md).
//
// A verifier needs three things, its [Trust], which it must have obtained from
// people and not from the cluster's server: the trust policy of the audit log,
// that of the membership log, and the genesis. Everything else is in the file:
//
//	report, err := verifier.VerifyBundle(file, verifier.Trust{
//		AuditPolicy:      auditPolicy,
//		MembershipPolicy: membershipPolicy,
//		Genesis:          genesis,
//	}, verifier.Options{})
//
// Only a nil error means that the execution is proven. The [Report] lists the
// seven steps with their findings, also when one failed, and says in words what
// is proven and what a bundle cannot prove. Each way to fail has a [Code].
//
// # Trust
//
// The bundle is suspect, every byte of it. Whoever can change the Trust decides
// what is believed. The package does no I/O and reads no clock: a bundle that
// verifies today verifies for ever.
//
// The rules live in pure packages: record, membership, contract, provenance and
// verifier/checkpoint. This package puts them in order. It links nothing of the
// servers and compiles for GOOS=js GOARCH=wasm. Package verifier/tiles audits
// whole logs.
//
// All functions are safe for concurrent use.
package verifier
