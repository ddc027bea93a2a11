package logserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// RestoreOptions say what to restore, and to where.
type RestoreOptions struct {
	// From is the directory of a backup.
	From string
	// Dir will hold the store: it does not exist, or is empty.
	Dir string
	// Progress, if not nil, is told how many bytes have been copied, of how many.
	Progress func(done, size int64)
	Logger   *slog.Logger

	fs vfs.FS
}

// restoreStaging is what a store is called while it is being restored, and
// restoreLock is a file beside it that whoever does that holds.
const (
	restoreStaging = ".restoring"
	restoreLock    = restoreStaging + ".lock"
)

// RestoreReport says what a Restore did.
type RestoreReport struct {
	*BackupManifest
	// Before says that the store had been made from this backup before, and was
	// left as it is.
	Before bool
}

// Restore makes a store from a backup, after it has found every file of it to be
// the one that was backed up. The store is marked: the log that is opened on it
// serves reads, and does not sign or append until CatchUp. An interrupted
// Restore is begun anew by the same call; after one that was complete it changes
// nothing, for as long as the store is marked. ErrLocked means that another Restore
// to the same place is under way.
func Restore(ctx context.Context, o RestoreOptions) (_ *RestoreReport, err error) {
	if o.fs == nil {
		o.fs = vfs.Default
	}
	o.Dir = filepath.Clean(o.Dir) // a slash at its end would put what is beside it into it
	fs := o.fs
	m, err := readManifest(fs, o.From)
	if err != nil {
		return nil, err
	}
	release, err := lockRestore(fs, o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = release(err) }()
	staging := fs.PathJoin(fs.PathDir(o.Dir), fs.PathBase(o.Dir)+restoreStaging)
	names, err := fs.List(o.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("looking at where the store goes: %w", err)
	}
	if len(names) > 0 {
		if err := restoredBefore(m, o); errors.Is(err, ErrLocked) {
			return nil, err
		} else if err != nil {
			return nil, fmt.Errorf("%w: %q is not empty, and not a store from this backup that has yet to catch up (%v); restore to another directory",
				ErrExists, o.Dir, err)
		}
		// The call that made it may have ended before its name was durable.
		return &RestoreReport{m, true}, errors.Join(fs.RemoveAll(staging), syncDir(fs, fs.PathDir(o.Dir)))
	}

	// 1. Copy to another name. Crash here, and up to step 3: begin anew.
	if err := fs.RemoveAll(staging); err != nil {
		return nil, fmt.Errorf("removing what an earlier restore left: %w", err)
	}
	if err := makeDir(fs, staging); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil { // it may be the room that is missing
			err = errors.Join(err, fs.RemoveAll(staging))
		}
	}()
	if err := copyFromBackup(ctx, m, staging, o); err != nil {
		return nil, err
	}

	// 2. Look at it, and mark it, before it has its name: no store that a log
	// can be opened on is ever without the mark.
	if err := markRestored(m, staging, o); err != nil {
		return nil, fmt.Errorf("opening the restored store: %w", err)
	}
	if err := syncDir(fs, staging); err != nil {
		return nil, err
	}

	// 3. Give it its name. Crash after it: doing this again finds the store.
	if err := freeName(fs, o.Dir); err != nil {
		return nil, err
	}
	if err := fs.Rename(staging, o.Dir); err != nil {
		return nil, err
	}
	return &RestoreReport{m, false}, syncDir(fs, fs.PathDir(o.Dir))
}

// lockRestore makes sure that nobody else restores to a directory until release is
// called, with how the restore ended.
func lockRestore(fs vfs.FS, dir string) (release func(error) error, err error) {
	parent := fs.PathDir(dir)
	if err := makeDir(fs, parent); err != nil {
		return nil, err
	}
	name := fs.PathJoin(parent, fs.PathBase(dir)+restoreLock)
	lock, err := fs.Lock(name)
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		return nil, storeError(err) // the file cannot be made
	}
	if err != nil {
		return nil, fmt.Errorf("%w: another restore to %q is under way (%v)", ErrLocked, dir, err)
	}
	return func(err error) error {
		if err == nil {
			// Somebody may take hold of the file just now, and somebody else of the
			// next of its name: both find the store. After an error it stays.
			if err = fs.Remove(name); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		}
		return errors.Join(err, lock.Close())
	}, nil
}

// freeName removes the empty directory that may have the name of the store. What
// was put into it since the restore began stays.
func freeName(fs vfs.FS, dir string) error {
	switch names, err := fs.List(dir); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(names) > 0:
		return fmt.Errorf("%w: %q was filled while the backup was copied; restore to another directory", ErrExists, dir)
	}
	return fs.Remove(dir)
}

// restoreMark is what marks a store that was made from a backup.
func (m *BackupManifest) restoreMark() []byte {
	return fmt.Appendf(nil, "a backup of %s at tree size %d", m.Created.Format(time.RFC3339), m.Size)
}

// restoredBefore returns nil if a store was made from the backup and still has
// its mark. It may have begun to catch up since.
func restoredBefore(m *BackupManifest, o RestoreOptions) (err error) {
	s, err := OpenStore(StoreOptions{Dir: o.Dir, ReadOnly: true, Logger: o.Logger, fs: o.fs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.Origin() != m.Origin {
		return fmt.Errorf("it is of %q, the backup of %q", s.Origin(), m.Origin)
	}
	mark, err := s.store.get(metaRestored)
	if errors.Is(err, ErrNotFound) {
		return errors.New("it has no mark of a restore: if it came from there, it has caught up and is complete")
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(mark, m.restoreMark()) {
		return fmt.Errorf("it comes from %s", mark)
	}
	tree, err := s.store.snapshot()
	if err != nil {
		return err
	}
	root, err := tree.rootAt(m.Size)
	if err != nil {
		return err
	}
	if root.String() != m.Root {
		return corrupt("its tree of size %d has root %v, the manifest says %s", m.Size, root, m.Root)
	}
	return nil
}

// copyFromBackup copies the files of the store and compares their digests.
func copyFromBackup(ctx context.Context, m *BackupManifest, staging string, o RestoreOptions) error {
	var total, done int64
	for _, f := range m.Files {
		total += f.Size
	}
	for _, f := range m.Files {
		name, ok := strings.CutPrefix(f.Name, backupStore+"/")
		if !ok {
			continue
		}
		err := f.copy(ctx, o.fs, o.From, o.fs.PathJoin(staging, name), func(n int) {
			if done += int64(n); o.Progress != nil {
				o.Progress(done, total)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// copy copies the file out of a backup and compares its digest.
func (f BackupFile) copy(ctx context.Context, fs vfs.FS, backup, to string, copied func(n int)) error {
	got, err := copyFile(ctx, fs, fs.PathJoin(backup, f.Name), to, copied)
	if err != nil {
		return fmt.Errorf("copying %q of the backup: %w", f.Name, err)
	}
	if got.Size != f.Size || got.SHA256 != f.SHA256 {
		return corrupt("file %q of the backup is not the one that was backed up: it has %d bytes with SHA-256 %s, the manifest says %d and %s",
			f.Name, got.Size, got.SHA256, f.Size, f.SHA256)
	}
	return nil
}

// RestoreFiles copies the further files of a backup, those of
// BackupOptions.Files, into a directory, and returns their names. A file that is
// there already is left as it is, and not listed.
func RestoreFiles(ctx context.Context, from, dir string) ([]string, error) {
	fs := vfs.Default
	m, err := readManifest(fs, from)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range m.Files {
		name, ok := strings.CutPrefix(f.Name, backupKeys+"/")
		if !ok {
			continue
		}
		to := fs.PathJoin(dir, name)
		if _, err := fs.Stat(to); err == nil {
			continue
		}
		// Under another name until it is whole: an interrupted copy is no key.
		if err := f.copy(ctx, fs, from, to+restoreStaging, func(int) {}); err != nil {
			return names, err
		}
		if err := fs.Rename(to+restoreStaging, to); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, syncDir(fs, dir)
}

// markRestored compares the store with the manifest and marks it.
func markRestored(m *BackupManifest, dir string, o RestoreOptions) (err error) {
	s, err := OpenStore(StoreOptions{Dir: dir, Logger: o.Logger, fs: o.fs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	snap, err := s.store.snapshot()
	if err != nil {
		return err
	}
	if s.Origin() != m.Origin || snap.size != m.Size || snap.root.String() != m.Root {
		return corrupt("it is of %q, tree size %d and root %v, the manifest says %q, %d and %s",
			s.Origin(), snap.size, snap.root, m.Origin, m.Size, m.Root)
	}
	return s.store.db.Set(metaRestored, m.restoreMark(), pebble.Sync)
}
