//go:build !slow

package witness

// thorough is set in the slow tests: the fault tests try every combination then,
// and a choice of them otherwise.
const thorough = false
