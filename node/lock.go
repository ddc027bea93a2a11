package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/internal/dirlock"
)

// ErrLocked says that another process works from the directory.
var ErrLocked = errors.New("directory is in use by another process; two nodes must not share one")

// lockDir takes the directory until the file is closed or the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := dirlock.Lock(filepath.Join(dir, "lock"))
	if errors.Is(err, dirlock.ErrHeld) {
		return nil, fmt.Errorf("%w: %q", ErrLocked, dir)
	}
	return f, err
}
