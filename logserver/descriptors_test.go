package logserver

import (
	"runtime"
	"testing"
)

// TestConnectionLimit: a flood of connections leaves the files that the log needs.
func TestConnectionLimit(t *testing.T) {
	for _, c := range []struct {
		files         uint64
		logs          int
		store, accept int
	}{
		{100, 1, 100, minConnections},
		{300, 1, 100, minConnections},
		{1024, 1, 256, 576},
		{1024, 2, 256, 320},
		{4096, 1, 1000, 2904},
		{20000, 1, 1000, maxConnections},
		{1<<64 - 1, 1, 1000, maxConnections},
	} {
		if store, accept := storeFiles(c.files), connectionLimit(c.files, c.logs); store != c.store || accept != c.accept {
			t.Errorf("with %d files and %d logs: %d for a store, %d connections, want %d and %d", c.files, c.logs, store, accept, c.store, c.accept)
		}
	}
	if files := openFileLimit(); files == 0 || runtime.GOOS != "linux" && files != unknownFileLimit {
		t.Errorf("the limit of open files is %d", files)
	}
}
