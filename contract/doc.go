// Package contract holds what may run and who asked for it: contracts,
// retirements, submissions and cancellations as docs/formats/contract.md
// defines them, and the outcome of a run (docs/formats/execution.md).
//
// # Trust
//
// Every payload here travels in a DSSE envelope signed by a tenant key, and
// reaches this package from strangers. [OpenContract] and its siblings parse
// strictly, verify the signature over the bytes received, and return a value
// only when every rule of the format holds that can be checked without the
// log: a returned value is well formed and signed by one of the keys given.
// Whether that key was valid, the contract registered and not retired, or the
// parents complete is for the fold over the log to say.
//
// Hashes are always taken of the bytes received, never of a re-encoding.
//
// # Concurrency
//
// The package is pure: no I/O, no clock, no globals that change. Values may be
// shared between goroutines as long as nobody changes them.
package contract
