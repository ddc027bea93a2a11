package logserver

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// FsckOptions say how Fsck goes about it. The zero value is useful.
type FsckOptions struct {
	// Workers is how many goroutines hash at a time; 0 means one for each CPU.
	// Each needs the memory of one entry bundle, at most 16 MiB.
	Workers int
	// Progress, if not nil, is told how many entries have been checked, of how
	// many. It is called from one goroutine at a time.
	Progress func(done, size int64)
	// CheckOpening, if not nil, says whether a stored opening opens its entry.
	// It is called from several goroutines, and keeps neither slice.
	CheckOpening func(entry, opening []byte) error

	// signed is what the signed file said before the store was looked at, or why
	// it says nothing; nil if the store is looked at without its file.
	signed    *signedFile
	signedErr error
}

// MaxFindings bounds the findings that a report lists.
const MaxFindings = 100

// Finding is something in a store that is not as it has to be.
type Finding struct {
	// Resource is what is wrong: the tlog-tiles path of a tile or entry bundle,
	// or, of what has no such path, its name, such as "signed head".
	Resource string `json:"resource"`
	// First and End are the bytes of it that are wrong, End not included; both
	// are 0 if it is missing, unreadable or wrong as a whole.
	First int64 `json:"first_byte,omitempty"`
	End   int64 `json:"end_byte,omitempty"`
	// Index is that of the first entry concerned; -1 if none is in particular.
	Index int64 `json:"index"`
	// What says what is wrong.
	What string `json:"what"`
}

func (f Finding) String() string {
	if f.End > 0 {
		return fmt.Sprintf("%s, bytes %d to %d: %s", f.Resource, f.First, f.End-1, f.What)
	}
	return fmt.Sprintf("%s: %s", f.Resource, f.What)
}

// FsckReport says what Fsck has checked and found.
type FsckReport struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   Hash   `json:"root_hash"`
	// What was read and found to be as it has to be, or is among the findings.
	Bundles   int64 `json:"entry_bundles"`
	Tiles     int64 `json:"tiles"`
	Notes     int64 `json:"notes"`
	Openings  int64 `json:"openings"`
	DedupKeys int64 `json:"dedup_keys"`
	Registers int64 `json:"registers"`
	// OpeningsChecked says that the openings were held against their entries, not
	// only counted.
	OpeningsChecked bool `json:"openings_checked"`
	// Findings lists the first MaxFindings by index; Count is how many there are.
	Findings []Finding `json:"findings"`
	Count    int64     `json:"finding_count"`
}

// Err returns nil if the store is sound, and otherwise ErrCorrupt with the first
// finding.
func (r *FsckReport) Err() error {
	if len(r.Findings) == 0 {
		return nil
	}
	if r.Count == 1 {
		return corrupt("%s", r.Findings[0])
	}
	return corrupt("%s (and %d more)", r.Findings[0], r.Count-1)
}

// Fsck reads the whole store, as it was when it began, and recomputes every
// tile, the root hash and the heads from the entries. It needs no key: private
// keys are not read, and verifier keys are in the store. Appends go on
// meanwhile. The error is that of ctx, or says that the store could not even be
// looked at; whatever is wrong in it is in the report.
func (l *Log) Fsck(ctx context.Context, o FsckOptions) (*FsckReport, error) {
	o.signed, o.signedErr = readSignedFile(l.opts.fs, l.opts.Dir)
	return l.store.fsck(ctx, o)
}

func (s *store) fsck(ctx context.Context, o FsckOptions) (report *FsckReport, err error) {
	err = s.pin(func(r reader) (err error) {
		report, err = fsckReader(ctx, r, o)
		return err
	})
	return report, err
}

// fsck is one check of one consistent snapshot.
type fsck struct {
	r    reader
	opts FsckOptions
	id   *identity
	keys []note.Verifier // that may have signed notes
	size int64
	root Hash // what the head says

	mu     sync.Mutex // guards report
	report FsckReport
}

func fsckReader(ctx context.Context, r reader, o FsckOptions) (*FsckReport, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	f := &fsck{r: r, opts: o}
	var err error
	if f.id, err = r.identity(); err != nil {
		return nil, err
	}
	if f.keys, err = f.id.verifiers(); err != nil {
		return nil, err
	}
	raw, err := r.get(metaHead)
	if err != nil {
		return nil, fmt.Errorf("reading the head: %w", lost(err))
	}
	if err := f.readHead(raw); err != nil {
		return nil, err
	}
	f.report.Origin, f.report.Size, f.report.Root = f.id.origin, f.size, f.root
	f.report.OpeningsChecked = o.CheckOpening != nil

	// Deduplication keys and registers depend on nothing else.
	var apart sync.WaitGroup
	apart.Go(func() { f.checkConditions(ctx) })
	tree, err := f.checkTree(ctx)
	apart.Wait()
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	f.checkHeads(ctx, tree)
	f.checkStrays()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(f.report.Findings, compareFindings)
	return &f.report, nil
}

// readHead sets the size of the tree that is checked, and the root that it should
// have. A size far beyond all that is stored is wrong: what is stored is checked then.
func (f *fsck) readHead(raw []byte) error {
	entries, err := f.r.end([]byte{kindEntry}, []byte{kindEntry + 1}, frameItems)
	if err != nil {
		return err
	}
	leaves, err := f.r.end([]byte{kindTile, 0}, []byte{kindTile, 1}, tileItems)
	if err != nil {
		return err
	}
	stored := max(entries, leaves)
	switch f.size, f.root, err = decodeHead(raw); {
	case stored < 0:
		return err
	case err != nil:
		f.wrong("head", "%v", err)
		f.size = stored
	case f.size-stored > TileWidth: // a bundle and its tile may be missing
		f.wrong("head", "it says that there are %d entries, and nothing is stored of those from index %d on", f.size, stored)
		f.size = stored
	}
	return nil
}

// compareFindings sorts by index, those of no entry last, and within an index
// what is wrong before what follows from it: the entries, then the tiles from
// the leaves up.
func compareFindings(a, b Finding) int {
	isTile := func(f Finding) int {
		if strings.HasPrefix(f.Resource, "tile/entries/") {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(uint64(a.Index), uint64(b.Index)), // -1 is the largest
		cmp.Compare(isTile(a), isTile(b)),
		cmp.Compare(a.Resource, b.Resource),
		cmp.Compare(a.First, b.First),
		cmp.Compare(a.What, b.What),
	)
}

// found adds a finding.
func (f *fsck) found(finding Finding) {
	finding.What = strings.ReplaceAll(finding.What, "; "+repairHint, "") // once is enough
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.report
	r.Count++
	if len(r.Findings) < MaxFindings {
		r.Findings = append(r.Findings, finding)
		return
	}
	last := 0 // the one to give way, if it comes later
	for i := range r.Findings {
		if compareFindings(r.Findings[i], r.Findings[last]) > 0 {
			last = i
		}
	}
	if compareFindings(finding, r.Findings[last]) < 0 {
		r.Findings[last] = finding
	}
}

// wrong adds a finding about something as a whole that is of no entry.
func (f *fsck) wrong(resource, format string, args ...any) {
	f.found(Finding{Resource: resource, Index: -1, What: fmt.Sprintf(format, args...)})
}

// count adds to one of the report's counters.
func (f *fsck) count(counter *int64, n int64) {
	f.mu.Lock()
	*counter += n
	f.mu.Unlock()
}

// checkHeads compares the head, the signed and the published notes with the
// tree that the entries make.
func (f *fsck) checkHeads(ctx context.Context, tree *treeCheck) {
	if got := tree.root(); got != f.root {
		f.wrong("head", "the entries of tree size %d make root %v, the head says %v", f.size, got, f.root)
	}
	e, err := f.r.loadEdge(f.size)
	if err != nil {
		f.wrong("head", "the edge of the tree: %v", err)
		return
	}
	s := snapshot{view: e.view(e.root()), store: f.r}
	signed := f.checkNote(s, metaSigned, "signed head", -1)
	published := f.checkNote(s, metaPublished, "published checkpoint", -1)
	if published > signed {
		f.wrong("published checkpoint", "its tree size %d is beyond the signed %d", published, signed)
	}
	err = f.r.scan([]byte{kindNote}, []byte{kindNote + 1}, func(key, value []byte) error {
		if len(key) != 9 {
			f.wrong("published checkpoints", "unexpected key %q", key)
			return nil
		}
		size := keyIndex(key)
		f.checkNote(s, key, fmt.Sprintf("published checkpoint of tree size %d", size), size)
		return ctx.Err()
	})
	if err != nil && ctx.Err() == nil {
		f.wrong("published checkpoints", "%v", err)
	}
	f.checkImport(s)
	f.checkSignedFile(s)
}

// checkSignedFile compares the head that is kept apart from the store: a store
// that has lost its last entries is sound in itself.
func (f *fsck) checkSignedFile(s snapshot) {
	err := f.opts.signedErr
	if err == nil && f.opts.signed != nil {
		err = errors.Join(f.opts.signed.reaches(f.size), f.opts.signed.checkIn(s))
	}
	if err != nil {
		f.wrong(signedName, "%v", err)
	}
}

// checkNote checks a stored note and returns its tree size, -1 if there is none
// or it is not right. Want is its size, -1 for any.
func (f *fsck) checkNote(s snapshot, key []byte, name string, want int64) int64 {
	raw, err := f.r.get(key)
	if errors.Is(err, ErrNotFound) && string(key) == string(metaPublished) {
		return -1
	}
	if err != nil {
		f.wrong(name, "%v", lost(err))
		return -1
	}
	f.count(&f.report.Notes, 1)
	c, err := checkpoint.Open(raw, f.id.origin, f.keys)
	if err != nil {
		f.wrong(name, "%v", err)
		return -1
	}
	if want >= 0 && c.Size != want {
		f.wrong(name, "the note is of tree size %d", c.Size)
		return -1
	}
	if c.Size > f.size {
		f.wrong(name, "its tree size %d is beyond the stored %d", c.Size, f.size)
		return -1
	}
	if root, err := s.rootAt(c.Size); err != nil {
		f.wrong(name, "%v", err)
	} else if root != c.Root {
		f.wrong(name, "the stored tree of size %d has root %v, the note says %v", c.Size, root, c.Root)
	}
	return c.Size
}

// checkImport checks what an imported log keeps of its source.
func (f *fsck) checkImport(s snapshot) {
	const name = "checkpoint of the imported log"
	raw, err := f.r.get(metaImport)
	if errors.Is(err, ErrNotFound) {
		return
	}
	if err != nil {
		f.wrong(name, "%v", err)
		return
	}
	mark, err := decodeImportMark(raw)
	if err != nil {
		f.wrong(name, "%v", err)
		return
	}
	if mark.note == nil {
		return // an import under way
	}
	first, err := mark.open()
	if err != nil {
		f.wrong(name, "%v", err)
		return
	}
	root, err := s.rootAt(first.Size)
	if err != nil {
		f.wrong(name, "%v", err)
	} else if root != first.Root {
		f.wrong(name, "the stored tree of size %d does not have its root %v", first.Size, first.Root)
	}
}

// checkConditions checks deduplication keys and registers. Each entry was
// sequenced with one deduplication key at most, so no index may occur twice.
func (f *fsck) checkConditions(ctx context.Context) {
	seen := make([]uint64, (f.size+63)/64) // at most a bit for each entry that is stored
	err := f.r.scan([]byte{kindDedup}, []byte{kindDedup + 1}, func(key, value []byte) error {
		f.report.DedupKeys++ // nobody else touches it
		name := fmt.Sprintf("deduplication key %x", key[1:])
		if len(key) < 2 || len(key) > 1+MaxDedupSize || len(value) != 8 {
			f.wrong(name, "%d bytes with a value of %d", len(key)-1, len(value))
			return ctx.Err()
		}
		index := int64(binary.BigEndian.Uint64(value)) - 1
		if index < 0 || index >= f.size {
			f.wrong(name, "it names index %d of a tree of size %d", index, f.size)
			return ctx.Err()
		}
		if seen[index/64]&(1<<(index%64)) != 0 {
			f.found(Finding{Resource: name, Index: index, What: "another key names the same entry"})
		}
		seen[index/64] |= 1 << (index % 64)
		return ctx.Err()
	})
	if err != nil && ctx.Err() == nil {
		f.wrong("deduplication keys", "%v", err)
	}
	err = f.r.scan([]byte{kindRegister}, []byte{kindRegister + 1}, func(key, value []byte) error {
		f.report.Registers++ // likewise
		if len(key) < 2 || len(key) > 1+MaxKeySize || len(value) != 8 || binary.BigEndian.Uint64(value) == 0 {
			f.wrong(fmt.Sprintf("register %q", key[1:]), "%d bytes with the value %x", len(key)-1, value)
		}
		return ctx.Err()
	})
	if err != nil && ctx.Err() == nil {
		f.wrong("registers", "%v", err)
	}
}

// checkStrays looks for what no log of this size writes.
func (f *fsck) checkStrays() {
	known := []byte{kindMeta, kindTile, kindEntry, kindOpening, kindDedup, kindRegister, kindNote}
	beyond := func(name string, from, to []byte) {
		err := f.r.scan(from, to, func(key, _ []byte) error {
			f.found(Finding{Resource: name, Index: f.size, What: fmt.Sprintf("key %x is stored beyond tree size %d", key, f.size)})
			return errStopped
		})
		if err != nil && !errors.Is(err, errStopped) {
			f.wrong(name, "%v", err)
		}
	}
	for kind := 0; kind <= 0xff; kind++ {
		if slices.Contains(known, byte(kind)) {
			continue
		}
		to := []byte{byte(kind) + 1}
		if kind == 0xff {
			to = nil
		}
		beyond(fmt.Sprintf("keys of the unknown kind %q", rune(kind)), []byte{byte(kind)}, to)
	}
	beyond("entries", indexKey(kindEntry, f.size), []byte{kindEntry + 1})
	beyond("openings", indexKey(kindOpening, f.size), []byte{kindOpening + 1})
	beyond("published checkpoints", indexKey(kindNote, f.size+1), []byte{kindNote + 1})
	for level := range maxLevels {
		beyond(fmt.Sprintf("tiles of level %d", level), tileKey(level, f.size>>(level*tileHeight)), []byte{kindTile, byte(level) + 1})
	}
	beyond(fmt.Sprintf("tiles above level %d", maxLevels-1), []byte{kindTile, maxLevels}, []byte{kindTile + 1})
}

// treeCheck builds the levels above the leaf hashes and compares them with what
// is stored. It takes the hashes of level 1 in order.
type treeCheck struct {
	f      *fsck
	levels [maxLevels][]byte // hashes of the tile that is not full yet
	number [maxLevels]int64  // of that tile
}

// add appends a hash to a level, from 1 on, and checks the tile that it fills.
func (t *treeCheck) add(level int, h Hash) {
	for {
		t.levels[level] = append(t.levels[level], h[:]...)
		if len(t.levels[level]) < TileWidth*HashSize {
			return
		}
		t.compare(level)
		h = foldPerfect(t.levels[level])
		t.levels[level] = t.levels[level][:0]
		t.number[level]++
		level++
	}
}

// compare holds what was computed of a tile against what is stored.
func (t *treeCheck) compare(level int) {
	f, number, want := t.f, t.number[level], t.levels[level]
	f.count(&f.report.Tiles, 1)
	c := f.cursor(resource{level: level}, number*TileWidth, (number+1)*TileWidth)
	defer c.close()
	got, err := c.read(nil, number*TileWidth)
	first := number * TileWidth << (level * tileHeight)
	name := tilePath{level: level, number: number, width: len(want) / HashSize}.String()
	if err != nil {
		f.found(Finding{Resource: name, Index: first, What: err.Error()})
		return
	}
	if len(got) != len(want) {
		f.found(Finding{Resource: name, Index: first, What: fmt.Sprintf("%d bytes are stored, it has %d", len(got), len(want))})
		return
	}
	if i := firstDifference(got, want); i >= 0 {
		f.found(Finding{Resource: name, First: i, End: i + HashSize, Index: first + i/HashSize<<(level*tileHeight),
			What: "not what the level below hashes to"})
	}
}

// firstDifference returns where the first hash that differs begins, or -1.
func firstDifference(got, want []byte) int64 {
	for i := 0; i < len(want); i += HashSize {
		if Hash(got[i:]) != Hash(want[i:]) {
			return int64(i)
		}
	}
	return -1
}

// root compares the unfinished tiles and returns the root of the tree.
func (t *treeCheck) root() Hash {
	var roots []Hash
	for bit := bits.Len64(uint64(t.f.size)) - 1; bit >= 0; bit-- {
		if t.f.size>>bit&1 == 0 {
			continue
		}
		level, height := bit/tileHeight, bit%tileHeight
		hashes := t.levels[level]
		first := len(hashes) / HashSize >> (height + 1) << (height + 1)
		if end := (first + 1<<height) * HashSize; end <= len(hashes) {
			roots = append(roots, foldPerfect(hashes[first*HashSize:end]))
		}
	}
	return foldRoots(roots)
}
