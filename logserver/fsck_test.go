package logserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// fsckStore checks the closed log of the options.
func fsckStore(t *testing.T, opts Options, o FsckOptions) *FsckReport {
	t.Helper()
	s, err := OpenStore(StoreOptions{Dir: opts.Dir, ReadOnly: true, fs: opts.fs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	report, err := s.Fsck(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestFsckSound(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 255, 256, 257, 700, fsckSpan*TileWidth + 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			opts := testOptions(vfs.NewMem())
			tl := newTestLog(t, opts)
			tl.addN(size)
			for i := range 3 {
				e := tl.nextEntry()
				e.Dedup, e.Sets = fmt.Appendf(nil, "key %d", i), []Register{{"r", uint64(i)}}
				tl.add(e)
			}
			tl.mustPublish(int64(size) + 3)
			var progress []int64
			o := FsckOptions{Workers: 3, Progress: func(done, size int64) { progress = append(progress, done) }}
			for _, check := range []func() (*FsckReport, error){
				func() (*FsckReport, error) { return tl.Fsck(t.Context(), o) },
				func() (*FsckReport, error) { tl.close(); return fsckStore(t, opts, o), nil },
			} {
				progress = nil
				r, err := check()
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Err(); err != nil || r.Count != 0 {
					t.Errorf("sound store: %v, %d findings", err, r.Count)
				}
				openings := int64(0)
				for _, o := range tl.openings {
					if o != nil {
						openings++
					}
				}
				if r.Size != int64(size)+3 || r.Root != tl.root(t, r.Size) || r.DedupKeys != 3 || r.Registers != 1 || r.Openings != openings ||
					r.Bundles != (r.Size+255)/256 || r.Notes < 3 || r.OpeningsChecked {
					t.Errorf("report is %+v, want %d openings", r, openings)
				}
				if len(progress) == 0 || progress[len(progress)-1] != r.Size {
					t.Errorf("progress is %v", progress)
				}
			}
		})
	}
}

// damaged returns the options of a log of three full bundles and ten entries.
func damaged(t *testing.T) Options {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(damagedSize)
	tl.mustPublish(damagedSize)
	tl.close()
	return opts
}

const damagedSize = 778

// TestFsckFinds damages one stored value each and expects it to be named.
func TestFsckFinds(t *testing.T) {
	t.Parallel()
	const size = damagedSize
	uint := func(n uint64) func([]byte) []byte {
		return func([]byte) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	}
	set := func(v string) func([]byte) []byte { return func([]byte) []byte { return []byte(v) } }
	const frame = 2 + 10 // of "entry " and four bytes
	for name, c := range map[string]struct {
		key    []byte
		change func([]byte) []byte
		want   Finding // What is a part of it
	}{
		"entry":                {indexKey(kindEntry, 512), flip(5*frame + 7), Finding{"tile/entries/002", 5 * frame, 6 * frame, 517, "not the one that was hashed"}},
		"first entry":          {indexKey(kindEntry, 0), flip(2), Finding{"tile/entries/000", 0, frame, 0, "not the one"}},
		"unfinished entry":     {indexKey(kindEntry, size-10), flip(2*frame + 3), Finding{"tile/entries/003.p/10", 2 * frame, 3 * frame, size - 8, "differ"}},
		"frame":                {indexKey(kindEntry, 512), flip(1), Finding{"tile/entries/002", 0, 256 * frame, 512, "entries are stored"}},
		"bundle gone":          {indexKey(kindEntry, 512), remove, Finding{"tile/entries/002", 0, 0, 512, "missing"}},
		"bundle cut":           {indexKey(kindEntry, 512), func(b []byte) []byte { return b[:len(b)-frame] }, Finding{"tile/entries/002", 255 * frame, 0, 767, "255 entries"}},
		"bundle longer":        {indexKey(kindEntry, 512), func(b []byte) []byte { return append(b, 0, 0) }, Finding{"tile/entries/002", 256 * frame, 256*frame + 2, 768, "after the 256"}},
		"frame cut":            {indexKey(kindEntry, 512), func(b []byte) []byte { return b[:len(b)-1] }, Finding{"tile/entries/002", 255 * frame, 256*frame - 1, 767, "do not fill"}},
		"run misplaced":        {indexKey(kindEntry, 600), set("\x00\x00"), Finding{"tile/entries/002", 256 * frame, 0, 768, "key"}},
		"leaf hash":            {tileKey(0, 512), flip(33), Finding{"tile/0/002", 32, 64, 513, "not that of its entry"}},
		"tile gone":            {tileKey(0, 512), remove, Finding{"tile/0/002", 0, 0, 512, "missing"}},
		"tile cut":             {tileKey(0, 512), func(b []byte) []byte { return b[:64] }, Finding{"tile/0/002", 0, 0, 512, "64 bytes"}},
		"no hashes":            {tileKey(0, 512), func(b []byte) []byte { return b[:63] }, Finding{"tile/0/002", 0, 0, 512, "63 bytes"}},
		"level 1 hash":         {tileKey(1, 0), flip(2*32 + 1), Finding{"tile/1/000.p/3", 64, 96, 512, "level below"}},
		"level 1 gone":         {tileKey(1, 0), remove, Finding{"tile/1/000.p/3", 0, 0, 0, "missing"}},
		"head root":            {metaHead, flip(20), Finding{"head", 0, 0, -1, "the head says"}},
		"signed head":          {metaSigned, flip(25), Finding{"signed head", 0, 0, -1, ""}},
		"signed head gone":     {metaSigned, remove, Finding{"signed head", 0, 0, -1, "missing"}},
		"published":            {metaPublished, flip(25), Finding{"published checkpoint", 0, 0, -1, ""}},
		"kept checkpoint":      {indexKey(kindNote, 7), set("x"), Finding{"published checkpoint of tree size 7", 0, 0, -1, ""}},
		"checkpoint beyond":    {indexKey(kindNote, size+1), set("x"), Finding{"published checkpoints", 0, 0, size, "beyond"}},
		"note key":             {[]byte("px"), set("x"), Finding{"published checkpoints", 0, 0, -1, "unexpected key"}},
		"entry beyond":         {indexKey(kindEntry, size+1), set("\x00\x01x"), Finding{"entries", 0, 0, size, "beyond"}},
		"hash beyond":          {tileKey(0, size+256), set("x"), Finding{"tiles of level 0", 0, 0, size, "beyond"}},
		"level beyond":         {tileKey(9, 0), set("x"), Finding{"tiles above level 7", 0, 0, size, "beyond"}},
		"opening beyond":       {indexKey(kindOpening, size), set("x"), Finding{"openings", 0, 0, size, "beyond"}},
		"opening too long":     {indexKey(kindOpening, 3), func([]byte) []byte { return make([]byte, MaxOpeningSize+1) }, Finding{"opening of entry 3", 0, 0, 3, "at most"}},
		"unknown kind":         {[]byte("z"), set("x"), Finding{"keys of the unknown kind 'z'", 0, 0, size, ""}},
		"dedup beyond":         {dedupKey([]byte("a")), uint(size + 1), Finding{"deduplication key 61", 0, 0, -1, "names index"}},
		"dedup value":          {dedupKey([]byte("a")), set("x"), Finding{"deduplication key 61", 0, 0, -1, "value of 1"}},
		"register":             {registerKey("a"), uint(0), Finding{`register "a"`, 0, 0, -1, ""}},
		"mark of an import":    {metaImport, set("x"), Finding{"checkpoint of the imported log", 0, 0, -1, ""}},
		"source of the import": {metaImport, set("imported\nx\nx"), Finding{"checkpoint of the imported log", 0, 0, -1, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			opts := damaged(t)
			tamper(t, opts, c.key, c.change)
			r := fsckStore(t, opts, FsckOptions{Workers: 2})
			if err := r.Err(); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("report: %v", err)
			}
			for _, f := range r.Findings {
				if f.Resource == c.want.Resource && f.First == c.want.First && f.End == c.want.End && f.Index == c.want.Index && strings.Contains(f.What, c.want.What) {
					if f != r.Findings[0] && f.Index >= 0 {
						t.Errorf("is not the first of %v", r.Findings)
					}
					return
				}
			}
			t.Errorf("found %+v, want %+v", r.Findings, c.want)
		})
	}
}

// TestFsckHeadSize: a head that is wrong about how much there is makes nobody look for
// more, and the rest is checked.
func TestFsckHeadSize(t *testing.T) {
	t.Parallel()
	for _, bit := range []int{16, 32, 40, 56, 62, 63} {
		opts := damaged(t)
		tamper(t, opts, metaHead, func(b []byte) []byte { b[7-bit/8] ^= 1 << (bit % 8); return b })
		tamper(t, opts, dedupKey([]byte("a")), func([]byte) []byte { return binary.BigEndian.AppendUint64(nil, 1) })
		r := fsckStore(t, opts, FsckOptions{})
		if r.Count == 0 || r.Count > 1 && bit < 63 || r.Findings[0].Resource != "head" {
			t.Errorf("bit %d: %v", bit, r.Findings)
		}
		if r.Size != damagedSize || r.Bundles != damagedSize/TileWidth+1 || r.DedupKeys != 1 {
			t.Errorf("bit %d: %+v", bit, r)
		}
	}
}

func TestFsckDedupNamesAnEntryTwice(t *testing.T) {
	opts := damaged(t)
	for _, key := range []string{"a", "b"} {
		tamper(t, opts, dedupKey([]byte(key)), func([]byte) []byte { return binary.BigEndian.AppendUint64(nil, 8) })
	}
	r := fsckStore(t, opts, FsckOptions{})
	if r.Count != 1 || r.Findings[0].Index != 7 || r.DedupKeys != 2 {
		t.Errorf("report: %+v", r)
	}
}

func TestFsckManyFindings(t *testing.T) {
	t.Parallel()
	opts := testOptions(corruptible(t, 256*256+256+10))
	db, err := pebble.Open(opts.Dir, &pebble.Options{FS: opts.fs, Logger: &faults{logger: discard}})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Delete(indexKey(kindEntry, 0), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteRange(indexKey(kindEntry, 512), indexKey(kindEntry, 201*256), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Delete(tileKey(2, 0), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	r := fsckStore(t, opts, FsckOptions{Workers: 4})
	// 200 bundles, the tile, and the edge that needs it.
	if r.Count != 202 || len(r.Findings) != MaxFindings || r.Findings[0].Index != 0 || r.Findings[2].Index != 512 {
		t.Errorf("%d findings, %d listed, %v", r.Count, len(r.Findings), r.Findings[:3])
	}
	if err := r.Err(); !strings.Contains(err.Error(), "tile/entries/000: missing from the store (and 201 more)") {
		t.Error(err)
	}
}

func TestFsckOpenings(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(600)
	bad := int64(513)
	r, err := tl.Fsck(t.Context(), FsckOptions{CheckOpening: func(entry, opening []byte) error {
		index := int64(binary.BigEndian.Uint32(opening[len("opening "):]))
		if string(entry[len("entry "):]) != string(opening[len("opening "):]) {
			t.Errorf("opening %d was checked against entry %q", index, entry)
		}
		if index == bad {
			return errors.New("does not open")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Openings != 200 || !r.OpeningsChecked || len(r.Findings) != 1 || r.Findings[0].Index != bad || r.Findings[0].Resource != "opening of entry 513" {
		t.Errorf("report: %+v", r)
	}
}

func TestFsckStops(t *testing.T) {
	opts := testOptions(corruptible(t, 256*256+256+10))
	s, err := OpenStore(StoreOptions{Dir: opts.Dir, fs: opts.fs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	o := FsckOptions{Workers: 1, Progress: func(int64, int64) { cancel() }}
	if _, err := s.Fsck(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestOpenStore(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	if _, err := OpenStore(StoreOptions{Dir: "log", fs: opts.fs}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no directory: %v", err)
	}
	tl := newTestLog(t, opts)
	if _, err := OpenStore(StoreOptions{Dir: "log", fs: opts.fs}); !errors.Is(err, ErrLocked) {
		t.Errorf("open elsewhere: %v", err)
	}
	tl.close()
	s, err := OpenStore(StoreOptions{Dir: "log", fs: opts.fs})
	if err != nil {
		t.Fatal(err)
	}
	if s.Origin() != opts.Origin || len(s.Keys()) != 2 || s.Suspended() != nil {
		t.Errorf("%q, %v, %v", s.Origin(), s.Keys(), s.Suspended())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tamper(t, opts, metaIdentity, func(b []byte) []byte { return append(b, "x\n"...) })
	if _, err := OpenStore(StoreOptions{Dir: "log", fs: opts.fs}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("damaged identity: %v", err)
	}
	tamper(t, opts, metaFormat, remove)
	if _, err := OpenStore(StoreOptions{Dir: "log", fs: opts.fs}); !errors.Is(err, ErrNotFound) {
		t.Errorf("interrupted init: %v", err)
	}
}

// BenchmarkFsck checks logs of 256-byte entries: at least 200,000 a second are
// expected of two CPUs.
func BenchmarkFsck(b *testing.B) {
	opts := testOptions(nil)
	opts.Dir = b.TempDir()
	if err := Create(opts); err != nil {
		b.Fatal(err)
	}
	l, err := Open(opts)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close(context.Background())
	const n = 1 << 20
	batch := make([]Entry, MaxBatch)
	for first := 0; first < n; first += len(batch) {
		for i := range batch {
			batch[i].Data = binary.BigEndian.AppendUint64(make([]byte, 248), uint64(first+i))
		}
		if _, _, err := l.AppendBatch(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		r, err := l.Fsck(b.Context(), FsckOptions{})
		if err != nil || r.Err() != nil {
			b.Fatal(err, r)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// TestFsckLostTail: a store that is sound and does not reach the last signed
// head, or has another one, is not sound.
func TestFsckLostTail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"entries are lost": {encodeSignedSlot(Head{Size: damagedSize + 1, Root: LeafHash(nil)}), "it has lost entries"},
		"another history":  {encodeSignedSlot(Head{Size: damagedSize - 1, Root: LeafHash(nil)}), "the log has signed"},
		"no head":          {make([]byte, signedSlotUsed), "holds no head"},
	} {
		opts := damaged(t)
		change(t, opts.fs, opts.fs.PathJoin(opts.Dir, signedName), func([]byte) []byte { return c.file })
		r := fsckStore(t, opts, FsckOptions{})
		if r.Count != 1 || r.Findings[0].Resource != signedName || !strings.Contains(r.Findings[0].What, c.want) {
			t.Errorf("%s: %v", name, r.Findings)
		}
	}
}
