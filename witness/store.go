package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// headsFile is the journal of heads in a witness's directory.
const headsFile = "heads"

// minJournal is how many bytes a journal may grow, at least, before it is
// written anew with nothing but the heads of now.
const minJournal = 64 << 20

// maxGather bounds how long a head waits for others before it is written.
const maxGather = 5 * time.Millisecond

var (
	// errHeadMoved: another request has replaced the head in the meantime.
	errHeadMoved = errors.New("head has moved")
	errClosed    = errors.New("witness is closed")
)

// slot is one origin's place in the store.
type slot struct {
	origin string
	// head is what was cosigned last: durable, and shown to whoever asked. Only
	// the committer stores it.
	head atomic.Pointer[head]
	// swapping is held over comparing and replacing head, also while the new one is
	// on its way to the disk. Readers of head do not wait for it.
	swapping sync.Mutex
}

// current returns the head to check a request against.
func (s *slot) current() *head { return s.head.Load() }

// store keeps the heads of all origins in one journal, so that heads of many
// logs become durable with one write and one sync. A head that was stored once
// is never forgotten, whether or not its log is still in the policy.
//
// A failed write may have happened all the same. What is in memory was durable
// before anybody was told of it, so the journal is then written anew from there,
// as a new file; until that has succeeded nothing else is stored. The failed
// heads are either gone or, after a crash in between, are what a new process
// finds: they were checked, and nobody has seen their cosignatures.
type store struct {
	dir    string
	disk   disk
	own    []note.Verifier // the witness's own keys
	logger *slog.Logger
	metric *metrics

	queue   chan *commit  // to the committer
	closing chan struct{} // closed when no more commits are to come
	ended   chan struct{} // closed when the committer has ended
	// broken is set while the journal takes nothing, for who asks about health.
	broken atomic.Bool

	mu     sync.RWMutex
	slots  map[string]*slot // by origin, guarded by mu
	byHash map[string]*slot // by origin hash, guarded by mu

	// The committer's own: the journal open at its end, nil when a write has failed;
	// its size when it was written anew, and now; bytes that may be added.
	file       file
	live, size int64
	slack      int64
}

// commit is a head on its way to the disk; one without a slot asks whether the
// journal can be written.
type commit struct {
	slot *slot
	next *head
	done chan error // receives once
}

// createStore makes the journal of a new witness, without any head.
func createStore(dir string, d disk) error {
	return replaceFile(d, dir, headsFile, nil)
}

// openStore reads the journal and starts the committer. A journal that is absent
// or cannot be read is an error: without it the witness could cosign a second
// history.
func openStore(dir string, d disk, own []note.Verifier, logger *slog.Logger, m *metrics) (*store, error) {
	s := &store{
		dir: dir, disk: d, own: own, logger: logger, metric: m, slack: minJournal,
		queue: make(chan *commit, maxBatchNotes), closing: make(chan struct{}), ended: make(chan struct{}),
		slots: map[string]*slot{}, byHash: map[string]*slot{},
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	// Starting is recovering: whatever a crash has left, what was read is durable
	// from here on, in a file and under a name that are.
	if err := s.rewrite(); err != nil {
		return nil, err
	}
	go s.run()
	return s, nil
}

// load reads the newest head of each origin.
func (s *store) load() error {
	path := filepath.Join(s.dir, headsFile)
	f, err := s.disk.Open(path)
	if err != nil {
		return fmt.Errorf("reading heads: %w", err)
	}
	defer f.Close()
	newest, sizes := map[string][]byte{}, map[string]int64{}
	torn, err := readJournal(f, func(signed []byte) error {
		n, err := checkpoint.ParseNote(signed)
		if err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		c, err := checkpoint.ParseAny(n.Text)
		if err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		if c.Size < sizes[c.Origin] {
			return fmt.Errorf("%w: size %d of %q comes after size %d", errDamaged, c.Size, c.Origin, sizes[c.Origin])
		}
		newest[c.Origin], sizes[c.Origin] = signed, c.Size
		return nil
	})
	if err != nil {
		return fmt.Errorf("%q: %w (a witness that has lost its heads starts over with new keys)", path, err)
	}
	if torn {
		s.logger.Warn("journal ends in a write that was cut off before it was answered; left out", "file", path)
	}
	for origin, signed := range newest {
		h, err := parseHead(signed, s.own)
		if err != nil {
			return fmt.Errorf("%q: head of %q is damaged or another witness's: %w", path, origin, err)
		}
		s.slot(origin).head.Store(h)
	}
	return nil
}

// originHash is how the monitoring endpoint names a log.
func originHash(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}

// slot returns the place of an origin that the policy names, made if there is
// none. The origins of policies, over time, bound the store.
func (s *store) slot(origin string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[origin]
	if sl == nil {
		sl = &slot{origin: origin}
		s.slots[origin], s.byHash[originHash(origin)] = sl, sl
	}
	return sl
}

// find returns the head of the origin with a hash, nil if there is none.
func (s *store) find(hash string) *head {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if sl := s.byHash[hash]; sl != nil {
		return sl.current()
	}
	return nil
}

// swap replaces old by next on disk and then in memory, or does nothing and
// returns errHeadMoved if old is not the head any more. After any other error
// next may be what a later start finds, so it must not have been shown to
// anybody.
func (s *store) swap(sl *slot, old, next *head) error {
	sl.swapping.Lock()
	defer sl.swapping.Unlock()
	if sl.current() != old {
		return errHeadMoved
	}
	return s.commit(&commit{slot: sl, next: next, done: make(chan error, 1)})
}

// probe returns nil if the journal can be written, after trying to mend it if it
// could not.
func (s *store) probe() error {
	if !s.broken.Load() {
		return nil
	}
	return s.commit(&commit{done: make(chan error, 1)})
}

func (s *store) commit(c *commit) error {
	select {
	case <-s.closing:
		return errClosed
	default:
	}
	select {
	case s.queue <- c:
	case <-s.closing:
		return errClosed
	}
	select {
	case err := <-c.done:
		return err
	case <-s.ended:
	}
	// The committer has answered all that it took.
	select {
	case err := <-c.done:
		return err
	default:
		return errClosed
	}
}

// close ends the committer, after the group that it is writing.
func (s *store) close() error {
	close(s.closing)
	<-s.ended
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// run is the committer: it takes what waits, writes and syncs it as one batch,
// and answers. What comes in while it syncs is the next batch, so the slower the
// disk, the larger the batches.
func (s *store) run() {
	defer close(s.ended)
	var first *commit // did not fit into the batch before
	for {
		if first == nil {
			select {
			case first = <-s.queue:
			case <-s.closing:
				return
			}
		}
		var batch []*commit
		batch, first = s.gather(first)
		start := time.Now()
		err := s.write(batch)
		s.metric.batch(len(batch), time.Since(start), err)
		for _, c := range batch {
			if err == nil && c.slot != nil {
				c.slot.head.Store(c.next)
			}
			c.done <- err
		}
	}
}

// gather takes what waits, up to the size of a batch, and returns the commit
// that did not fit. A sync costs as much CPU as a request or two, so requests
// that could run at once are let run first, as long as that brings more: on an
// idle witness it takes no time, on a busy one batches get larger.
func (s *store) gather(first *commit) (batch []*commit, rest *commit) {
	batch, length := []*commit{first}, first.length()
	deadline := time.Now().Add(maxGather)
	yielded := false
	for len(batch) < maxBatchNotes {
		select {
		case c := <-s.queue:
			if length += c.length(); length > maxBatchBytes {
				return batch, c
			}
			batch, yielded = append(batch, c), false
		default:
			if yielded || time.Now().After(deadline) {
				return batch, nil
			}
			runtime.Gosched()
			yielded = true
		}
	}
	return batch, nil
}

// length is what a commit takes of a batch.
func (c *commit) length() int {
	if c.slot == nil {
		return 0
	}
	return len(c.next.signed) + 1
}

// write makes the heads of a batch durable.
func (s *store) write(batch []*commit) error {
	if err := s.makeWritable(); err != nil {
		s.broken.Store(true)
		return err
	}
	s.broken.Store(false)
	var notes [][]byte
	for _, c := range batch {
		if c.slot != nil {
			notes = append(notes, c.next.signed)
		}
	}
	if len(notes) == 0 {
		return nil
	}
	data := appendBatch(nil, notes...)
	// Crash before or in the write: at most a torn batch, which nobody was told of.
	_, err := s.file.Write(data)
	if err == nil {
		// Crash before or in the sync: the batch is there, or torn, or not.
		err = s.file.Sync()
	}
	if err != nil {
		s.broken.Store(true)
		err = errors.Join(err, s.file.Close())
		s.file = nil // never written to again
		return fmt.Errorf("writing heads: %w: %w", errUnknownOutcome, err)
	}
	// Crash from here on: the batch is found, whether or not it was answered.
	s.size += int64(len(data))
	return nil
}

// makeWritable leaves the journal open and of reasonable size, or returns an
// error.
func (s *store) makeWritable() error {
	if s.file == nil {
		return s.rewrite()
	}
	if s.size-s.live <= max(s.slack, s.live) {
		return nil
	}
	old := s.file
	err := s.rewrite()
	switch {
	case err == nil:
		return old.Close()
	case errors.Is(err, errUnknownOutcome):
		s.file = nil
		return errors.Join(err, old.Close())
	}
	// The journal is what it was. Growing on is better than to refuse.
	s.logger.Warn("journal of heads can't be shortened", "error", err)
	s.live = s.size
	return nil
}

// rewrite writes the heads in memory to a new journal, which takes the place of
// the old one. The committer calls it, or openStore before there is one.
func (s *store) rewrite() error {
	heads, size := s.heads(), int64(0)
	f, err := replace(s.disk, s.dir, headsFile, func(w io.Writer) error {
		for len(heads) > 0 {
			var notes [][]byte
			for length := 0; len(heads) > 0 && len(notes) < maxBatchNotes; heads = heads[1:] {
				if length += len(heads[0].signed) + 1; length > maxBatchBytes {
					break
				}
				notes = append(notes, heads[0].signed)
			}
			n, err := w.Write(appendBatch(nil, notes...))
			if size += int64(n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing heads anew: %w", err)
	}
	s.file, s.live, s.size = f, size, size
	return nil
}

// heads returns the heads of all origins.
func (s *store) heads() []*head {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var heads []*head
	for _, sl := range s.slots {
		if h := sl.current(); h != nil {
			heads = append(heads, h)
		}
	}
	return heads
}

// used reports whether anything was ever cosigned.
func (s *store) used() bool { return len(s.heads()) > 0 }
