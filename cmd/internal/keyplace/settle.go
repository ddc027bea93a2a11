package keyplace

import (
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Settle brings the files to what the store says of the keys of this role: a next
// key that has become the active one takes its place, and one that signs no more
// goes aside. At every moment there is a file with each key that the store has in
// use, and no more than two in all: stopping anywhere leaves what Held finds, and
// what this completes.
func (p Place) Settle(keys []logserver.KeyInfo) error {
	if settled, err := p.settled(); settled || err != nil {
		return err
	}
	held, err := p.Held()
	if err != nil {
		return err
	}
	// 1. The active key takes the place of the present, by its kind of file. What
	// is there under the same name gets a second one first.
	active := false
	for i, k := range held {
		state, err := stateOf(k, keys)
		if err != nil {
			return err
		}
		if state != logserver.KeyActive {
			continue
		}
		active = true
		if !p.isNext(k.File) {
			continue
		}
		to := p.present(k.File)
		for j := range held {
			old := &held[j]
			if old.File != to {
				continue
			}
			if !old.Public().Equal(k.Public()) {
				if err := os.Link(p.path(to), p.path(p.aside(*old))); err != nil && !errors.Is(err, fs.ErrExist) {
					return err
				}
			}
			old.File = "" // gone aside
		}
		if err := p.rename(k.File, to); err != nil {
			return err
		}
		held[i].File = to
	}
	// 2. What signs no more goes aside. While there is no active key it stays: it
	// may be all there is.
	for _, k := range held {
		state, err := stateOf(k, keys)
		if err != nil {
			return err
		}
		if state != logserver.KeyRetired || !active || k.File == "" {
			continue
		}
		if err := p.rename(k.File, p.aside(k)); err != nil {
			return err
		}
	}
	return nil
}

// settled reports whether there is at most a single key, in the place of the
// present, as it is almost always; no key has to be loaded to see it.
func (p Place) settled() (bool, error) {
	var there []string
	for _, file := range p.Files() {
		if _, err := os.Stat(p.path(file)); err == nil {
			there = append(there, file)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return len(there) == 0 || len(there) == 1 && !p.isNext(there[0]), nil
}

// Of returns the keys of one role.
func Of(keys []logserver.KeyInfo, role string) (of []logserver.KeyInfo) {
	for _, k := range keys {
		if k.Role == role {
			of = append(of, k)
		}
	}
	return of
}

// stateOf says what the store thinks of a key, "" if it does not know it.
func stateOf(held Held, keys []logserver.KeyInfo) (string, error) {
	for _, k := range keys {
		vkey, err := checkpoint.ParseVkey(k.Vkey)
		if err != nil {
			return "", err
		}
		if held.Public().Equal(ed25519.PublicKey(vkey.PublicKey())) {
			return k.State, nil
		}
	}
	return "", nil
}

// rename gives a file of the directory another name, durably.
func (p Place) rename(from, to string) error {
	if err := os.Rename(p.path(from), p.path(to)); err != nil {
		return err
	}
	return wiring.SyncDir(p.Dir)
}
