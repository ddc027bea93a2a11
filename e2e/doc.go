// Package e2e drives the real programs as separate processes over loopback, as
// a user would: `tally dev`, the command line, the Go client, kill -9. Its
// tests have the build tag e2e and want the programs in bin/, where
// scripts/build puts them; scripts/test runs both.
package e2e
