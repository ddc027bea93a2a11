//go:build !unix

package sandbox

import "os"

// A poolDir is the directory of a pool.
type poolDir struct{ path string }

// makePoolDir makes a directory in parent. One that a killed process left stays.
func makePoolDir(parent string) (poolDir, error) {
	path, err := os.MkdirTemp(parent, poolPrefix)
	return poolDir{path}, err
}

func (d poolDir) remove() error { return os.RemoveAll(d.path) }
