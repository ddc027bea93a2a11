package logserver

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// How much of the disk is kept free, and how that is watched.
const (
	// DefaultDiskReserve is the largest reserve that is kept by default, in
	// bytes. Pebble needs room after an append has been answered: to flush
	// memtables of memTableSize, and to write the output of a compaction before
	// its inputs go. Of a small file system the default is reserveShare.
	DefaultDiskReserve = 1 << 30
	reserveShare       = 10 // a tenth
	// maxBallast is the size of the largest ballast file, in bytes: all
	// memtables can be flushed into what it frees. On a small disk it is
	// ballastShare of the reserve.
	maxBallast   = 64 << 20
	ballastShare = 4 // a quarter
	// diskPoll is how often the disk is looked at when nothing is appended, and
	// so how soon the log goes on once there is room.
	diskPoll = time.Second
	// reserveInodes is how many files the log must be able to make for the whole
	// reserve to count as free: Pebble writes and replaces a few at a time. Of a
	// small file system it is reserveShare. Where inodes are made as needed, there
	// is nothing to reserve.
	reserveInodes = 256
	// groupOverhead is what a commit group writes per byte of its entries and
	// openings, at most: into the write-ahead log and into a table.
	groupOverhead = 2
	// nearFull is how far above the marks, in bytes, the store is asked what it
	// has yet to flush: more than memtables and the largest commit groups hold.
	nearFull = 256 << 20
)

// ballastName is a file in the store's directory that exists to be deleted.
const ballastName = "ballast"

// ballastNote begins the ballast, for the operator who finds it.
const ballastNote = "ballast of %d bytes: the log deletes it when the disk is full, and makes it again\n"

// space keeps a log from running into the end of its disk. There are three
// lines of defence. Appends are refused while less than the reserve is free:
// each commit group is checked before it is built. Rounds stop at half of that,
// so that what was sequenced last is still published. Should somebody else fill
// the disk in between, the write that fails deletes the ballast and is tried
// again, and when that is used up it waits: Pebble, which would end the process
// over a failed write, never sees the error. Everything resumes by itself.
//
// Free space is what the file system says, per user where it tells users apart:
// trusted, and wrong at worst for the third line. Files that can still be made
// are watched like bytes. Quotas that the file system does not tell of, and
// errors that it reports only when it syncs, end the process like any other
// write with an unknown outcome.
type space struct {
	fs      vfs.FS // beneath the one that Pebble writes to
	guarded vfs.FS // what wrap returns
	dir     string
	logger  *slog.Logger
	reserve uint64 // appends are refused when less is free; 0 if nothing is watched
	ballast uint64 // size of the ballast
	poll    time.Duration

	// unflushed returns how many bytes the store has in its write-ahead log only;
	// nil until it is open. It may take the lock of the store, and so must not be
	// called from beneath it: there is left.
	unflushed func() uint64

	full  atomic.Bool  // appends are refused until watch finds room
	low   atomic.Bool  // rounds were refused until watch finds room
	stuck atomic.Int64 // since when a write waits for room, in ns since the epoch; 0 if none does
	// resumed has a token after rounds became possible again: the publisher
	// waits on it.
	resumed chan struct{}
	// reopen is closed when there is room for a store that was opened to be read;
	// nil if it was opened for writing.
	reopen    chan struct{}
	reopening sync.Once
	// waitable is set while a failed write may wait for room.
	waitable atomic.Bool
	giveUp   chan struct{} // closed: nobody waits any more
	givingUp sync.Once
	watching sync.WaitGroup
	// ballastMu is held by who makes or deletes the ballast.
	ballastMu sync.Mutex
}

func newSpace(o *Options) *space {
	s := &space{fs: o.fs, dir: o.Dir, logger: o.Logger, poll: o.diskPoll, resumed: make(chan struct{}, 1), giveUp: make(chan struct{})}
	setDefault(&s.poll, diskPoll)
	usage, err := s.usage()
	s.guarded = s.fs
	if err != nil || o.DiskReserve < 0 {
		return s
	}
	if s.reserve = uint64(o.DiskReserve); s.reserve == 0 {
		s.reserve = min(DefaultDiskReserve, usage.total/reserveShare)
	}
	s.ballast = min(maxBallast, s.reserve/ballastShare)
	if s.reserve > 0 {
		s.guarded = vfs.OnDiskFull(s.fs, s.onFull)
	}
	return s
}

// wrap returns the file system that the log writes to.
func (s *space) wrap() vfs.FS { return s.guarded }

// diskUsage is what a file system says of itself.
type diskUsage struct {
	free, total       uint64 // bytes
	inodes, allInodes uint64 // how many more files can be made, of how many; 0 of 0 if there is no such bound
}

// inodeCounter is a file system in a test that bounds the number of its files.
type inodeCounter interface {
	Inodes() (free, all uint64)
}

// usage asks the file system. Before Create has made the directory, its parent
// is on the same one or about to be mounted over; then nothing is known.
func (s *space) usage() (diskUsage, error) {
	if onDisk(s.fs) {
		return usageOf(s.dir)
	}
	u, err := s.fs.GetDiskUsage(s.dir)
	usage := diskUsage{free: u.AvailBytes, total: u.TotalBytes}
	if c, ok := s.fs.(inodeCounter); ok {
		usage.inodes, usage.allInodes = c.Inodes()
	}
	return usage, err
}

// free returns the bytes that the log may still fill, without end if nothing is
// watched or the file system does not say. What has yet to be flushed is taken
// off near the marks, so that a flush changes nothing about them: it takes as
// much again as the write-ahead log took, and Pebble keeps some logs to use them
// again where they could make up for it.
func (s *space) free() uint64 {
	left := s.left()
	if s.unflushed == nil || left > 2*s.reserve+nearFull || s.stuck.Load() != 0 || s.givenUp() {
		return left
	}
	return left - min(left, s.unflushed())
}

// left is free before anything is flushed. Bytes are of no use without files to
// put them in: when those run out, it is as much of the reserve as they are of
// theirs.
func (s *space) left() uint64 {
	if s.reserve == 0 {
		return math.MaxUint64
	}
	usage, err := s.usage()
	if err != nil {
		return math.MaxUint64
	}
	if inodes := s.inodes(usage); usage.inodes < inodes {
		return min(usage.free, s.reserve/inodes*usage.inodes)
	}
	return usage.free
}

// inodes is the reserve of files; 0 if they have no bound.
func (*space) inodes(u diskUsage) uint64 { return min(reserveInodes, u.allInodes/reserveShare) }

// enough is how much must be free for appends to be accepted again: more than
// the reserve, so that they do not stop and go with every group.
func (s *space) enough() uint64 { return s.reserve + s.reserve/8 }

// admit is asked by the sequencer before each commit group, whose entries and
// openings have the given size in bytes.
func (s *space) admit(bytes int) error {
	if s.full.Load() {
		return s.refusal()
	}
	if free := s.free(); free < s.reserve+groupOverhead*uint64(bytes) {
		s.setFull(free)
		return s.refusal()
	}
	return nil
}

// refusal is why appends are refused, or nil. It costs nothing.
func (s *space) refusal() error {
	if !s.full.Load() {
		return nil
	}
	return fmt.Errorf("%w: appends resume when there is room", ErrDiskFull)
}

func (s *space) setFull(free uint64) {
	if s.full.CompareAndSwap(false, true) {
		s.logger.Error("disk is full: appends are refused, reads go on; make room and they resume",
			"dir", s.dir, "free_bytes", free, "reserve_bytes", s.reserve)
	}
}

// admitRound is asked before each round.
func (s *space) admitRound() error {
	if free := s.free(); free < s.reserve/2 {
		if s.low.CompareAndSwap(false, true) {
			s.logger.Error("disk is full: nothing is signed or published until there is room", "dir", s.dir, "free_bytes", free)
		}
		return fmt.Errorf("%w: rounds resume when there is room", ErrDiskFull)
	}
	return nil
}

// health returns what an operator has to know, or nil.
func (s *space) health() error {
	free := s.free()
	if !s.full.Load() && !s.low.Load() && free >= s.reserve {
		return nil
	}
	err := fmt.Errorf("%w: %d bytes are free, appends need %d, rounds %d", ErrDiskFull, free, s.enough(), s.reserve/2)
	if usage, e := s.usage(); e == nil && usage.inodes < s.inodes(usage) {
		err = fmt.Errorf("%w; only %d more files can be made", err, usage.inodes)
	}
	if since := s.stuck.Load(); since != 0 {
		err = fmt.Errorf("%w; a write of the store has been waiting for %v", err, time.Since(time.Unix(0, since)).Round(time.Second))
	}
	return err
}

// start begins to watch the disk. From now on a write that finds it full waits
// for room, where opening the log would have failed.
func (s *space) start() {
	if s.reserve == 0 {
		return
	}
	s.waitable.Store(true)
	s.watching.Go(func() {
		tick := time.NewTicker(s.poll)
		defer tick.Stop()
		for {
			s.watch()
			select {
			case <-tick.C:
			case <-s.giveUp:
				return
			}
		}
	})
}

// abandon fails what waits for room: the log is being closed.
func (s *space) abandon() { s.givingUp.Do(func() { close(s.giveUp) }) }

// givenUp reports whether the log is being closed, and its store with it.
func (s *space) givenUp() bool {
	select {
	case <-s.giveUp:
		return true
	default:
		return false
	}
}

// stop ends the watching and waits for its end.
func (s *space) stop() {
	s.abandon()
	s.watching.Wait()
}

// watch looks at the disk once: it lets appends and rounds resume, and makes
// the ballast when its room would not be missed.
func (s *space) watch() {
	free := s.free()
	if free >= s.enough() && s.stuck.Load() == 0 && s.full.CompareAndSwap(true, false) {
		s.logger.Info("disk has room again: appends are accepted", "dir", s.dir, "free_bytes", free)
	}
	if free >= s.reserve/2 && s.low.CompareAndSwap(true, false) {
		select {
		case s.resumed <- struct{}{}:
		default:
		}
	}
	if s.reopen != nil {
		s.watchReopen()
		return
	}
	if free >= s.enough()+s.ballast {
		if err := s.makeBallast(); err != nil {
			s.logger.Warn("making the ballast", "dir", s.dir, "err", err)
		}
	}
}

// onFull is called by vfs.OnDiskFull when a write of the store found the disk
// full, while all others wait. The write is tried once more when it returns.
func (s *space) onFull() {
	s.setFull(s.left())
	s.stuck.Store(time.Now().UnixNano())
	defer s.stuck.Store(0)
	freed := s.dropBallast()
	s.logger.Error("disk is full: a write of the store failed and will be tried again", "dir", s.dir, "ballast_freed", freed)
	if !s.waitable.Load() {
		return
	}
	tick := time.NewTicker(s.poll)
	defer tick.Stop()
	for s.left() < s.ballast/2 {
		select {
		case <-tick.C:
		case <-s.giveUp:
			return
		}
	}
}

func (s *space) dropBallast() bool {
	s.ballastMu.Lock()
	defer s.ballastMu.Unlock()
	return s.fs.Remove(s.fs.PathJoin(s.dir, ballastName)) == nil
}

// makeBallast makes the ballast unless it is there. Its blocks are allocated,
// not written, which takes no time: where a file system cannot do that, the
// ballast is empty and the reserve has to suffice.
func (s *space) makeBallast() (err error) {
	s.ballastMu.Lock()
	defer s.ballastMu.Unlock()
	path := s.fs.PathJoin(s.dir, ballastName)
	note := fmt.Sprintf(ballastNote, s.ballast)
	if s.holds(path, note) {
		return nil
	}
	f, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, s.fs.Remove(path))
		}
	}()
	if err := f.Preallocate(0, int64(s.ballast)); err != nil {
		return err
	}
	if _, err := io.WriteString(f, note); err != nil {
		return err
	}
	return f.Sync()
}

// holds reports whether the file begins with the note.
func (s *space) holds(path, note string) bool {
	f, err := s.fs.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, len(note))
	n, err := io.ReadFull(f, b)
	return err == nil && string(b[:n]) == note
}

// freeMetric is free for a gauge.
func (s *space) freeMetric() float64 {
	if free := s.free(); free != math.MaxUint64 {
		return float64(free)
	}
	return math.Inf(1)
}
