//go:build !slow

package provenance_test

// histories is how many random histories TestFoldAgainstReference goes through.
const histories = 16
