package logserver

import "github.com/tallystick/tallystick/logserver/internal/direct"

// How the files that a process may have open are divided. A process that has
// none left cannot write down what it has signed, and stops: that must not be in
// the hands of who opens connections.
const (
	// minStoreFiles and maxStoreFiles bound what Pebble keeps open to read, of
	// each store.
	minStoreFiles = 100
	maxStoreFiles = 1000
	// otherFiles is for everything else: what a flush or a copy writes, witnesses,
	// connections that are being refused, and the second descriptor that a
	// connection has while a loop takes it over.
	otherFiles = 128 + direct.MaxRefusing
	// minConnections is served in any case.
	minConnections = 16
	// unknownFileLimit is taken for the limit of a system that does not say.
	unknownFileLimit = 1 << 20
)

// storeFiles returns how many files a store keeps open to read when the process
// may have limit open.
func storeFiles(limit uint64) int {
	return int(min(max(limit/4, minStoreFiles), maxStoreFiles))
}

// connectionLimit returns how many connections may be open at once beside some
// stores when the process may have limit files open.
func connectionLimit(limit uint64, stores int) int {
	limit = min(limit, 1<<30)
	return min(max(int(limit)-stores*storeFiles(limit)-otherFiles, minConnections), maxConnections)
}

// ConnectionLimit returns how many connections a process may have open at once so
// that files are left for this many logs, from the system's limit of open files:
// 8,192 at most. Serve keeps to it for the one log that it serves.
func ConnectionLimit(logs int) int { return connectionLimit(openFileLimit(), logs) }
