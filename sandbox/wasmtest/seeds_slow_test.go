//go:build slow

package wasmtest_test

const seeds = uint64(1000)
