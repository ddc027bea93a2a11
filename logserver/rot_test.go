package logserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// rotten returns the disk of a closed log of the given size, with files of every
// kind that Pebble writes.
// Those of one that was killed hold the last part in the write-ahead log.
func rotten(t *testing.T, size int, killed bool) (*vfs.MemFS, *model) {
	t.Helper()
	fs := vfs.NewCrashableMem()
	opts := testOptions(fs)
	opts.tune = smallTables
	tl := newTestLog(t, opts)
	for len(tl.data) < size {
		tl.addN(size / 5)
		tl.mustPublish(int64(len(tl.data)))
		if len(tl.data) < size {
			if err := tl.store.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !killed {
		tl.close()
	}
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}), &tl.model
}

// change rewrites a file of a disk.
func change(t *testing.T, fs vfs.FS, path string, edit func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	w, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(edit(b)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestRottenFiles changes bytes of every file of a store, cuts it short, and
// removes it. Whatever that hits, opening refuses with ErrCorrupt and says what
// to do, or the log runs and tells nothing that is not so: what it cannot read
// is an error, and nothing is signed or appended on top of it.
func TestRottenFiles(t *testing.T) {
	t.Parallel()
	t.Run("stopped", func(t *testing.T) { rotFiles(t, 1, false) })
	t.Run("killed", func(t *testing.T) { rotFiles(t, 2, true) })
}

// rotFiles damages each file in some of seven ways.
func rotFiles(t *testing.T, ways int, killed bool) {
	const size = 700
	disk, m := rotten(t, size, killed)
	names, err := disk.List("log")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(testSeed(t), 4))
	kinds := map[string]int{}
	refused, noticed := 0, 0
	for _, name := range names {
		path := "log/" + name
		info, err := disk.Stat(path)
		if err != nil || info.Size() == 0 {
			continue
		}
		edits := map[string]func([]byte) []byte{
			"cut short": func(b []byte) []byte { return b[:rng.IntN(len(b))] },
			"removed":   nil,
		}
		for _, what := range []string{"bit at the start", "bit at the end", "bit", "another bit", "zeroes"} {
			edits[what] = func(b []byte) []byte {
				at := rng.IntN(len(b))
				switch what {
				case "bit at the start":
					at = min(at, rng.IntN(16))
				case "bit at the end":
					at = max(at, len(b)-1-rng.IntN(min(64, len(b))))
				case "zeroes":
					clear(b[at:min(at+4096, len(b))])
					return b
				}
				b[at] ^= 1 << rng.IntN(8)
				return b
			}
		}
		kinds[kindOfFile(name)]++
		left := ways
		for what, edit := range edits {
			if left--; left < 0 {
				break
			}
			copied := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
			if edit != nil {
				change(t, copied, path, edit)
			} else if err := copied.Remove(path); err != nil {
				t.Fatal(err)
			}
			opts := testOptions(copied)
			opts.tune = smallTables
			opts.Fatal = func(err error) { t.Errorf("%s of %s: the process would have ended: %v", what, name, err); select {} }
			switch err := runRotten(t, opts, m); {
			case err == nil:
			case errors.Is(err, ErrNotFound), errors.Is(err, ErrIdentity), errors.Is(err, errLostTail):
				noticed++
			case !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrReload):
				t.Errorf("%s of %s: %v, want ErrCorrupt", what, name, err)
			default:
				refused++
			}
		}
	}
	t.Logf("files %v; %d damages were refused, %d left a store that is older or none", kinds, refused, noticed)
	for _, kind := range []string{"sst", "log", "MANIFEST"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s file was damaged: %v", kind, names)
		}
	}
}

func kindOfFile(name string) string {
	kind, _, numbered := strings.Cut(name, "-")
	if !numbered {
		kind = name[strings.LastIndex(name, ".")+1:]
	}
	return kind
}

// errLostTail is a log that is shorter than it was. Where the write-ahead log
// ends, a damaged record looks like one that a power cut tore; the last signed
// head, which is kept elsewhere too, tells.
var errLostTail = errors.New("the log is shorter than it was")

// runRotten opens and uses a log, and fails the test if it tells an untruth.
func runRotten(t *testing.T, opts Options, m *model) error {
	t.Helper()
	l, err := Open(opts)
	if err != nil {
		return err
	}
	defer l.Close(context.Background())
	size := l.Size()
	if size > int64(len(m.data)) {
		t.Fatalf("tree size %d, want %d at most", size, len(m.data))
	}
	var problems []error
	for i := range size {
		data, err := l.EntryAt(i)
		if err != nil { // its opening may be lost with it
			problems = append(problems, err)
			continue
		}
		if !bytes.Equal(data, m.data[i]) {
			t.Fatalf("entry %d is %.20q, want %.20q", i, data, m.data[i])
		}
		for opening, err := range l.Openings(i, i+1) {
			if err != nil {
				problems = append(problems, err)
			} else if !bytes.Equal(opening, m.openings[i]) {
				t.Fatalf("opening %d is %.20q, want %.20q", i, opening, m.openings[i])
			}
		}
	}
	if root, err := l.RootAt(size); err != nil || size > 0 && root != m.root(t, size) {
		t.Fatalf("root at size %d is %v, %v", size, root, err)
	}
	if signed := l.Signed(); signed.Size > 0 && signed.Root != m.root(t, signed.Size) {
		t.Fatalf("signed head of size %d is not of this tree", signed.Size)
	}
	if size < int64(len(m.data)) {
		if _, _, err := l.Append(context.Background(), Entry{}); !errors.Is(err, ErrRestored) {
			t.Fatalf("%d of %d signed entries are there, an append: %v", size, len(m.data), err)
		}
		problems = append(problems, errLostTail)
	}
	return errors.Join(problems...)
}

// TestRottenTail flips bits at the end of the write-ahead log of a log that was
// killed, where Pebble takes what it finds for a torn write: nothing is lost
// without a word.
func TestRottenTail(t *testing.T) {
	t.Parallel()
	rotTail(t, 6)
}

// rotTail damages the file at the given number of places, evenly spread: it flips
// a bit, and cuts it there.
func rotTail(t *testing.T, places int) {
	disk, m := rotten(t, 300, true)
	names, err := disk.List("log")
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			last = max(last, name)
		}
	}
	whole, err := readFileLimit(disk, "log/"+last, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	whole = bytes.TrimRight(whole, "\x00")
	rng := rand.New(rand.NewPCG(testSeed(t), 5))
	stride := max(len(whole)/places, 1)
	outcomes := map[string]int{}
	for at := rng.IntN(stride); at < len(whole); at += stride {
		for _, b := range [][]byte{flip(at)(bytes.Clone(whole)), whole[:at]} {
			opts := testOptions(disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng}))
			opts.tune = smallTables
			change(t, opts.fs, "log/"+last, func([]byte) []byte { return b })
			switch err := runRotten(t, opts, m); {
			case err == nil:
				outcomes["nothing was lost"]++
			case errors.Is(err, errLostTail):
				outcomes["suspended"]++
			case errors.Is(err, ErrCorrupt):
				outcomes["refused"]++
			default:
				t.Errorf("byte %d of %d: %v", at, len(whole), err)
			}
		}
	}
	t.Log(outcomes)
	if outcomes["suspended"] == 0 {
		t.Error("no damage lost a signed entry: nothing was tested")
	}
}
