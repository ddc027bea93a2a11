package membership

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
)

// Bounds of a state and of a principal (docs/formats/README.md, "Limits").
const (
	MaxPrincipals = 100_000 // of a state; what proofs and full replays are measured at
	MaxKeys       = 8       // of one principal, and of one log: enough for a rotation of everything
	MaxLabels     = 16      // of one node
	MaxTrustLevel = 1_000   // of a node
	maxText       = 63      // bytes of a name, a label key and a label value

	// MaxAdminThreshold leaves room in a change's envelope for the signatures of
	// the keys that it adds: under a higher threshold no principal with MaxKeys
	// keys could be added, and above dsse.MaxSignatures nothing could be changed.
	MaxAdminThreshold = dsse.MaxSignatures - MaxKeys
)

// AlgorithmEd25519 is the only key algorithm of protocol version 1.0.
const AlgorithmEd25519 = "ed25519"

// Kind says what a principal is. The set is closed.
type Kind string

// The kinds of principal.
const (
	KindAdmin   Kind = "admin"   // signs changes
	KindAuditor Kind = "auditor" // reads all records
	KindNode    Kind = "node"    // executes and attests
	KindTenant  Kind = "tenant"  // registers contracts and submits
)

// Use says what a key may sign. The set is closed; a key signs nothing that
// its uses do not name.
type Use string

// The uses of keys.
const (
	UseAttestation Use = "attestation"
	UseChange      Use = "change"
	UseContract    Use = "contract" // contracts and retirements
	UseSubmission  Use = "submission"
	UseToken       Use = "token"
)

// usesOf lists what the keys of each kind may be used for.
var usesOf = map[Kind][]Use{
	KindAdmin:   {UseChange, UseToken},
	KindAuditor: {UseToken},
	KindNode:    {UseAttestation, UseToken},
	KindTenant:  {UseContract, UseSubmission, UseToken},
}

// A Key is a public key with what it may be used for.
type Key struct {
	Algorithm string `json:"algorithm"`  // AlgorithmEd25519
	PublicKey []byte `json:"public_key"` // 32 bytes
	Uses      []Use  `json:"uses"`       // ascending, not empty
}

// ID returns the key id: what selects the key in envelopes and tokens. It is
// 64 hexadecimal characters.
func (k Key) ID() string { return dsse.KeyID(k.PublicKey) }

// Has reports whether the key may be used so.
func (k Key) Has(use Use) bool { return slices.Contains(k.Uses, use) }

// A Principal is one party known to the cluster.
type Principal struct {
	ID         string            `json:"id"`
	Keys       []Key             `json:"keys"` // 1 to MaxKeys, ascending by public key
	Kind       Kind              `json:"kind"`
	Labels     map[string]string `json:"labels,omitempty"`      // nodes only, at most MaxLabels
	Name       string            `json:"name,omitempty"`        // nodes only, for people
	TrustLevel uint64            `json:"trust_level,omitempty"` // nodes only, at most MaxTrustLevel
}

// LeafData returns the canonical form of p, which the membership hash covers.
// It refuses a principal that breaks a rule of the format.
func (p Principal) LeafData() ([]byte, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	return strictjson.Marshal(p)
}

// Key returns the key with this id, whatever its uses.
func (p Principal) Key(keyID string) (Key, bool) {
	for _, k := range p.Keys {
		if k.ID() == keyID {
			return k, true
		}
	}
	return Key{}, false
}

// KeyFor returns the public key with this id if it may be used so.
func (p Principal) KeyFor(use Use, keyID string) (ed25519.PublicKey, bool) {
	k, ok := p.Key(keyID)
	if !ok || !k.Has(use) {
		return nil, false
	}
	return k.PublicKey, true
}

// KeysFor returns all public keys that may be used so, ascending.
func (p Principal) KeysFor(use Use) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	for _, k := range p.Keys {
		if k.Has(use) {
			keys = append(keys, k.PublicKey)
		}
	}
	return keys
}

// clone returns a copy that shares no memory with p.
func (p Principal) clone() Principal {
	c := p
	c.Keys = make([]Key, len(p.Keys))
	for i, k := range p.Keys {
		c.Keys[i] = Key{Algorithm: k.Algorithm, PublicKey: bytes.Clone(k.PublicKey), Uses: slices.Clone(k.Uses)}
	}
	if p.Labels != nil {
		c.Labels = make(map[string]string, len(p.Labels))
		for key, value := range p.Labels {
			c.Labels[key] = value
		}
	}
	return c
}

// normal returns p as the format wants it written: keys and uses in order.
func (p Principal) normal() Principal {
	c := p.clone()
	for i := range c.Keys {
		slices.Sort(c.Keys[i].Uses)
	}
	slices.SortFunc(c.Keys, compareKeys)
	return c
}

func compareKeys(a, b Key) int { return bytes.Compare(a.PublicKey, b.PublicKey) }

var identifier = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

func validateID(what, id string) error {
	if !identifier.MatchString(id) {
		return fmt.Errorf("%s is %q, want 1 to 63 of a-z 0-9 . _ - with a letter or digit at both ends", what, id)
	}
	return nil
}

func (k Key) validate(kind Kind) error {
	if k.Algorithm != AlgorithmEd25519 {
		return fmt.Errorf("key algorithm is %q, want %q", k.Algorithm, AlgorithmEd25519)
	}
	if err := dsse.CheckKey(k.PublicKey); err != nil {
		return err
	}
	if len(k.Uses) == 0 {
		return errors.New("key without uses")
	}
	for i, u := range k.Uses {
		if !slices.Contains(usesOf[kind], u) {
			return fmt.Errorf("key use is %q, want one of %q for kind %q", u, usesOf[kind], kind)
		}
		if i > 0 && k.Uses[i-1] >= u {
			return errors.New("key uses are not ascending")
		}
	}
	return nil
}

func (p Principal) validate() error {
	if err := validateID("principal id", p.ID); err != nil {
		return err
	}
	if usesOf[p.Kind] == nil {
		return fmt.Errorf("principal %q: kind is %q, want admin, auditor, node or tenant", p.ID, p.Kind)
	}
	if len(p.Keys) < 1 || len(p.Keys) > MaxKeys {
		return fmt.Errorf("principal %q: %d keys, want 1 to %d", p.ID, len(p.Keys), MaxKeys)
	}
	for i, k := range p.Keys {
		if err := k.validate(p.Kind); err != nil {
			return fmt.Errorf("principal %q: %w", p.ID, err)
		}
		if i > 0 && compareKeys(p.Keys[i-1], k) >= 0 {
			return fmt.Errorf("principal %q: keys are not ascending by public key", p.ID)
		}
	}
	if p.Kind != KindNode && (p.Name != "" || p.TrustLevel != 0 || len(p.Labels) != 0) {
		return fmt.Errorf("principal %q: name, labels and trust level are for nodes only", p.ID)
	}
	if err := validateDescription(p.Name, p.TrustLevel, p.Labels); err != nil {
		return fmt.Errorf("principal %q: %w", p.ID, err)
	}
	return nil
}

// validateDescription checks what update_principal may set.
func validateDescription(name string, trustLevel uint64, labels map[string]string) error {
	if name != "" && !plainText(name) {
		return fmt.Errorf("name %q is not 1 to %d printable ASCII characters", name, maxText)
	}
	if trustLevel > MaxTrustLevel {
		return fmt.Errorf("trust level is %d, want at most %d", trustLevel, MaxTrustLevel)
	}
	if len(labels) > MaxLabels {
		return fmt.Errorf("%d labels, want at most %d", len(labels), MaxLabels)
	}
	for key, value := range labels {
		if !plainText(key) || !plainText(value) {
			return fmt.Errorf("label %q=%q is not 1 to %d printable ASCII characters each", key, value, maxText)
		}
	}
	return nil
}

// plainText reports whether s is 1 to maxText printable ASCII characters: leaf
// data looks the same to every reader and needs no escape but \" and \\.
func plainText(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= maxText
}
