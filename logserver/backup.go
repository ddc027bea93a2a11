package logserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A backup is a directory:
//
//	store/         the files of a store, as they were at one moment
//	keys/          private keys and such, if asked for
//	manifest.json  what is in it: written last, so a backup without is not complete
//
// It trusts nothing to the place where it lies but privacy: Restore checks every
// file against the manifest, and what was restored must catch up with a holder
// of the newest head before it signs.
const (
	backupStore    = "store"
	backupKeys     = "keys"
	backupManifest = "manifest.json"
	backupFormat   = "tallystick log backup 1"
	// backupStaging is a directory within the store: the hard links that are
	// copied from. A crash leaves it behind; opening the log removes it.
	backupStaging = "backup.tmp"
)

// Bounds of a manifest: a store has a file for every few megabytes.
const (
	maxManifestSize = 64 << 20
	maxBackupFiles  = 1 << 18
)

// BackupOptions say where a backup goes.
type BackupOptions struct {
	// Dir is made, or is an empty directory.
	Dir string
	// Files are further files to copy, by the name that they get in the backup's
	// folder keys.
	Files map[string]string
	// Progress, if not nil, is told how many bytes have been copied, of how many.
	Progress func(done, size int64)
}

// BackupManifest says what a backup holds.
type BackupManifest struct {
	Format  string    `json:"format"`
	Created time.Time `json:"created"` // by the clock of the machine, in UTC
	Origin  string    `json:"origin"`
	Keys    []KeyInfo `json:"keys"`
	Size    int64     `json:"size"`      // of the tree
	Root    string    `json:"root_hash"` // in base64, as in a checkpoint
	// Signed and Published are the newest signed notes.
	Signed    string       `json:"signed"`
	Published string       `json:"published"`
	Files     []BackupFile `json:"files"` // sorted by name
}

// BackupFile is a file of a backup.
type BackupFile struct {
	Name   string `json:"name"` // with slashes
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // in hexadecimal
}

// Backup copies the store as it is now to an empty directory, file by file and
// each made durable, while appends go on. Private keys are no part of a store.
// After an error the directory holds no manifest: delete it.
func (l *Log) Backup(ctx context.Context, o BackupOptions) (*BackupManifest, error) {
	if l.readOnly {
		return nil, fmt.Errorf("%w; a backup begins with links in it", errReadOnly)
	}
	return l.store.backup(ctx, l.opts.Dir, l.opts.fs, o)
}

// Backup is Log.Backup for a log that is not running.
func (s *Store) Backup(ctx context.Context, o BackupOptions) (*BackupManifest, error) {
	if s.opts.ReadOnly {
		return nil, invalid("the store was opened read-only")
	}
	return s.store.backup(ctx, s.opts.Dir, s.opts.fs, o)
}

func (s *store) backup(ctx context.Context, dir string, fs vfs.FS, o BackupOptions) (m *BackupManifest, err error) {
	if !s.copying.TryLock() {
		return nil, fmt.Errorf("%w: another backup is under way", ErrPushback)
	}
	defer s.copying.Unlock()
	if err := emptyDir(fs, o.Dir); err != nil {
		return nil, interrupted(fs, o.Dir, err)
	}

	// 1. Take hold of one moment: hard links to files that never change, and
	// copies of the small ones that do.
	// Crash here: opening the log removes the links.
	staging := fs.PathJoin(dir, backupStaging)
	if err := fs.RemoveAll(staging); err != nil {
		return nil, fmt.Errorf("removing what an earlier backup left: %w", err)
	}
	if err := s.db.Checkpoint(staging, pebble.WithFlushedWAL()); err != nil {
		return nil, fmt.Errorf("taking a checkpoint of the store: %w", err)
	}
	defer func() { err = errors.Join(err, fs.RemoveAll(staging)) }()

	// 2. Say what it is, from what will be copied.
	if m, err = describeBackup(staging, fs); err != nil {
		return nil, err
	}

	// 3. Copy. Crash here: there is no manifest.
	if err := copyToBackup(ctx, fs, staging, m, o); err != nil {
		return nil, err
	}

	// 4. Everything is durable; say that the backup is complete.
	text, err := m.marshal()
	if err != nil {
		return nil, err
	}
	tmp := fs.PathJoin(o.Dir, backupManifest+".tmp")
	if err := writeFileSync(fs, tmp, text); err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	if err := fs.Rename(tmp, fs.PathJoin(o.Dir, backupManifest)); err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	return m, syncDir(fs, o.Dir)
}

// interrupted adds to the error about a directory that is not empty that it holds
// a backup which was not completed. What it holds is for the operator to delete:
// a log's directory has a folder of the same name.
func interrupted(fs vfs.FS, dir string, err error) error {
	if _, statErr := fs.Stat(fs.PathJoin(dir, backupStore)); statErr != nil || !errors.Is(err, ErrExists) {
		return err
	}
	switch _, statErr := fs.Stat(fs.PathJoin(dir, backupManifest)); {
	case statErr == nil:
		return fmt.Errorf("%w: it holds a backup, name another directory", err)
	case errors.Is(statErr, os.ErrNotExist):
		return fmt.Errorf("%w: if it is a backup that was interrupted, which has no %s, delete it, or name another directory", err, backupManifest)
	}
	return err
}

// describeBackup opens the copy of a store and reads what it is of.
func describeBackup(dir string, fs vfs.FS) (m *BackupManifest, err error) {
	s, err := OpenStore(StoreOptions{Dir: dir, ReadOnly: true, fs: fs})
	if err != nil {
		return nil, fmt.Errorf("opening the copy: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	snap, err := s.store.snapshot()
	if err != nil {
		return nil, fmt.Errorf("opening the copy: %w", err)
	}
	m = &BackupManifest{Format: backupFormat, Created: time.Now().UTC().Truncate(time.Second), Origin: s.Origin(), Keys: s.Keys(),
		Size: snap.size, Root: snap.root.String()}
	for key, text := range map[string]*string{string(metaSigned): &m.Signed, string(metaPublished): &m.Published} {
		raw, err := s.store.get([]byte(key))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		*text = string(raw)
	}
	return m, nil
}

// copyToBackup copies the files and adds them to the manifest.
func copyToBackup(ctx context.Context, fs vfs.FS, staging string, m *BackupManifest, o BackupOptions) error {
	type source struct{ name, path string }
	var sources []source
	names, err := fs.List(staging)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != "LOCK" { // made by opening the copy
			sources = append(sources, source{backupStore + "/" + name, fs.PathJoin(staging, name)})
		}
	}
	for name, path := range o.Files {
		sources = append(sources, source{backupKeys + "/" + name, path})
	}
	slices.SortFunc(sources, func(a, b source) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	var total, done int64
	for _, s := range sources {
		info, err := fs.Stat(s.path)
		if err != nil {
			return err
		}
		total += info.Size()
	}
	dirs := []string{fs.PathJoin(o.Dir, backupStore)}
	if len(o.Files) > 0 {
		dirs = append(dirs, fs.PathJoin(o.Dir, backupKeys))
	}
	for _, dir := range dirs {
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for _, s := range sources {
		to := fs.PathJoin(o.Dir, s.name)
		file, err := copyFile(ctx, fs, s.path, to, func(n int) {
			if done += int64(n); o.Progress != nil {
				o.Progress(done, total)
			}
		})
		if err != nil {
			return fmt.Errorf("copying %q: %w", s.path, err)
		}
		file.Name = s.name
		m.Files = append(m.Files, *file)
	}
	for _, dir := range append(dirs, o.Dir, fs.PathDir(o.Dir)) {
		if err := syncDir(fs, dir); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file durably, with the copy readable by its owner only, and
// returns its size and digest.
func copyFile(ctx context.Context, fs vfs.FS, from, to string, copied func(n int)) (_ *BackupFile, err error) {
	in, err := fs.Open(from, vfs.SequentialReadsOption)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := createPrivate(fs, to)
	if err != nil {
		return nil, err
	}
	h, file := sha256.New(), new(BackupFile)
	buf := make([]byte, 1<<20)
	for err == nil {
		var n int
		n, err = in.Read(buf)
		if n > 0 {
			h.Write(buf[:n])
			file.Size += int64(n)
			if _, werr := out.Write(buf[:n]); werr != nil {
				err = werr
			}
			copied(n)
		}
		if err == nil {
			err = ctx.Err()
		}
	}
	if errors.Is(err, io.EOF) {
		err = out.Sync()
	}
	file.SHA256 = hex.EncodeToString(h.Sum(nil))
	return file, errors.Join(err, out.Close())
}

// createPrivate creates a file, on disk with mode 0600: it may be a private key,
// and the openings in a store are private too.
func createPrivate(fs vfs.FS, path string) (vfs.File, error) {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err == nil && onDisk(fs) {
		err = os.Chmod(path, 0o600)
	}
	return f, err
}

// emptyDir makes a directory, or makes sure that it is empty.
func emptyDir(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	switch {
	case err == nil && len(names) > 0:
		return fmt.Errorf("%w: %q is not empty", ErrExists, dir)
	case err != nil:
		return makeDir(fs, dir)
	}
	return nil
}

func (m *BackupManifest) marshal() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", " ")
	return append(b, '\n'), err
}

// parseManifest reads a manifest. What does not marshal to itself is refused.
func parseManifest(text []byte) (*BackupManifest, error) {
	m := new(BackupManifest)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, corrupt("the backup's manifest: %v", err)
	}
	if m.Format != backupFormat {
		return nil, corrupt("the backup's format is %q, this program reads %q", m.Format, backupFormat)
	}
	if again, err := m.marshal(); err != nil || !bytes.Equal(again, text) {
		return nil, corrupt("the backup's manifest is not in the form that it is written in")
	}
	if len(m.Files) > maxBackupFiles {
		return nil, corrupt("the backup's manifest names %d files, at most %d are possible", len(m.Files), maxBackupFiles)
	}
	for i, f := range m.Files {
		if !validBackupName(f.Name) || f.Size < 0 || i > 0 && f.Name <= m.Files[i-1].Name {
			return nil, corrupt("the backup's manifest names the file %q", f.Name)
		}
	}
	return m, nil
}

// validBackupName keeps a manifest from naming anything outside its folders.
func validBackupName(name string) bool {
	for _, dir := range []string{backupStore, backupKeys} {
		rest, ok := bytes.CutPrefix([]byte(name), []byte(dir+"/"))
		if ok && len(rest) > 0 && rest[0] != '.' && !bytes.ContainsAny(rest, "/\\\x00") {
			return true
		}
	}
	return false
}

// readManifest reads what a backup holds, without looking at its files.
func readManifest(fs vfs.FS, dir string) (*BackupManifest, error) {
	text, err := readFileLimit(fs, fs.PathJoin(dir, backupManifest), maxManifestSize)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q is not a complete backup, it has no manifest.json", ErrNotFound, dir)
	}
	if err != nil {
		return nil, err
	}
	return parseManifest(text)
}
