package keyfile

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
)

// Passphrase returns the passphrase of a key file; nil means that the file is
// not encrypted. It is called once, when it is needed.
type Passphrase func() ([]byte, error)

// PassphraseFile returns a Passphrase that is the first and only line of a file,
// without its line break. It may be a pipe; a regular file must be readable by
// its owner alone.
func PassphraseFile(path string) Passphrase {
	return func() ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading passphrase file: %w", err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("reading passphrase file: %w", err)
		}
		if runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("%w: passphrase file %q has mode %04o (run: chmod 600 %q)",
				ErrPermissions, path, info.Mode().Perm(), path)
		}
		data, err := readBounded(f, path)
		if err != nil {
			return nil, err
		}
		line := bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
		if len(line) == 0 || bytes.ContainsAny(line, "\r\n") {
			return nil, fmt.Errorf("%w: file %q should hold one line, the passphrase", ErrPassphrase, path)
		}
		return line, nil
	}
}

// get returns the passphrase, which must not be empty.
func (p Passphrase) get() ([]byte, error) {
	pass, err := p()
	if err != nil {
		return nil, err
	}
	if len(pass) == 0 {
		return nil, fmt.Errorf("%w: empty", ErrPassphrase)
	}
	return pass, nil
}
