//go:build slow

package witness

// thorough makes the fault tests try every combination.
const thorough = true
