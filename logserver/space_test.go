package logserver

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// diskFS is a file system with an end. It counts what files hold, or have
// preallocated, and what somebody else has put on the same disk.
type diskFS struct {
	vfs.FS
	mu struct {
		sync.Mutex
		capacity, others int64
		files            map[string]*diskFile // newest of each name
		failed           int                  // writes that found it full
		// greedy lets others take at once whatever is free beyond keep; armed
		// makes them greedy with the next write.
		armed, greedy bool
		keep          int64
		// inodes more files can be made, of allInodes; both 0 if there is no bound.
		inodes, allInodes uint64
	}
}

func newDiskFS(capacity int64) *diskFS {
	d := &diskFS{FS: vfs.NewCrashableMem()}
	d.mu.capacity, d.mu.files = capacity, map[string]*diskFile{}
	return d
}

func (d *diskFS) usedLocked() int64 {
	used := d.mu.others
	for _, f := range d.mu.files {
		used += max(f.size, f.allocated)
	}
	return used
}

// fill lets somebody else take all of the disk but what is left.
func (d *diskFS) fill(left int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.others += d.mu.capacity - d.usedLocked() - left
}

// hold lets somebody else take what is free beyond left, now and later.
func (d *diskFS) hold(left int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.greedy, d.mu.keep = true, left
}

// ambush lets somebody else fill the disk, and keep it full, between a check of
// the free space and the next write.
func (d *diskFS) ambush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.armed = true
}

func (d *diskFS) freeLocked() int64 {
	free := max(0, d.mu.capacity-d.usedLocked())
	if d.mu.greedy && free > d.mu.keep {
		d.mu.others += free - d.mu.keep
		return d.mu.keep
	}
	return free
}

// leave takes away what somebody else has put on the disk.
func (d *diskFS) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.others, d.mu.armed, d.mu.greedy = 0, false, false
	d.mu.keep = 0
}

func (d *diskFS) failedWrites() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.failed
}

func (d *diskFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	free := d.freeLocked()
	return vfs.DiskUsage{AvailBytes: uint64(free), TotalBytes: uint64(d.mu.capacity), UsedBytes: uint64(d.mu.capacity - free)}, nil
}

// Inodes implements inodeCounter.
func (d *diskFS) Inodes() (free, all uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.inodes, d.mu.allInodes
}

func (d *diskFS) setInodes(free, all uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.inodes, d.mu.allInodes = free, all
}

func (d *diskFS) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	file := &diskFile{File: f, disk: d}
	d.mu.files[name] = file
	return file, nil
}

func (d *diskFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return d.file(name, f, err)
}

func (d *diskFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(oldname, newname, c)
	d.mu.Lock()
	old := d.mu.files[oldname]
	delete(d.mu.files, oldname)
	d.mu.Unlock()
	file, err := d.file(newname, f, err)
	if err == nil && old != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		file.(*diskFile).allocated = max(old.size, old.allocated)
	}
	return file, err
}

func (d *diskFS) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.FS.Remove(name)
	if err == nil {
		delete(d.mu.files, name)
	}
	return err
}

func (d *diskFS) Rename(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.FS.Rename(oldname, newname)
	if err == nil {
		d.mu.files[newname] = d.mu.files[oldname]
		delete(d.mu.files, oldname)
	}
	return err
}

type diskFile struct {
	vfs.File
	disk            *diskFS
	size, allocated int64
}

func (f *diskFile) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.mu.greedy = f.disk.mu.greedy || f.disk.mu.armed
	room := f.disk.freeLocked() + max(0, f.allocated-f.size)
	if room >= int64(len(p)) {
		n, err := f.File.Write(p)
		f.size += int64(n)
		return n, err
	}
	f.disk.mu.failed++
	n, _ := f.File.Write(p[:max(0, room)])
	f.size += int64(n)
	return n, syscall.ENOSPC
}

func (f *diskFile) Preallocate(offset, length int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if more := offset + length - max(f.size, f.allocated); more > f.disk.freeLocked() {
		return syscall.ENOSPC
	}
	f.allocated = max(f.allocated, offset+length)
	return nil
}

// diskOptions are those of a log on a small disk; the test fails if a fault
// would have ended the process.
func diskOptions(t *testing.T, disk *diskFS) Options {
	opts := testOptions(disk)
	opts.tune = smallTables
	opts.diskPoll = 2 * time.Millisecond
	opts.Fatal = func(err error) {
		t.Errorf("the process would have ended: %v", err)
		select {}
	}
	return opts
}

func (d *diskFS) has(name string) bool {
	_, err := d.Stat("log/" + name)
	return err == nil
}

// bigEntry returns an entry that fills a disk quickly.
func bigEntry(rng *rand.Rand) Entry {
	e := Entry{Data: make([]byte, 1000), Opening: make([]byte, 100<<10)}
	for i := range e.Opening {
		e.Opening[i] = byte(rng.Uint32())
	}
	return e
}

// appendUntilFull appends until the log refuses, and returns how.
func appendUntilFull(tl *testLog) error {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10000 {
		e := bigEntry(rng)
		r, _, err := tl.Append(within(tl.t), e)
		if err != nil {
			return err
		}
		if r.Index != int64(len(tl.data)) {
			tl.t.Fatalf("index %d, want %d", r.Index, len(tl.data))
		}
		tl.sequence(e)
	}
	return nil
}

// TestDiskFullByAppends is promise 6: appends stop at the reserve, before the
// store meets the end of the disk; reads and rounds go on; and everything
// resumes by itself when the disk has been enlarged.
func TestDiskFullByAppends(t *testing.T) {
	disk := newDiskFS(8 << 20)
	tl := newTestLog(t, diskOptions(t, disk))
	eventually(t, "the ballast is made", func() bool { return disk.has(ballastName) })
	if err := appendUntilFull(tl); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("filling the disk: %v, want ErrDiskFull", err)
	}
	// A compaction may free something. What has yet to be flushed is not free.
	disk.hold(int64(tl.space.reserve*3/4 + tl.store.unflushed()))
	if len(tl.data) < 20 {
		t.Fatalf("refused after %d entries", len(tl.data))
	}
	if disk.failedWrites() > 0 {
		t.Errorf("%d writes met the end of the disk before appends were refused", disk.failedWrites())
	}
	tl.mustPublish(int64(len(tl.data))) // what was sequenced last, too
	tl.check()
	if err := tl.Health(); !errors.Is(err, ErrDiskFull) {
		t.Errorf("health: %v", err)
	}
	answer := httptest.NewRecorder()
	Handler(tl.Log).ServeHTTP(answer, httptest.NewRequest("POST", "/add", strings.NewReader("x")))
	if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" || !strings.Contains(answer.Body.String(), ErrDiskFull.Error()) {
		t.Errorf("POST /add on a full disk: %d, Retry-After %q, %q", answer.Code, answer.Header().Get("Retry-After"), answer.Body)
	}
	if n := counted(t, tl.metrics.refusals.WithLabelValues("disk_full")); n < 2 {
		t.Errorf("%v refusals were counted", n)
	}

	disk.leave()
	disk.mu.Lock()
	disk.mu.capacity *= 2
	disk.mu.Unlock()
	resumed(tl)
	tl.check()
	tl.reopen()
	tl.check()
}

// TestFlushOnFullDisk: what appends left to be flushed when they were refused has
// its room, whether or not the store gives its write-ahead logs back. Rounds go
// on after it, and no write meets the end of the disk.
func TestFlushOnFullDisk(t *testing.T) {
	disk := newDiskFS(16 << 20)
	opts := diskOptions(t, disk)
	opts.tune = func(o *pebble.Options) {
		smallTables(o)
		o.MemTableSize = 16 << 20 // it begins with less, and doubles
	}
	tl := newTestLog(t, opts)
	eventually(t, "the ballast is made", func() bool { return disk.has(ballastName) })
	if err := appendUntilFull(tl); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("filling the disk: %v, want ErrDiskFull", err)
	}
	if owed := tl.store.unflushed(); owed < tl.space.reserve {
		t.Fatalf("only %d bytes have to be flushed, the reserve would do", owed)
	}
	flushed, err := tl.store.db.AsyncFlush()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-flushed:
	case <-within(t).Done():
		disk.mu.Lock()
		disk.mu.capacity *= 2
		disk.mu.Unlock()
		t.Fatal("the flush waits for room")
	}
	if err := tl.space.admitRound(); err != nil {
		t.Errorf("round after the flush: %v", err)
	}
	if n := disk.failedWrites(); n > 0 {
		t.Errorf("%d writes met the end of the disk", n)
	}
	tl.mustPublish(int64(len(tl.data)))

	disk.mu.Lock()
	disk.mu.capacity *= 2
	disk.mu.Unlock()
	resumed(tl)
	tl.check()
}

// resumed waits until an append succeeds again.
func resumed(tl *testLog) {
	tl.t.Helper()
	e := Entry{Data: []byte("there is room")}
	eventually(tl.t, "appends resume", func() bool {
		_, _, err := tl.Append(within(tl.t), e)
		if err != nil && !errors.Is(err, ErrDiskFull) {
			tl.t.Fatal(err)
		}
		return err == nil
	})
	tl.sequence(e)
	tl.mustPublish(int64(len(tl.data)))
	if err := tl.Health(); err != nil {
		tl.t.Errorf("health after the disk had room: %v", err)
	}
}

// TestDiskFilledByOthers takes the disk away between two commits: the write that
// finds it full gets the ballast, the next ones wait. Nobody is told anything
// false, reads go on, and the waiting write ends well when there is room.
func TestDiskFilledByOthers(t *testing.T) {
	disk := newDiskFS(16 << 20)
	tl := newTestLog(t, diskOptions(t, disk))
	eventually(t, "the ballast is made", func() bool { return disk.has(ballastName) })
	tl.addN(100)
	tl.mustPublish(100)

	disk.ambush()
	rng := rand.New(rand.NewPCG(1, 1))
	type outcome struct {
		entry Entry
		index int64
		err   error
	}
	answers := make(chan outcome)
	inFlight := 0
	ctx := within(t)
	eventually(t, "a write waits for room", func() bool {
		if inFlight < 100 {
			inFlight++
			e := bigEntry(rng)
			go func() {
				r, _, err := tl.Append(ctx, e)
				answers <- outcome{e, r.Index, err}
			}()
		}
		return tl.space.stuck.Load() != 0
	})
	if disk.has(ballastName) {
		t.Error("the ballast is still there")
	}
	if _, _, err := tl.Append(ctx, Entry{}); !errors.Is(err, ErrDiskFull) {
		t.Errorf("append while a write waits: %v, want ErrDiskFull", err)
	}
	if err := tl.Health(); !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "waiting") {
		t.Errorf("health: %v", err)
	}
	for i := range int64(100) { // reads go on
		if data, err := tl.EntryAt(i); err != nil || !bytes.Equal(data, tl.data[i]) {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	if _, err := tl.InclusionProof(7, 100); err != nil {
		t.Error(err)
	}

	disk.leave()
	byIndex := map[int64]Entry{}
	for range inFlight {
		switch a := <-answers; {
		case a.err == nil:
			byIndex[a.index] = a.entry
		case !errors.Is(a.err, ErrDiskFull):
			t.Errorf("append on a full disk: %v", a.err)
		}
	}
	for i := int64(100); len(byIndex) > 0; i++ {
		e, there := byIndex[i]
		if !there {
			t.Fatalf("index %d was given to nobody", i)
		}
		delete(byIndex, i)
		tl.sequence(e)
	}
	resumed(tl)
	eventually(t, "the ballast is made again", func() bool { return disk.has(ballastName) })
	tl.check()
	tl.reopen()
	tl.check()
}

// TestRoundsStopOnFullDisk: below the lower mark nothing is signed, and when
// there is room again the publisher goes on by itself.
func TestRoundsStopOnFullDisk(t *testing.T) {
	disk := newDiskFS(16 << 20)
	opts := diskOptions(t, disk)
	opts.HoldWitness = true
	tl := newTestLog(t, opts)
	tl.addN(10)
	tl.AllowWitness(10)
	tl.mustPublish(10)
	tl.addN(10)
	disk.fill(int64(tl.space.reserve/2) - 1)
	tl.AllowWitness(20)
	eventually(t, "a round is refused", func() bool { return tl.space.low.Load() })
	if tl.Signed().Size != 10 {
		t.Error("signed on a full disk")
	}
	disk.leave()
	tl.mustPublish(20)
}

// TestInodesRunOut: files that can no longer be made are a full disk, however
// many bytes are free, by the same marks.
func TestInodesRunOut(t *testing.T) {
	disk := newDiskFS(16 << 20)
	disk.setInodes(10_000, 10_000)
	opts := diskOptions(t, disk)
	opts.HoldWitness = true
	tl := newTestLog(t, opts)
	tl.addN(10)

	disk.setInodes(reserveInodes*3/4, 10_000)
	if _, _, err := tl.Append(within(t), Entry{}); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("append: %v, want ErrDiskFull", err)
	}
	if err := tl.Health(); err == nil || !strings.Contains(err.Error(), "only 192 more files") {
		t.Errorf("health: %v", err)
	}
	tl.AllowWitness(10) // rounds go on to half of the reserve
	tl.mustPublish(10)
	disk.setInodes(reserveInodes/2-1, 10_000)
	if err := tl.space.admitRound(); !errors.Is(err, ErrDiskFull) {
		t.Errorf("round: %v, want ErrDiskFull", err)
	}
	tl.check()

	disk.setInodes(5000, 10_000)
	tl.AllowWitness(1000)
	resumed(tl)
	disk.setInodes(0, 0) // made as needed, as on btrfs
	tl.addN(10)
	tl.check()
}

// TestOpenOnFullDisk: a full disk is the error of Open, which the ballast of an
// earlier run can prevent.
func TestOpenOnFullDisk(t *testing.T) {
	disk := newDiskFS(16 << 20)
	tl := newTestLog(t, diskOptions(t, disk))
	eventually(t, "the ballast is made", func() bool { return disk.has(ballastName) })
	tl.addN(300)
	tl.close()
	disk.fill(0)
	tl.open() // with the room of the ballast
	if disk.has(ballastName) {
		t.Error("the ballast is still there")
	}
	if _, _, err := tl.Append(within(t), Entry{}); !errors.Is(err, ErrDiskFull) {
		t.Errorf("append: %v, want ErrDiskFull", err)
	}
	tl.check()
	tl.close()
	disk.fill(0)
	if l, err := Open(tl.opts); !errors.Is(err, ErrDiskFull) {
		if err == nil {
			l.Close(context.Background())
		}
		t.Fatalf("opening on a full disk: %v, want ErrDiskFull", err)
	}

	// Another process, when there is room.
	again := newDiskFS(16 << 20)
	again.FS = disk.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	tl.opts.fs = again
	tl.open()
	resumed(tl)
	tl.check()
}

// TestReadWhenFull: a log that is started on a full disk whose ballast is gone
// serves everything that was acknowledged, after a clean stop and after a kill,
// writes nothing, is red, and says when it can be opened for writing.
func TestReadWhenFull(t *testing.T) {
	for _, killed := range []bool{false, true} {
		disk := newDiskFS(16 << 20)
		opts := diskOptions(t, disk)
		opts.ReadWhenFull = true
		tl := newTestLog(t, opts)
		if tl.Reopen() != nil {
			t.Error("a log on a disk with room is to be opened again")
		}
		tl.addN(600)
		tl.mustPublish(600)
		after := newDiskFS(16 << 20)
		if killed {
			after.FS = disk.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
			tl.close()
		} else {
			tl.close()
			after.FS = disk.FS
		}
		if err := after.FS.Remove("log/" + ballastName); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		after.hold(0)
		before, err := after.List("log")
		if err != nil {
			t.Fatal(err)
		}
		tl.opts.fs = after
		tl.open()
		tl.check()
		reopen := tl.Reopen()
		if reopen == nil {
			t.Fatal("the store was opened for writing")
		}
		if _, _, err := tl.Append(within(t), Entry{}); !errors.Is(err, ErrDiskFull) {
			t.Errorf("append: %v, want ErrDiskFull", err)
		}
		if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); !errors.Is(err, ErrDiskFull) {
			t.Errorf("backup: %v, want ErrDiskFull", err)
		}
		if err := tl.BeginRotation(testKey(5)); !errors.Is(err, ErrDiskFull) {
			t.Errorf("rotation: %v, want ErrDiskFull", err)
		}
		if err := tl.RotateReceiptKey(testKey(6)); !errors.Is(err, ErrDiskFull) {
			t.Errorf("rotation of the receipt key: %v, want ErrDiskFull", err)
		}
		if err := tl.Health(); !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "opened to be read only") {
			t.Errorf("health: %v", err)
		}
		if st := tl.Status(); st.Ready || st.Healthy || st.Integrated != 600 || st.Published != 600 {
			t.Errorf("status: %+v", st)
		}
		if r := fsckOf(t, tl.Log); r.Err() != nil || r.Size != 600 {
			t.Errorf("fsck: %+v", r)
		}
		if p, err := tl.InclusionProof(7, 600); err != nil || len(p) == 0 {
			t.Errorf("proof: %v", err)
		}
		answer := httptest.NewRecorder()
		Handler(tl.Log).ServeHTTP(answer, httptest.NewRequest("POST", "/add", strings.NewReader("x")))
		if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" || answer.Header().Get(codeHeader) != "disk_full" {
			t.Errorf("POST /add: %d %v %s", answer.Code, answer.Header(), answer.Body)
		}
		select {
		case <-reopen:
			t.Error("the disk is full, and the log is to be opened again")
		default:
		}
		now, err := after.List("log")
		slices.Sort(now)
		slices.Sort(before)
		if err != nil || !slices.Equal(now, before) || after.failedWrites() > 0 {
			t.Errorf("the store had %q, has %q, %v; %d writes failed", before, now, err, after.failedWrites())
		}

		after.leave()
		select {
		case <-reopen:
		case <-within(t).Done():
			t.Fatal("there is room, and nobody says so")
		}
		tl.close()
		tl.open()
		if tl.Reopen() != nil {
			t.Error("the store was opened to be read with room on the disk")
		}
		resumed(tl)
		tl.check()
		tl.close()
	}
}

// TestCloseOnFullDisk: when its time is up, Close does not wait for room.
func TestCloseOnFullDisk(t *testing.T) {
	disk := newDiskFS(16 << 20)
	opts := diskOptions(t, disk)
	ended := make(chan error, 10)
	opts.Fatal = func(err error) { ended <- err; select {} }
	tl := newTestLog(t, opts)
	tl.addN(50)
	tl.mustPublish(50)
	disk.ambush()
	rng := rand.New(rand.NewPCG(1, 1))
	eventually(t, "a write waits for room", func() bool {
		e := bigEntry(rng)
		go tl.Append(within(t), e)
		return tl.space.stuck.Load() != 0
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	closed := make(chan error, 1)
	go func(l *Log) { closed <- l.Close(ctx) }(tl.Log)
	var err error
	select {
	case err = <-closed:
	case err = <-ended: // a commit had an unknown outcome
	case <-within(t).Done():
		t.Fatal("Close waits for room")
	}
	t.Logf("ended: %v", err)
	tl.Log = nil

	// What was there before is there after a restart.
	disk.leave()
	again := opts
	again.fs = disk.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	l, err := Open(again)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(context.Background())
	for i := range int64(50) {
		if data, err := l.EntryAt(i); err != nil || !bytes.Equal(data, tl.data[i]) {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
}

func TestReserveAdapts(t *testing.T) {
	for _, c := range []struct{ total, option, reserve, ballast int64 }{
		{64 << 20, 0, 64 << 20 / 10, 64 << 20 / 40},
		{100 << 30, 0, 1 << 30, 64 << 20},
		{100 << 30, 5 << 30, 5 << 30, 64 << 20},
		{100 << 30, -1, 0, 0},
	} {
		o := testOptions(newDiskFS(c.total))
		o.DiskReserve = c.option
		o.setDefaults()
		s := newSpace(&o)
		if int64(s.reserve) != c.reserve || int64(s.ballast) != c.ballast {
			t.Errorf("of %d bytes, asked for %d: reserve %d, ballast %d; want %d and %d", c.total, c.option, s.reserve, s.ballast, c.reserve, c.ballast)
		}
	}
}
