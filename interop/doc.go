// Package interop tests our programs with other people's software:
//
//   - Tessera's client, fsck (library and program), hammer, mirror and
//     integration test, on our log, on our static copy of it behind a plain file
//     server, and on a log of Tessera's that we have imported;
//   - golang.org/x/mod/sumdb/tlog on our tiles and proofs;
//   - torchwood's client on our log, and its litewitness as our witness, with its
//     key in an ssh-agent;
//   - a log of Tessera's that our witness cosigns, for torchwood to verify;
//   - sigstore's and in-toto's libraries on the attestations of a proof bundle.
//
// It is a module of its own so that the product depends on none of them; the
// programs are built from the versions in go.mod. It wants ours in ../bin, where
// scripts/build puts them; scripts/test-slow runs it. Everything is on loopback,
// and every program has a limit to its time.
package interop
