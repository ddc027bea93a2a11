// Package keyplace keeps the files with a log's keys in step with what the log's
// store says of these keys, also after a rotation that was interrupted.
//
// A new key is in its file before the store names it, and files are renamed after
// the store has changed: so whoever was interrupted settles the files before the
// next step, and finds every key that is in use meanwhile.
package keyplace

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// NextSuffix follows the name of a place in the names of files with a key that is
// to replace the one there.
const NextSuffix = ".next"

// A Place is where the key of one role is, in a file of a directory, and in a
// rotation the key that will replace it, in another one beside it.
type Place struct {
	Dir  string
	Name string
	// Kinds are what file names end in, ".key" for example, in the order of
	// preference. There is one file of one kind but in a rotation.
	Kinds []string
	// Load loads the key in a file of the directory; the error is fs.ErrNotExist
	// if there is no file.
	Load func(file string) (crypto.Signer, error)
	// AsideAsPresent keeps a key that was given up under the name of the present
	// one, as if it had ever been that, and else under that of its file.
	AsideAsPresent bool
}

// A Held key is one that is there.
type Held struct {
	File   string // its name in the directory
	Signer crypto.Signer
}

// Public returns the public key.
func (k Held) Public() ed25519.PublicKey { return k.Signer.Public().(ed25519.PublicKey) }

// Files returns the names that files with keys of the place can have, those of the
// present before those of a rotation.
func (p Place) Files() []string {
	var files []string
	for _, suffix := range []string{"", NextSuffix} {
		for _, kind := range p.Kinds {
			files = append(files, p.Name+suffix+kind)
		}
	}
	return files
}

// Held loads all keys that are there, in the order of Files.
func (p Place) Held() (held []Held, err error) {
	for _, file := range p.Files() {
		signer, err := p.Load(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		held = append(held, Held{file, signer})
	}
	return held, nil
}

// isNext reports whether a file is for a key that is to replace another one.
func (p Place) isNext(file string) bool { return strings.HasPrefix(file, p.Name+NextSuffix+".") }

// present is the name that the file of a next key will have.
func (p Place) present(file string) string {
	return p.Name + strings.TrimPrefix(file, p.Name+NextSuffix)
}

// aside is the name under which a key is kept that signs no more.
func (p Place) aside(k Held) string {
	file := k.File
	if p.AsideAsPresent && p.isNext(file) {
		file = p.present(file)
	}
	return fmt.Sprintf("%s.retired-%x", file, k.Public()[:4])
}

func (p Place) path(file string) string { return filepath.Join(p.Dir, file) }
