package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// What a node's directory holds. Nothing in it is secret; whoever can write it
// can make the node forget what it has seen and attested.
//
//	lock                    held by the running process
//	audit.note              the largest audit checkpoint accepted, as received
//	membership.note         the largest membership checkpoint accepted
//	membership.entries      the changes after genesis, as in an entry bundle
//	epochs                  the audit log's origin, then "<epoch> <index>" lines: where it has each epoch
//	floor                   below which index of the audit log nothing new is attested
//	removed                 tombstones of removed attestations: no other is made of their executions
//	attestations/<xx>/<id>  envelopes, by execution id, and a line with the last epoch at which the
//	                        submission can be pinned; read-only once their payloads are handed in
//	evidence/<digest>.json  two checkpoints that contradict each other
//	unproven/<log>-<size>-<root>.json  a checkpoint whose tree the log did not serve any more, and the one shown then
//	contradictions/<id>.json  two runs of an execution that differ
type store struct {
	dir  string
	lock *os.File
	// sync makes a file or directory durable; tests fail it.
	sync func(*os.File) error

	shardMu    sync.Mutex
	shards     map[string]bool          // guarded by shardMu: directories that are durable in attestations
	order      []digest.Digest          // guarded by shardMu: executions whose attestations are kept, oldest first
	removed    map[digest.Digest]uint64 // guarded by shardMu: last epochs of the executions whose attestations were removed
	maxRemoved int                      // tests lower it

	floor     int64  // read and written by the holder of the view's turn
	unearthed uint64 // like floor: the epoch for which tombstones were last looked through

	mu     sync.Mutex
	broken error // guarded by mu; the first failed write: what is on disk is unknown from then on
}

const (
	entriesName    = "membership.entries"
	epochsName     = "epochs"
	maxEpochsBytes = membership.MaxPrincipals * 64 // far above any history: 40 bytes a line
)

func headName(log membership.LogName) string { return string(log) + ".note" }

// openStore creates the directory if need be and takes it for this process.
func openStore(dir string) (*store, error) {
	s := &store{dir: dir, sync: (*os.File).Sync, shards: make(map[string]bool),
		removed: make(map[digest.Digest]uint64), maxRemoved: maxTombstones}
	for _, d := range []string{dir, filepath.Join(dir, "attestations"), filepath.Join(dir, "evidence"), filepath.Join(dir, "unproven"), filepath.Join(dir, "contradictions")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, storeError(err)
		}
	}
	var err error
	if s.lock, err = lockDir(dir); err != nil {
		return nil, storeError(err)
	}
	// What a process that was killed has renamed is made durable before it is
	// relied on.
	if err := s.syncDir(dir); err != nil {
		return nil, storeError(errors.Join(err, s.close()))
	}
	if err := errors.Join(s.readFloor(), s.readRemoved(), s.readAttested()); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *store) close() error { return s.lock.Close() }

// failed returns the first failed write. Nothing may rest on the directory after
// it, neither an acceptance nor an attestation, until it is opened anew.
func (s *store) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// write runs one durable write and notes its failure.
func (s *store) write(f func() error) error {
	if err := s.failed(); err != nil {
		return err
	}
	err := f()
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	err = fmt.Errorf("%w: %w; start the node again", ErrStore, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = err
	}
	return err
}

func storeError(err error) error { return fmt.Errorf("%w: %w", ErrStore, err) }

// read returns a file of at most limit bytes, nil if it is not there.
func (s *store) read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, storeError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", name, limit)
	}
	if err != nil {
		return nil, storeError(err)
	}
	return data, nil
}

// replace puts data in the place of a file: after a crash at any point a reader
// finds the old content or the new, and after a nil error the new one.
func (s *store) replace(name string, data []byte) error {
	return s.write(func() error {
		path := filepath.Join(s.dir, name)
		tmp, err := s.writeTemp(filepath.Dir(path), data)
		if err != nil {
			return err
		}
		if err := os.Rename(tmp, path); err != nil {
			return errors.Join(err, os.Remove(tmp))
		}
		return s.syncDir(filepath.Dir(path))
	})
}

// create is replace for a file that must not exist; fs.ErrExist if it does. Its
// directory is made if need be.
func (s *store) create(name string, data []byte) error {
	return s.write(func() error {
		path := filepath.Join(s.dir, name)
		dir := filepath.Dir(path)
		if err := s.makeShard(dir); err != nil {
			return err
		}
		tmp, err := s.writeTemp(dir, data)
		if err != nil {
			return err
		}
		defer os.Remove(tmp)
		if err := os.Link(tmp, path); err != nil {
			return err
		}
		return s.syncDir(dir)
	})
}

// makeShard makes a directory durably, unless this process has.
func (s *store) makeShard(dir string) error {
	s.shardMu.Lock()
	defer s.shardMu.Unlock()
	if s.shards[dir] {
		return nil
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), s.syncDir(filepath.Dir(dir))); err != nil {
		return err
	}
	s.shards[dir] = true
	return nil
}

func (s *store) writeTemp(dir string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = s.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// extend adds bytes to the end of a file, durably: not atomically, so that what
// reads the file drops a torn end.
func (s *store) extend(name string, b []byte) error {
	return s.write(func() error {
		f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(b)
		if err == nil {
			err = s.sync(f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return s.syncDir(s.dir)
	})
}

func (s *store) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(s.sync(d), d.Close())
}

// head returns the kept note of a log, nil if there is none.
func (s *store) head(log membership.LogName) ([]byte, error) {
	return s.read(headName(log), checkpoint.MaxNoteSize)
}

func (s *store) setHead(log membership.LogName, note []byte) error {
	return s.replace(headName(log), note)
}

// changes calls visit for each change kept, in order. A last one that a crash
// cut off is dropped from the file: it is fetched again. The file is durable when
// changes returns, whatever became of the process that wrote it.
func (s *store) changes(visit func(envelope []byte) error) error {
	f, err := os.OpenFile(filepath.Join(s.dir, entriesName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storeError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f) // written by this package only, so bounded by the log
	if err != nil {
		return storeError(err)
	}
	whole := 0
	for rest := data; len(rest) >= 2; rest = data[whole:] {
		n := int(binary.BigEndian.Uint16(rest))
		if len(rest) < 2+n {
			break
		}
		if err := visit(rest[2 : 2+n]); err != nil {
			return err
		}
		whole += 2 + n
	}
	if err := errors.Join(f.Truncate(int64(whole)), s.sync(f)); err != nil {
		return storeError(err)
	}
	return nil
}

// appendChanges keeps further changes durably.
func (s *store) appendChanges(envelopes [][]byte) error {
	var b []byte
	for _, e := range envelopes {
		b = binary.BigEndian.AppendUint16(b, uint16(len(e)))
		b = append(b, e...)
	}
	return s.extend(entriesName, b)
}

// epochs returns where the audit log of an origin has each epoch. What is known
// of another origin, one that this log succeeds, does not count.
func (s *store) epochs(origin string) (map[uint64]int64, error) {
	data, err := s.read(epochsName, maxEpochsBytes)
	if err != nil {
		return nil, err
	}
	indexes := make(map[uint64]int64)
	first, rest, _ := strings.Cut(string(data), "\n")
	if first != origin {
		return indexes, nil
	}
	for line := range strings.Lines(rest) {
		epoch, index, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		e, err1 := strconv.ParseUint(epoch, 10, 63)
		i, err2 := strconv.ParseUint(index, 10, 63)
		if err := errors.Join(err1, err2); err != nil {
			return nil, storeError(fmt.Errorf("file %q: %w", epochsName, err))
		}
		indexes[e] = int64(i)
	}
	return indexes, nil
}

func (s *store) setEpochs(origin string, indexes map[uint64]int64) error {
	b := []byte(origin + "\n")
	for _, e := range slices.Sorted(maps.Keys(indexes)) {
		b = fmt.Appendf(b, "%d %d\n", e, indexes[e])
	}
	return s.replace(epochsName, b)
}

// keepEvidence stores an evidence file and returns its path.
func (s *store) keepEvidence(data []byte) (string, error) {
	name := filepath.Join("evidence", digest.Of(data).String()+".json")
	if err := s.replace(name, data); err != nil {
		return "", err
	}
	return filepath.Join(s.dir, name), nil
}

// unproven is what is kept of a log that does not serve the tree of a checkpoint
// that was accepted. It is no evidence that anybody could judge: that there were
// tiles once, only this node knows.
type unproven struct {
	Log       membership.LogName `json:"log"`
	Known     string             `json:"known"`     // the checkpoint that was accepted, as received
	Submitted string             `json:"submitted"` // the smaller one that was shown then
	Proven    bool               `json:"proven"`    // false
}

// maxUnproven bounds the files of those: a log that withholds one tree after the
// other must not fill the disk, whose end is the node's. They are as large as two
// notes.
const maxUnproven = 64

// unprovenName has the first digits of the root hash: of two roots at one size, each
// has its file.
func unprovenName(log membership.LogName, known checkpoint.Checkpoint) string {
	return filepath.Join("unproven", fmt.Sprintf("%s-%d-%x.json", log, known.Size, known.Root[:4]))
}

// keepUnproven stores two checkpoints of a log, of which known is the accepted one,
// and returns their path. What was stored for that one first stays. Of further ones
// than maxUnproven nothing is stored, and the path is empty.
func (s *store) keepUnproven(log membership.LogName, known checkpoint.Checkpoint, e *checkpoint.Evidence) (string, error) {
	name := unprovenName(log, known)
	path := filepath.Join(s.dir, name)
	kept, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", storeError(err)
	}
	if slices.ContainsFunc(kept, func(f fs.DirEntry) bool { return f.Name() == filepath.Base(name) }) {
		return path, nil
	}
	if len(kept) >= maxUnproven {
		return "", nil
	}
	data, err := strictjson.Marshal(unproven{Log: log, Known: string(e.Known), Submitted: string(e.Submitted)})
	if err != nil {
		return "", storeError(err)
	}
	if err := s.create(name, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return path, nil
}
