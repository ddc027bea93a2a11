package membership

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/dsse"
)

// LogName says which of a cluster's two logs is meant.
type LogName string

// The logs of a cluster.
const (
	LogAudit      LogName = "audit"
	LogMembership LogName = "membership"
)

// receiptSuffix ends the name of receipt keys: a receipt head can never be
// taken for a checkpoint that went to witnesses.
const receiptSuffix = "/receipt"

// maxOrigin bounds an origin; it is a key name, repeated in every signature
// line of every checkpoint.
const maxOrigin = 255

// A Log is how one log of the cluster is known: by its origin and by the keys
// that may sign for it. Keys are vkeys of C2SP signed-note, Ed25519 (0x01).
type Log struct {
	Keys        []string `json:"keys"` // 1 to MaxKeys, ascending, named by the origin
	Origin      string   `json:"origin"`
	ReceiptKeys []string `json:"receipt_keys,omitempty"` // at most MaxKeys, ascending, named <origin>/receipt
}

// Logs are both logs of a cluster.
type Logs struct {
	Audit      Log `json:"audit"`
	Membership Log `json:"membership"`
}

// Named returns one of the logs; name must be one of the constants.
func (l Logs) Named(name LogName) Log {
	if name == LogAudit {
		return l.Audit
	}
	return l.Membership
}

func (l Logs) with(name LogName, log Log) Logs {
	if name == LogAudit {
		l.Audit = log
	} else {
		l.Membership = log
	}
	return l
}

// Origin returns the origin that a cluster's log has from genesis on.
func Origin(cluster string, name LogName) string { return cluster + "/" + string(name) }

func (n LogName) validate() error {
	if n != LogAudit && n != LogMembership {
		return fmt.Errorf("log is %q, want %q or %q", n, LogAudit, LogMembership)
	}
	return nil
}

// validate checks origin and keys against the format.
func (l Log) validate() error {
	if err := validateOrigin(l.Origin); err != nil {
		return err
	}
	if len(l.Keys) == 0 {
		return fmt.Errorf("log %q has no keys", l.Origin)
	}
	seen := make(map[string]bool)
	if err := validateVkeys(l.Origin, l.Keys, seen); err != nil {
		return err
	}
	// A key in both lists could have its receipt heads shown as checkpoints.
	return validateVkeys(l.Origin+receiptSuffix, l.ReceiptKeys, seen)
}

// validateVkeys checks one list of keys and notes their public keys in seen.
func validateVkeys(name string, vkeys []string, seen map[string]bool) error {
	if len(vkeys) > MaxKeys {
		return fmt.Errorf("%d keys named %q, want at most %d", len(vkeys), name, MaxKeys)
	}
	for i, vkey := range vkeys {
		key, err := parseVkey(name, vkey)
		if err != nil {
			return err
		}
		if seen[string(key)] {
			return fmt.Errorf("public key of %q occurs twice in one log", vkey)
		}
		seen[string(key)] = true
		if i > 0 && vkeys[i-1] >= vkey {
			return fmt.Errorf("keys named %q are not ascending", name)
		}
	}
	return nil
}

// parseVkey returns the raw public key of an Ed25519 vkey with this name. The
// text must be the one spelling: lowercase hash, canonical base64.
func parseVkey(name, vkey string) ([]byte, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", vkey, err)
	}
	if v.Name() != name {
		return nil, fmt.Errorf("key %q is not named %q", vkey, name)
	}
	// NewVerifier has checked the shape: name, eight digits, base64.
	raw, err := base64.StdEncoding.DecodeString(vkey[len(name)+len("+00000000+"):])
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", vkey, err)
	}
	if err := dsse.CheckKey(raw[1:]); err != nil {
		return nil, fmt.Errorf("key %q: %w", vkey, err)
	}
	if raw[0] != 0x01 {
		return nil, fmt.Errorf("key %q has type 0x%02x, want 0x01 (Ed25519)", vkey, raw[0])
	}
	if again, err := note.NewEd25519VerifierKey(name, raw[1:]); err != nil || again != vkey {
		return nil, fmt.Errorf("key %q is not in its canonical spelling", vkey)
	}
	return raw[1:], nil
}

// validateOrigin holds origins to what every signed-note reader accepts as a
// key name and shows alike: printable ASCII without space and plus.
func validateOrigin(origin string) error {
	if len(origin) < 1 || len(origin) > maxOrigin {
		return fmt.Errorf("origin %q has %d bytes, want 1 to %d", origin, len(origin), maxOrigin)
	}
	for _, c := range []byte(origin) {
		if c <= ' ' || c > '~' || c == '+' {
			return fmt.Errorf("origin %q has a character other than printable ASCII without space and plus", origin)
		}
	}
	return nil
}

// checkCheckpoint checks that text is a checkpoint of the log, signed by one of
// its keys. Cosignatures in it are for readers who hold a policy.
func checkCheckpoint(log Log, text string) error {
	verifiers := make([]note.Verifier, len(log.Keys))
	for i, vkey := range log.Keys {
		v, err := note.NewVerifier(vkey)
		if err != nil {
			return err
		}
		verifiers[i] = v
	}
	n, err := note.Open([]byte(text), note.VerifierList(verifiers...))
	if err != nil {
		return fmt.Errorf("opening the checkpoint of %q: %w", log.Origin, err)
	}
	origin, rest, _ := strings.Cut(n.Text, "\n")
	size, root, _ := strings.Cut(rest, "\n")
	if origin != log.Origin {
		return fmt.Errorf("checkpoint is of log %q, want %q", origin, log.Origin)
	}
	number, err := strconv.ParseInt(size, 10, 64)
	if err != nil || number < 0 || strconv.FormatInt(number, 10) != size {
		return fmt.Errorf("checkpoint has tree size %q", size)
	}
	hash, err := tlog.ParseHash(strings.TrimSuffix(root, "\n"))
	if err != nil || root != hash.String()+"\n" {
		return errors.New("checkpoint has no root hash of 32 bytes in base64 as its third and last line")
	}
	return nil
}
