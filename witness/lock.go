package witness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/internal/dirlock"
)

// ErrLocked: another process serves from the directory.
var ErrLocked = errors.New("directory is in use by another process")

// lockDir takes the directory for this process until the file is closed, or the
// process ends in whatever way.
func lockDir(dir string) (*os.File, error) {
	f, err := dirlock.Lock(filepath.Join(dir, "lock"))
	switch {
	case errors.Is(err, dirlock.ErrHeld):
		return nil, fmt.Errorf("%w: %q (two witnesses must not share one; stop the other)", ErrLocked, dir)
	case err != nil:
		return nil, fmt.Errorf("locking directory: %w", err)
	}
	return f, nil
}
