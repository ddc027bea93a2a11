package main

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/keyfile/kms"
)

// maxProfile bounds a profile file; real ones are under a kilobyte.
const maxProfile = 64 << 10

// profile says who the user is and what they trust. Paths are relative to the
// profile's own folder. It holds no secret: keys are files that it names.
type profile struct {
	Server    string `json:"server"`
	Cluster   string `json:"cluster"`
	Principal string `json:"principal"`
	// Keys maps a key use to the private key that has it: a PEM file, or the URI of
	// a key in a key management service.
	Keys             map[string]string `json:"keys"`
	Genesis          string            `json:"genesis"`
	AuditPolicy      string            `json:"audit_policy"`
	MembershipPolicy string            `json:"membership_policy"`

	path   string
	maxAge time.Duration // from the command line; 0 means the default
}

// profileNames are tried in order when neither flag nor environment names one.
var profileNames = []string{"tally.json", "tally-dev/tenant.json"}

// loadProfile reads the profile that flag, TALLY_PROFILE or the current folder
// names, in this order.
func loadProfile(flag string) (*profile, error) {
	path := flag
	if path == "" {
		path = os.Getenv("TALLY_PROFILE")
	}
	if path == "" {
		for _, name := range profileNames {
			if _, err := os.Stat(name); err == nil {
				path = name
				break
			}
		}
	}
	if path == "" {
		return nil, withHint(errors.New("no profile given"),
			"name one with --profile or TALLY_PROFILE; `tally dev` writes profiles into its folder")
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("profile %q does not exist", path), "`tally dev` or `tally cluster init` writes one")
	}
	if err != nil {
		return nil, fmt.Errorf("reading profile: %w", err)
	}
	p := &profile{}
	if err := strictjson.Unmarshal(data, p, maxProfile); err != nil {
		return nil, fmt.Errorf("profile %q: %w", path, err)
	}
	p.path = path
	return p, nil
}

// file resolves a path of the profile.
func (p *profile) file(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(p.path), name)
}

// key loads the private key for one use.
func (p *profile) key(use string) (crypto.Signer, error) {
	name, ok := p.Keys[use]
	if !ok {
		return nil, withHint(fmt.Errorf("profile %q names no key for %q", p.path, use),
			fmt.Sprintf("add it under \"keys\", or use the profile of a principal that may sign with %q", use))
	}
	if !inKMS(name) {
		name = p.file(name)
	}
	key, err := loadKey(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(err, fmt.Sprintf("profile %q names it; its paths are relative to its own folder", p.path))
	}
	if err != nil {
		return nil, err
	}
	return key, nil
}

// inKMS reports whether a key is named by a URI, which files are not.
func inKMS(name string) bool { return strings.Contains(name, "://") }

// loadKey loads a private key from a PEM file, or finds the one that a URI names
// in a key management service, which then makes the signatures.
func loadKey(name string) (crypto.Signer, error) {
	if inKMS(name) {
		return kms.Open(name, nil, 0)
	}
	return keyfile.LoadEd25519(name, passphraseFromEnv())
}

// passphraseFromEnv reads the passphrase of encrypted keys from the file that
// TALLY_PASSPHRASE_FILE names; without it only plain keys can be loaded.
func passphraseFromEnv() keyfile.Passphrase {
	if path := os.Getenv("TALLY_PASSPHRASE_FILE"); path != "" {
		return keyfile.PassphraseFile(path)
	}
	return nil
}

// writeProfile writes p as indented JSON.
func writeProfile(path string, p *profile) error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(data, '\n'))
}

// writeFile replaces a file durably, in a folder that it makes if need be.
func writeFile(path string, data []byte) error {
	if err := wiring.MakeDir(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return wiring.WriteFile(path, data, 0o644)
}
