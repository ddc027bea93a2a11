//go:build !slow

package wasmtest_test

// seeds is the number of random modules that each test tries.
const seeds = uint64(60)
