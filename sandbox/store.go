package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox/rewrite"
)

// A store keeps compiled programs in a directory that only this process writes
// to, two files for each: ID.program, a header and the code that runs, and
// ID.native, what the engine made of it. Every byte is verified against the
// header's digests each time that it is used, so a file that was damaged costs a
// compilation and is never executed. The header has a digest of its own; all
// this is against accidents, and who can write to the directory is trusted.
//
// Files are immutable once they have their name. Two processes may share a
// directory.
type store struct {
	dir      string
	maxBytes int64
}

const (
	programSuffix = ".program"
	nativeSuffix  = ".native"
	// programMagic is the first line of a program's file, with the SHA-256 of what
	// follows it.
	programMagic = "tallystick compiled program 1 "
	// maxHeader bounds the header, whose longest part is a module's imports.
	maxHeader = 1 << 20
	// maxNative bounds native code, which is some four times its module.
	maxNative = workerCacheFile
	// newPrefix begins the names of files that are being written.
	newPrefix = "new-"
	// abandonedAfter is the age of a file without its program at which nobody is
	// about to complete it: its writer crashed.
	abandonedAfter = time.Hour
)

// A header is the second line of a program's file.
type header struct {
	ID        string
	Admission *Admission
	Native    nativeCode
}

// A nativeCode names what the engine keeps of a compiled module. The zero value
// is none.
type nativeCode struct {
	Name   string // where the engine looks for it, in its cache directory
	Bytes  int64
	Digest digest.Digest
}

// A nativeFile is native code as the engine wrote it.
type nativeFile struct {
	name    string
	content []byte
}

// nativeName is how the engine names its files; anything else is not ours to copy.
var nativeName = regexp.MustCompile(`^wazero-[a-z0-9.-]+/[0-9a-f]{64}$`)

// readNative returns the one file that a compiler left in its directory, or nil
// if it left none.
func readNative(dir string) (*nativeFile, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(found) == 0 {
		return nil, err
	}
	name, err := filepath.Rel(dir, found[0])
	if err != nil || len(found) > 1 || !nativeName.MatchString(filepath.ToSlash(name)) {
		return nil, engineFault("the compiler left %q", found)
	}
	content, err := readBounded(found[0], maxNative)
	if err != nil {
		return nil, engineFault("reading compiled code: %w", err)
	}
	return &nativeFile{name, content}, nil
}

// programID names a program by all that decides its files. What the processor
// offers is in the engine's own name of the native code.
func programID(key programKey) string {
	sum := sha256.Sum256([]byte(programText(key)))
	return hex.EncodeToString(sum[:])
}

func programText(key programKey) string {
	return fmt.Sprintf("%x %d %d %t admission %d interface %d rewriter %d costs %d engine %s %s %s", key.module, key.caps, key.pages, key.metered,
		admissionRules, HostInterface, rewrite.Version, rewrite.CostTable, engineVersion, runtime.GOOS, runtime.GOARCH)
}

// load returns the program of key. An error that is not os.ErrNotExist is about
// a file that cannot be used; it has been removed.
func (s *store) load(key programKey) (*preparedProgram, error) {
	id := programID(key)
	h, _, err := s.read(id)
	if err == nil && h.Admission.ModuleDigest != key.module {
		err = errors.New("it is of another module")
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		s.remove(id)
		return nil, fmt.Errorf("reading %s%s: %w", id, programSuffix, err)
	}
	s.touch(id)
	return &preparedProgram{key: key, admission: h.Admission, id: id, native: h.Native}, nil
}

// touch notes that a program is used. Only who leaves first depends on it.
func (s *store) touch(id string) {
	now := time.Now()
	_ = os.Chtimes(s.path(id, programSuffix), now, now)
}

func (s *store) path(id, suffix string) string { return filepath.Join(s.dir, id+suffix) }

// read reads and verifies a program's file.
func (s *store) read(id string) (h header, code []byte, err error) {
	b, err := readBounded(s.path(id, programSuffix), int64(len(programMagic))+maxHeader+rewrite.MaxOutput)
	if err != nil {
		return h, nil, err
	}
	rest, ok := bytes.CutPrefix(b, []byte(programMagic))
	sum, rest, ok2 := bytes.Cut(rest, []byte("\n"))
	if got := sha256.Sum256(rest); !ok || !ok2 || string(sum) != hex.EncodeToString(got[:]) {
		return h, nil, errors.New("damaged")
	}
	line, code, _ := bytes.Cut(rest, []byte("\n"))
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return h, nil, fmt.Errorf("header: %w", err)
	}
	if h.ID != id || h.Admission == nil || h.Native.Name != "" && !nativeName.MatchString(h.Native.Name) {
		return h, nil, errors.New("header does not fit")
	}
	return h, code, nil
}

// code returns the verified code of a program.
func (s *store) code(p *preparedProgram) ([]byte, error) {
	_, code, err := s.read(p.id)
	return code, err
}

// place copies a program's native code to where a worker's engine looks for it,
// and takes it back if it does not verify: the worker must not have been told to
// look yet. Without native code it does nothing.
func (s *store) place(p *preparedProgram, dir string) error {
	if p.native.Name == "" {
		return nil
	}
	b, err := readBounded(s.path(p.id, nativeSuffix), p.native.Bytes)
	if err != nil {
		return err
	}
	fits := make(chan bool, 1) // found out while it is written
	go func() { fits <- digest.Of(b) == p.native.Digest }()
	path := filepath.Join(dir, filepath.FromSlash(p.native.Name))
	err = os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, b, 0o400)
	}
	if !<-fits {
		err = errors.Join(fmt.Errorf("%s%s is damaged", p.id, nativeSuffix), os.RemoveAll(path))
	}
	return err
}

// save keeps a program.
func (s *store) save(a *admitted, native *nativeFile) (*preparedProgram, error) {
	p := &preparedProgram{key: a.key, admission: a.admission, id: programID(a.key)}
	if native != nil {
		p.native = nativeCode{filepath.ToSlash(native.name), int64(len(native.content)), digest.Of(native.content)}
		if err := s.write(p.id+nativeSuffix, native.content); err != nil {
			return nil, err
		}
	}
	line, err := json.Marshal(header{p.id, a.admission, p.native})
	if err != nil {
		return nil, err
	}
	body := slices.Concat(line, []byte("\n"), a.code)
	sum := sha256.Sum256(body)
	// The program's file comes last: without it the other is not looked at.
	if err := s.write(p.id+programSuffix, slices.Concat([]byte(programMagic), []byte(hex.EncodeToString(sum[:])), []byte("\n"), body)); err != nil {
		return nil, err
	}
	s.trim(p.id)
	return p, nil
}

// write makes a file that is there as a whole or not at all; after a crash it may
// be damaged, which reading finds.
func (s *store) write(name string, content []byte) error {
	f, err := os.CreateTemp(s.dir, newPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (s *store) remove(id string) {
	_ = os.Remove(s.path(id, programSuffix))
	_ = os.Remove(s.path(id, nativeSuffix))
}

// A stored is the files of one program, as trim finds them.
type stored struct {
	id       string
	complete bool // its program's file is there
	used     time.Time
	bytes    int64
}

// trim removes what was left incomplete long ago, and then the programs that
// were least recently used, all but keep, until the directory is within its
// bound. Files of other names are not its own.
func (s *store) trim(keep string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	programs := map[string]*stored{}
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		id, suffix, _ := strings.Cut(e.Name(), ".")
		suffix = "." + suffix
		if strings.HasPrefix(e.Name(), newPrefix) {
			if time.Since(info.ModTime()) > abandonedAfter {
				_ = os.Remove(filepath.Join(s.dir, e.Name()))
			}
			continue
		}
		if suffix != programSuffix && suffix != nativeSuffix {
			continue
		}
		p := programs[id]
		if p == nil {
			p = &stored{id: id}
			programs[id] = p
		}
		if suffix == programSuffix || !p.complete {
			p.used = info.ModTime()
		}
		p.complete = p.complete || suffix == programSuffix
		p.bytes += info.Size()
		total += info.Size()
	}
	for _, p := range slices.SortedFunc(maps.Values(programs), func(a, b *stored) int { return a.used.Compare(b.used) }) {
		abandoned := !p.complete && time.Since(p.used) > abandonedAfter
		if p.id != keep && (abandoned || p.complete && total > s.maxBytes) {
			s.remove(p.id)
			total -= p.bytes
		}
	}
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("file of %d bytes, at most %d are taken", info.Size(), limit)
	}
	b := make([]byte, info.Size())
	_, err = io.ReadFull(f, b)
	return b, err
}
