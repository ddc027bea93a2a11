// Package dirlock keeps a second process away from a directory: who works from it
// holds the lock of a file in it. The lock is the operating system's, on the file
// as it is open, so it ends with the process in whatever way that ends, and a file
// that is left behind locks nobody out. It binds those that ask for it only, and
// on a network file system it may not reach other machines.
package dirlock

import "errors"

// ErrHeld says that the lock is held: by another process, or through another
// opening of the file in this one.
var ErrHeld = errors.New("the lock is held by another process")
