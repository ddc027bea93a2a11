package logserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// restoreStaging is what a store is called while it is being restored.
const restoreStaging = ".restoring"

// Restore makes a store from a backup, after it has found every file of it to be
// the one that was backed up. The store is marked: the log that is opened on it
// serves reads, and does not sign or append until CatchUp. An interrupted
// Restore is begun anew.
func Restore(ctx context.Context, o RestoreOptions) (*BackupManifest, error) {
	if o.fs == nil {
		o.fs = vfs.Default
	}
	fs := o.fs
	m, err := readManifest(fs, o.From)
	if err != nil {
		return nil, err
	}
	if names, err := fs.List(o.Dir); err == nil && len(names) > 0 {
		return nil, fmt.Errorf("%w: %q is not empty", ErrExists, o.Dir)
	}

	// 1. Copy to another name. Crash here, and up to step 3: begin anew.
	staging := fs.PathJoin(fs.PathDir(o.Dir), fs.PathBase(o.Dir)+restoreStaging)
	if err := fs.RemoveAll(staging); err != nil {
		return nil, fmt.Errorf("removing what an earlier restore left: %w", err)
	}
	if err := makeDir(fs, staging); err != nil {
		return nil, err
	}
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

	// 3. Give it its name.
	if err := fs.RemoveAll(o.Dir); err != nil { // an empty directory at most
		return nil, err
	}
	if err := fs.Rename(staging, o.Dir); err != nil {
		return nil, err
	}
	return m, syncDir(fs, fs.PathDir(o.Dir))
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
	mark := fmt.Sprintf("a backup of %s at tree size %d", m.Created.Format(time.RFC3339), m.Size)
	return s.store.db.Set(metaRestored, []byte(mark), pebble.Sync)
}
