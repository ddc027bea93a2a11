package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/tallystick/tallystick/verifier/tiles"
)

const (
	// workDir holds files that are being written, below the copy so that a
	// rename moves them within one file system. It is never served by a name
	// that tlog-tiles knows.
	workDir = ".export"
	// abandoned is the age after which a file in workDir is nobody's.
	abandoned = time.Hour
	// syncSingly is up to how many files are synced one by one. Beyond it the
	// file system is asked once, which is much cheaper for the files and not
	// worth disturbing its other users for a few.
	syncSingly = 256
)

// dirTarget is a directory. A file appears under its name by a rename; its bytes
// and its name are durable after flush, and those of the checkpoint at once.
type dirTarget struct {
	root  string
	fetch tiles.Fetch

	mu sync.Mutex
	// written holds the files that were renamed since the last flush, made the
	// directories that were seen to exist, and fresh those with new names in them.
	written []string
	made    map[string]bool
	fresh   map[string]bool
}

// openDir opens a copy in a directory, which it creates with its parents.
func openDir(root string) (*dirTarget, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	d := &dirTarget{root: root, fetch: tiles.Dir(root), made: map[string]bool{}, fresh: map[string]bool{}}
	if err := d.mkdir(filepath.Join(root, workDir)); err != nil {
		return nil, err
	}
	return d, d.sweep()
}

// sweep removes what interrupted runs left in the work directory.
func (d *dirTarget) sweep() error {
	files, err := os.ReadDir(filepath.Join(d.root, workDir))
	if err != nil {
		return err
	}
	for _, file := range files {
		if info, err := file.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			if err := os.Remove(filepath.Join(d.root, workDir, file.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// mkdir creates a directory with its parents and remembers which names are new.
func (d *dirTarget) mkdir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mkdirLocked(dir)
}

func (d *dirTarget) mkdirLocked(dir string) error {
	if d.made[dir] {
		return nil
	}
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.mkdirLocked(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o755)
	}
	switch {
	case err == nil:
		d.fresh[filepath.Dir(dir)] = true
	case errors.Is(err, fs.ErrExist):
		if info, statErr := os.Stat(dir); statErr != nil || !info.IsDir() {
			return fmt.Errorf("%q is not a directory", dir)
		}
	default:
		return err
	}
	d.made[dir] = true
	return nil
}

func (d *dirTarget) read(ctx context.Context, name string, limit int64) ([]byte, error) {
	return d.fetch(ctx, name, limit)
}

func (d *dirTarget) write(ctx context.Context, name string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := d.put(name, data)
	if errors.Is(err, fs.ErrNotExist) { // somebody has removed directories
		d.mu.Lock()
		clear(d.made)
		d.mu.Unlock()
		err = d.put(name, data)
	}
	return err
}

// put writes a file in directories that it makes, unless they were seen before.
func (d *dirTarget) put(name string, data []byte) (err error) {
	file := filepath.Join(d.root, filepath.FromSlash(name))
	for _, dir := range []string{filepath.Join(d.root, workDir), filepath.Dir(file)} {
		if err := d.mkdir(dir); err != nil {
			return err
		}
	}
	f, err := os.CreateTemp(filepath.Join(d.root, workDir), path.Base(name)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	// The checkpoint replaces one that readers rely on, so that its bytes must
	// be there before its name is.
	if name == checkpointName {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written = append(d.written, file)
	d.fresh[filepath.Dir(file)] = true
	return f.Close()
}

// flush fails once for what somebody has removed since it was written, and forgets
// it: it cannot become durable, and the next run finds that it is missing.
func (d *dirTarget) flush(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.written) > syncSingly {
		done, err := syncFileSystem(d.root)
		if err != nil {
			return fmt.Errorf("syncing the file system of %q: %w", d.root, err)
		}
		if done {
			d.written, d.fresh = nil, map[string]bool{}
			return nil
		}
	}
	var gone error // the first
	for len(d.written) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch err := syncPath(d.written[0]); {
		case errors.Is(err, fs.ErrNotExist):
			gone = cmp.Or(gone, err)
		case err != nil:
			return err
		}
		d.written = d.written[1:]
	}
	for dir := range d.fresh {
		switch err := syncPath(dir); {
		case errors.Is(err, fs.ErrNotExist):
			gone = cmp.Or(gone, err)
		case err != nil:
			return err
		}
		delete(d.fresh, dir)
	}
	return gone
}

// syncPath makes a file's bytes or a directory's names durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *dirTarget) close() error { return nil }
