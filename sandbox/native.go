package sandbox

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/tallystick/tallystick/internal/digest"
)

// Where a compiler leaves its files, in its own directory: what it made of a
// module, and of the module's outline, which only lends its name.
const (
	compiledDir = "compiled"
	outlineDir  = "outline"
)

// A nativeCode names what the engine keeps of a compiled module. The zero value
// is none.
type nativeCode struct {
	Name   string // where the engine looks for it, in its cache directory
	Bytes  int64
	Digest digest.Digest
}

// A nativeFile is native code as the engine wrote it.
type nativeFile struct {
	name    string // of what it is loaded with
	content []byte
}

// nativeName is how the engine names its files; anything else is not ours to copy.
var nativeName = regexp.MustCompile(`^wazero-[a-z0-9.-]+/[0-9a-f]{64}$`)

// readNative returns the native code that a compiler left in its directory, or
// nil if it left none, or no name for that of an outline.
func readNative(dir string, outlined bool) (*nativeFile, error) {
	compiled, err := onlyFile(filepath.Join(dir, compiledDir))
	name := compiled
	if err == nil && outlined {
		name, err = onlyFile(filepath.Join(dir, outlineDir))
	}
	if err != nil || compiled == "" || name == "" {
		return nil, err
	}
	content, err := readBounded(filepath.Join(dir, compiledDir, compiled), maxNative)
	if err != nil {
		return nil, engineFault("reading compiled code: %w", err)
	}
	return &nativeFile{name, content}, nil
}

// onlyFile returns the name of the one file of native code in an engine's cache
// directory, or nothing if there is none.
func onlyFile(dir string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(found) == 0 {
		return "", err
	}
	name, err := filepath.Rel(dir, found[0])
	if err != nil || len(found) > 1 || !nativeName.MatchString(filepath.ToSlash(name)) {
		return "", engineFault("the compiler left %q", found)
	}
	return name, nil
}

// place puts a program's native code where a worker's engine looks for it, and
// takes it back if it does not verify: the worker must not have been told to look
// yet. Without native code it does nothing. The file is the store's own where the
// file system allows it, since megabytes are slow to copy: workers can no more
// write to it than to a copy (landlock_linux.go), and it is verified under the
// name that the worker reads.
func (s *store) place(p *preparedProgram, dir string) error {
	if p.native.Name == "" {
		return nil
	}
	path := filepath.Join(dir, filepath.FromSlash(p.native.Name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	_ = os.Remove(path) // of a worker that was given it before
	from := s.path(p.id, nativeSuffix)
	err := s.link(from, path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		err = copyFile(from, path, p.native.Bytes)
	}
	if err == nil {
		err = p.native.verify(path)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("%s%s: %w", p.id, nativeSuffix, err), os.RemoveAll(path))
	}
	return err
}

// copyFile copies a file of at most limit bytes.
func copyFile(from, to string, limit int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, limit))
	return errors.Join(err, out.Close())
}

// verify reads the file that has the native code.
func (n *nativeCode) verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.CopyBuffer(h, io.LimitReader(f, n.Bytes+1), make([]byte, 256<<10))
	if err != nil {
		return err
	}
	if size != n.Bytes || digest.Digest(h.Sum(nil)) != n.Digest {
		return errors.New("damaged")
	}
	return nil
}
