// Package keyfile keeps private keys in PEM files for services and command line
// tools.
//
// An Ed25519 private key is PKCS#8 in a block "PRIVATE KEY", or encrypted with a
// passphrase in a block "ENCRYPTED SIGSTORE PRIVATE KEY" (scrypt and NaCl secret
// box, by github.com/sigstore/sigstore); "ENCRYPTED PRIVATE KEY" (PKCS#8 with
// PBES2, as OpenSSL writes it: AES or 3DES in CBC mode, under scrypt or PBKDF2 with
// SHA-256 or SHA-1) is read too. The seed of an ML-DSA-44 key (FIPS 204) is 32
// bytes in a block of its own type. A public key is a block "PUBLIC KEY" (PKIX).
//
// # Trust
//
// Whoever can read a private key file, and its passphrase if it has one, can
// sign in its owner's name. So a file is created with mode 0600, never
// overwritten, durable before it is used, and refused when others than its owner
// may read it. A passphrase comes from a file or a function, never from a
// command line, which other users of the machine can see. Errors name the file
// and never what is in it.
//
// Functions keep no state and are safe for concurrent use.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// The ways in which a key file can be refused. Other errors are those of the
// file system, such as fs.ErrNotExist.
var (
	// ErrExists: the file to create is there already.
	ErrExists = errors.New("key file exists already")
	// ErrPermissions: others than the owner may read the file.
	ErrPermissions = errors.New("key file is readable by others")
	// ErrFormat: the file is not one PEM block with a key of the expected kind.
	ErrFormat = errors.New("not a key file of the expected kind")
	// ErrPassphrase: the passphrase is missing, not needed, or wrong.
	ErrPassphrase = errors.New("passphrase")
)

// maxFileSize bounds what is read, in bytes. An encrypted key takes 500.
const maxFileSize = 16 << 10

// create writes a new file durably and in one step: a process that is killed leaves
// no file or a complete one, for the next start to use. A hidden file beside it may
// stay behind then, with a key that nobody has used. Where the file system has no
// hard links, and on Linux no renaming that refuses to replace either, the name is
// claimed first: there it may be left with an empty file, to be removed by hand.
func create(path string, data []byte, mode fs.FileMode) error {
	err := createBy([]naming{os.Link, renameNew, claim}, path, data, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %q (move it away or choose another name; keys are never overwritten)", ErrExists, path)
	}
	if err != nil {
		return fmt.Errorf("creating key file: %w", err)
	}
	return nil
}

// naming gives a file a name; fs.ErrExist means that it is taken.
type naming func(from, to string) error

// createBy gives a file its name in the first of the ways that works.
func createBy(ways []naming, path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, name := range ways {
		if err = name(f.Name(), path); err == nil || errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return err
	}
	if err = syncDir(dir); err != nil {
		os.Remove(path)
	}
	return err
}

// claim renames a file where the file system has nothing better: an empty file of
// our own takes the name first, so that nobody else's is overwritten.
func claim(from, to string) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(f.Close(), os.Rename(from, to)); err != nil {
		os.Remove(to)
	}
	return err
}

// syncDir makes a new directory entry durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readPrivate reads a private key file after it has checked that it is a
// regular file that only its owner may read.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path) // before opening, since opening a pipe would wait
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %q is not a regular file", ErrFormat, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %q has mode %04o (run: chmod 600 %q)", ErrPermissions, path, info.Mode().Perm(), path)
	}
	return readBounded(f, path)
}

// readBounded reads to the end of a file that must not exceed maxFileSize.
func readBounded(f *os.File, path string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("%w: %q has more than %d bytes", ErrFormat, path, maxFileSize)
	}
	return data, nil
}
