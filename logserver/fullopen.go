package logserver

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// Opening a store for writing takes room: its write-ahead logs are flushed, and
// the manifest is written anew. On a disk that is full, with the ballast gone, a
// log can be opened without any (Options.ReadWhenFull): the store is not written
// to, what only its write-ahead logs hold is kept in memory, and all that was
// acknowledged can be read. Nothing is appended, signed or published, so that
// what a reader sees is what it saw before the restart, unless the witness policy
// is another one now and does not accept that. It is decided before the
// store is opened, and after it is locked, since the ballast may be that of a log
// that runs: an attempt that fails half-way leaves goroutines behind that still
// hold its files. Should others take the room between that and the
// opening, Open fails as it does without the option.

// errReadOnly is why a log that was opened like that refuses to write.
var errReadOnly = fmt.Errorf("%w: the store was opened to be read only, and will be opened for writing when there is room", ErrDiskFull)

// openRoom is what opening a store for writing takes, in bytes, beyond what its
// logs and its manifest have: a file of options and the beginnings of new ones.
const openRoom = 64 << 10

// roomToOpen reports whether the disk has room to open the store for writing. It
// makes some, if it has not, with the ballast.
func (s *space) roomToOpen() bool {
	return s.left() >= s.openNeeds() || s.dropBallast() && s.left() >= s.openNeeds()
}

// openNeeds returns how many bytes opening the store for writing may take, with
// what Pebble does at once then: nothing if there is no store.
func (s *space) openNeeds() uint64 {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return 0 // which opening it finds out
	}
	needs, there := uint64(openRoom), false
	for _, name := range names {
		if !isReplayed(name) {
			continue
		}
		there = there || strings.HasPrefix(name, manifestPrefix)
		info, err := s.fs.Stat(s.fs.PathJoin(s.dir, name))
		switch {
		case err == nil:
			needs += uint64(info.Size())
		case !errors.Is(err, os.ErrNotExist):
			return 0
		}
	}
	if !there {
		return 0
	}
	return needs
}

const manifestPrefix = "MANIFEST-"

// isReplayed reports whether opening a store reads all of a file, to end up where
// the last process did.
func isReplayed(name string) bool {
	return strings.HasSuffix(name, ".log") || strings.HasPrefix(name, manifestPrefix)
}

// openWithRoom makes the options those of a store that is only read if there is no
// room for more. The store is locked.
func (l *Log) openWithRoom(o *Options) error {
	if l.space.roomToOpen() {
		return nil
	}
	if err := l.space.syncReplayed(); err != nil {
		return fmt.Errorf("making durable what will be read: %w", err)
	}
	l.openReadOnly(o)
	return nil
}

// syncReplayed makes durable what opening the store will read of its write-ahead
// logs, which it does itself where it writes: a process that was killed may have
// left writes that are not, and readers must not see what a power cut can take
// away.
func (s *space) syncReplayed() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !isReplayed(name) {
			continue
		}
		f, err := s.fs.Open(s.fs.PathJoin(s.dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return syncDir(s.fs, s.dir)
}

// openReadOnly makes the options those of a store that is only read.
func (l *Log) openReadOnly(o *Options) {
	l.readOnly = true
	l.space.reopen = make(chan struct{})
	tune := o.tune
	o.tune = func(p *pebble.Options) {
		if tune != nil {
			tune(p)
		}
		p.ReadOnly = true
	}
	l.opts.Logger.Error("disk is full: the store is opened to be read only, appends are refused until there is room", "dir", o.Dir,
		"free_bytes", l.space.left(), "needed_bytes", l.space.openNeeds())
}

// Reopen returns a channel that is closed when a log that Open could only open
// to be read, by Options.ReadWhenFull, can be opened for writing: Close it then,
// and Open it again. It is nil if the log was opened for writing.
func (l *Log) Reopen() <-chan struct{} { return l.space.reopen }

// watchReopen looks whether there is room to open the store, and to go on with
// rounds after that.
func (s *space) watchReopen() {
	if s.left() >= s.openNeeds()+s.reserve/2 {
		s.reopening.Do(func() { close(s.reopen) })
	}
}
