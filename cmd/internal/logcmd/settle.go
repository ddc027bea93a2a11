package logcmd

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// settleKeys brings the files of the keys and the vkey file to what the store
// says of them, also after a rotation that was interrupted: a next key that has
// become the active one takes its place, and one that signs no more goes aside.
func (d *directory) settleKeys(keys []logserver.KeyInfo) error {
	for _, role := range []struct{ place, name string }{{logPlace, logserver.RoleLog}, {receiptPlace, logserver.RoleReceipt}} {
		var present []string
		for _, file := range keyFiles(role.place) {
			if _, err := os.Stat(d.file(file)); err == nil {
				present = append(present, file)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		// A single key in the place of the present is how things are almost always.
		if len(present) == 0 || len(present) == 1 && !isNext(present[0]) {
			continue
		}
		if err := d.settleRole(role.place, keysOf(keys, role.name)); err != nil {
			return err
		}
	}
	// A disk on which nothing can be written any more keeps no log from being read.
	text := vkeyText(keys)
	if held, err := os.ReadFile(d.file(vkeyFile)); err == nil && bytes.Equal(held, text) {
		return nil
	}
	return wiring.WriteFile(d.file(vkeyFile), text, 0o644)
}

// keysOf returns the keys of one role.
func keysOf(keys []logserver.KeyInfo, role string) (of []logserver.KeyInfo) {
	for _, k := range keys {
		if k.Role == role {
			of = append(of, k)
		}
	}
	return of
}

func isNext(file string) bool { return strings.Contains(file, nextSuffix+".") }

// settleRole settles the files of one role. At every moment there is a file with
// each key that the store has in use, and no more than two in all: stopping
// anywhere leaves what open can open, and what this completes.
func (d *directory) settleRole(place string, keys []logserver.KeyInfo) error {
	held, err := d.heldKeys(place)
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
		if !isNext(k.file) {
			continue
		}
		to := strings.Replace(k.file, nextSuffix, "", 1)
		for j := range held {
			if old := &held[j]; old.file == to {
				if err := os.Link(d.file(to), d.file(old.aside())); err != nil && !errors.Is(err, fs.ErrExist) {
					return err
				}
				old.file = "" // gone aside
			}
		}
		if err := d.rename(k.file, to); err != nil {
			return err
		}
		held[i].file = to
	}
	// 2. What signs no more goes aside. While there is no active key it stays: it
	// may be all there is.
	for _, k := range held {
		state, err := stateOf(k, keys)
		if err != nil {
			return err
		}
		if state != logserver.KeyRetired || !active || k.file == "" {
			continue
		}
		if err := d.rename(k.file, k.aside()); err != nil {
			return err
		}
	}
	return nil
}

// aside is the name under which a key is kept that signs no more.
func (k *heldKey) aside() string {
	return fmt.Sprintf("%s.retired-%x", k.file, k.public()[:4])
}

// stateOf says what the store thinks of a key, "" if it does not know it.
func stateOf(held heldKey, keys []logserver.KeyInfo) (string, error) {
	for _, k := range keys {
		vkey, err := checkpoint.ParseVkey(k.Vkey)
		if err != nil {
			return "", err
		}
		if held.public().Equal(ed25519.PublicKey(vkey.PublicKey())) {
			return k.State, nil
		}
	}
	return "", nil
}

// rename gives a file of the directory another name, durably.
func (d *directory) rename(from, to string) error {
	if err := os.Rename(d.file(from), d.file(to)); err != nil {
		return err
	}
	return wiring.SyncDir(d.path)
}
