// Package interop tests our programs with other people's software: Tessera's
// client, its fsck and hammer, and torchwood's client. It is a module of its
// own so that the product depends on none of them. It wants the programs in
// ../bin, where scripts/build puts them; scripts/test-slow runs it.
package interop
