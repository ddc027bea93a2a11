package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox/rewrite"
)

// A store keeps compiled programs in a directory that only processes of this
// binary and user write to, on one machine. Each has three files: ID.code, the
// code that runs; ID.native, what the engine made of it; and ID.program, a header
// and the outline with which a worker loads the latter (outline.go). Every byte
// is verified against the header's digests each time that it is used, so a file
// that was damaged costs a compilation and is never executed. Header and outline
// have a digest of their own; all this is against accidents, and who can write to
// the directory is trusted.
//
// Files are immutable once they have their name, so processes may share a
// directory: what one removes, another makes anew.
type store struct {
	dir      string
	maxBytes int64
	link     func(old, new string) error // os.Link; tests have others
}

func newStore(dir string, maxBytes int64) *store { return &store{dir, maxBytes, os.Link} }

const (
	programSuffix = ".program"
	codeSuffix    = ".code"
	nativeSuffix  = ".native"
	// storeFormat is the version of the files, and part of their names.
	storeFormat = 3
	// programMagic is the first line of a program's file, with the SHA-256 of what
	// follows it.
	programMagic = "tallystick compiled program 3 "
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

// programID names a program by all that decides its files. What the processor
// offers is in the engine's own name of the native code.
func programID(key programKey) string {
	sum := sha256.Sum256([]byte(programText(key)))
	return hex.EncodeToString(sum[:])
}

func programText(key programKey) string {
	return fmt.Sprintf("%d %x %d %d %t admission %d interface %d rewriter %d costs %d engine %s %s %s", storeFormat, key.module, key.caps, key.pages,
		key.metered, admissionRules, HostInterface, rewrite.Version, rewrite.CostTable, engineVersion, runtime.GOOS, runtime.GOARCH)
}

// load returns the program of key. An error that is not os.ErrNotExist is about
// a file that cannot be used; it has been removed.
func (s *store) load(key programKey) (*preparedProgram, error) {
	id := programID(key)
	h, _, err := s.read(id)
	if err == nil && (h.Admission.ModuleDigest != key.module || key.metered != (h.Admission.RewrittenModule != nil)) {
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

// read reads and verifies a program's file. The outline is empty if there is none.
func (s *store) read(id string) (h header, outline []byte, err error) {
	b, err := readBounded(s.path(id, programSuffix), int64(len(programMagic))+maxHeader+rewrite.MaxOutput)
	if err != nil {
		return h, nil, err
	}
	rest, ok := bytes.CutPrefix(b, []byte(programMagic))
	sum, rest, ok2 := bytes.Cut(rest, []byte("\n"))
	if got := sha256.Sum256(rest); !ok || !ok2 || string(sum) != hex.EncodeToString(got[:]) {
		return h, nil, errors.New("damaged")
	}
	line, outline, _ := bytes.Cut(rest, []byte("\n"))
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return h, nil, fmt.Errorf("header: %w", err)
	}
	if h.ID != id || h.Admission == nil || h.Native.Name != "" && !nativeName.MatchString(h.Native.Name) {
		return h, nil, errors.New("header does not fit")
	}
	return h, outline, nil
}

// code returns the verified code of a program.
func (s *store) code(p *preparedProgram) ([]byte, error) {
	want := p.admission.ModuleDigest
	if p.key.metered {
		want = *p.admission.RewrittenModule
	}
	code, err := readBounded(s.path(p.id, codeSuffix), rewrite.MaxOutput)
	if err == nil && sha256.Sum256(code) != want {
		return nil, fmt.Errorf("%s%s is damaged", p.id, codeSuffix)
	}
	return code, err
}

// save keeps a program.
func (s *store) save(a *admitted, native *nativeFile) (*preparedProgram, error) {
	p := &preparedProgram{key: a.key, admission: a.admission, id: programID(a.key)}
	if err := s.write(p.id+codeSuffix, a.code); err != nil {
		return nil, err
	}
	outline := []byte(nil)
	if native != nil {
		outline = a.outline
		p.native = nativeCode{filepath.ToSlash(native.name), int64(len(native.content)), digest.Of(native.content)}
		if err := s.write(p.id+nativeSuffix, native.content); err != nil {
			return nil, err
		}
	}
	line, err := json.Marshal(header{p.id, a.admission, p.native})
	if err != nil {
		return nil, err
	}
	body := slices.Concat(line, []byte("\n"), outline)
	sum := sha256.Sum256(body)
	// The program's file comes last: without it the others are not looked at.
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
	err = errors.Join(err, f.Chmod(0o400), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (s *store) remove(id string) {
	for _, suffix := range []string{programSuffix, codeSuffix, nativeSuffix} {
		_ = os.Remove(s.path(id, suffix))
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
