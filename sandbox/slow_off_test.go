//go:build !slow

package sandbox

// slowTests reports whether tests that take long run too.
const slowTests = false
