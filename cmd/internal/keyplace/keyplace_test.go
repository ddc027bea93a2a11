package keyplace

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// keyOf is the key of a name.
func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// aside ends the name of a file with the key of a name that signs no more.
func aside(name string) string {
	return fmt.Sprintf(".retired-%x", keyOf(name).Public().(ed25519.PublicKey)[:4])
}

// newPlace makes a place whose files have the names of keys, as files says.
func newPlace(t *testing.T, files map[string]string) Place {
	t.Helper()
	p := Place{Dir: t.TempDir(), Name: "log", Kinds: []string{".key", ".kms"}}
	p.Load = func(file string) (crypto.Signer, error) {
		name, err := os.ReadFile(filepath.Join(p.Dir, file))
		if err != nil {
			return nil, err
		}
		if string(name) == "damaged" {
			return nil, errDamaged
		}
		return keyOf(string(name)), nil
	}
	for file, name := range files {
		if err := os.WriteFile(filepath.Join(p.Dir, file), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

var errDamaged = errors.New("damaged")

// files are those of a place, with the names of their keys.
func files(t *testing.T, p Place) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		name, err := os.ReadFile(filepath.Join(p.Dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(name)
	}
	return got
}

// info is what a store says of keys, by their names.
func info(t *testing.T, states map[string]string) (keys []logserver.KeyInfo) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(states)) {
		vkey, err := checkpoint.Vkey("example.com/log", keyOf(name).Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, logserver.KeyInfo{Role: logserver.RoleLog, State: states[name], Vkey: vkey})
	}
	return keys
}

// Whatever a rotation has left when it was interrupted is settled, and stays so.
func TestSettle(t *testing.T) {
	begun := map[string]string{"old": logserver.KeyActive, "new": logserver.KeyNext}
	finished := map[string]string{"old": logserver.KeyRetired, "new": logserver.KeyActive}
	aborted := map[string]string{"old": logserver.KeyActive, "new": logserver.KeyRetired}
	type list = map[string]string
	for name, test := range map[string]struct {
		files     list
		states    list
		asPresent bool
		want      list // nil for files
	}{
		"nothing":                  {files: list{}, states: finished},
		"one":                      {files: list{"log.key": "old"}, states: list{"old": logserver.KeyActive}},
		"one in a service":         {files: list{"log.kms": "old"}, states: list{"old": logserver.KeyActive}},
		"begun":                    {files: list{"log.key": "old", "log.next.key": "new"}, states: begun},
		"before the store took it": {files: list{"log.key": "old", "log.next.key": "new"}, states: list{"old": logserver.KeyActive}},
		"finished":                 {files: list{"log.key": "old", "log.next.key": "new"}, states: finished, want: list{"log.key": "new", "log.key" + aside("old"): "old"}},
		"finished, and linked": {files: list{"log.key": "old", "log.key" + aside("old"): "old", "log.next.key": "new"}, states: finished,
			want: list{"log.key": "new", "log.key" + aside("old"): "old"}},
		"finished, as present": {files: list{"log.key": "old", "log.next.key": "new"}, states: finished, asPresent: true,
			want: list{"log.key": "new", "log.key" + aside("old"): "old"}},
		"to a service":          {files: list{"log.key": "old", "log.next.kms": "new"}, states: finished, want: list{"log.kms": "new", "log.key" + aside("old"): "old"}},
		"to a service, halfway": {files: list{"log.key": "old", "log.kms": "new"}, states: finished, want: list{"log.kms": "new", "log.key" + aside("old"): "old"}},
		"without the old one":   {files: list{"log.next.key": "new"}, states: finished, want: list{"log.key": "new"}},
		"the same key twice":    {files: list{"log.key": "new", "log.next.key": "new"}, states: finished, want: list{"log.key": "new"}},
		"aborted":               {files: list{"log.key": "old", "log.next.key": "new"}, states: aborted, want: list{"log.key": "old", "log.next.key" + aside("new"): "new"}},
		"aborted, as present": {files: list{"log.key": "old", "log.next.key": "new"}, states: aborted, asPresent: true,
			want: list{"log.key": "old", "log.key" + aside("new"): "new"}},
		// A key that the store does not know, or that it has retired while the active
		// one is not there, is somebody's.
		"a stranger":     {files: list{"log.key": "old", "log.next.key": "strange"}, states: list{"old": logserver.KeyActive}},
		"no active one":  {files: list{"log.key": "old", "log.next.key": "strange"}, states: finished},
		"another active": {files: list{"log.key": "old", "log.next.kms": "strange"}, states: finished},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, test.files)
			p.AsideAsPresent = test.asPresent
			want := test.want
			if want == nil {
				want = test.files
			}
			for range 2 { // the second time there is nothing to do
				if err := p.Settle(info(t, test.states)); err != nil {
					t.Fatal(err)
				}
				if got := files(t, p); !maps.Equal(got, want) {
					t.Errorf("files %v, want %v", got, want)
				}
			}
		})
	}
}

// What cannot be read is not touched.
func TestSettleRefuses(t *testing.T) {
	active := map[string]string{"old": logserver.KeyActive}
	damaged := map[string]string{"log.key": "old", "log.next.key": "damaged"}
	p := newPlace(t, damaged)
	if err := p.Settle(info(t, active)); !errors.Is(err, errDamaged) || !maps.Equal(files(t, p), damaged) {
		t.Errorf("%v, files %v", err, files(t, p))
	}
	two := map[string]string{"log.key": "old", "log.next.key": "new"}
	p = newPlace(t, two)
	if err := p.Settle([]logserver.KeyInfo{{Vkey: "no key"}}); !errors.Is(err, checkpoint.ErrKey) || !maps.Equal(files(t, p), two) {
		t.Errorf("%v, files %v", err, files(t, p))
	}
	p.Dir = filepath.Join(p.Dir, "log.key")
	if err := p.Settle(nil); err == nil {
		t.Error("settled a directory that is none")
	}
}

func TestHeld(t *testing.T) {
	p := newPlace(t, map[string]string{"log.kms": "present", "log.next.key": "next", "log.key.retired-00": "old"})
	held, err := p.Held()
	if err != nil || len(held) != 2 || held[0].File != "log.kms" || held[1].File != "log.next.key" || !held[1].Public().Equal(keyOf("next").Public()) {
		t.Errorf("%v, %v", held, err)
	}
}

func TestOf(t *testing.T) {
	keys := []logserver.KeyInfo{{Role: logserver.RoleLog, State: logserver.KeyActive}, {Role: logserver.RoleReceipt}, {Role: logserver.RoleLog}}
	if of := Of(keys, logserver.RoleLog); len(of) != 2 || of[0] != keys[0] || of[1] != keys[2] {
		t.Errorf("%+v", of)
	}
}
