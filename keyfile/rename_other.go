//go:build !linux

package keyfile

import "errors"

// renameNew would rename a file unless the name is taken, in one step.
func renameNew(_, _ string) error { return errors.ErrUnsupported }
