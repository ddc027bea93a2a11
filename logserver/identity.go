package logserver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// identity is what a store is bound to: the origin and every key that has signed
// for it. It is immutable; a rotation stores another one before it takes effect.
//
// Stored it is text, one item a line: the origin, the vkey of the log key, the
// vkey of the receipt key (empty if there is none), and then, in this order and
// only where there are such keys,
//
//	next VKEY                  the log key that signs beside the current one
//	retired SIZE VKEY          an earlier log key; it signed nothing beyond SIZE
//	retired-receipt SIZE VKEY  an earlier receipt key; likewise
type identity struct {
	origin  string
	log     string // vkey of the current log key
	receipt string // vkey of the current receipt key, or ""
	next    string // vkey of the log key of a rotation that has begun, or ""

	retired         []RetiredKey
	retiredReceipts []RetiredKey
}

// RetiredKey is a key that signs no more. What it signed stays valid.
type RetiredKey struct {
	Vkey string `json:"vkey"`
	// Size is the largest tree size that it may have signed.
	Size int64 `json:"size"`
}

// MaxRetiredKeys bounds the retired keys of each kind: one a month for eight
// years. Every stored note is opened with all of them.
const MaxRetiredKeys = 100

// Prefixes of the optional lines of a stored identity.
const (
	identityNext           = "next "
	identityRetired        = "retired "
	identityRetiredReceipt = "retired-receipt "
)

// format returns the stored form.
func (id *identity) format() []byte {
	b := fmt.Appendf(nil, "%s\n%s\n%s\n", id.origin, id.log, id.receipt)
	if id.next != "" {
		b = fmt.Appendf(b, "%s%s\n", identityNext, id.next)
	}
	for _, k := range id.retired {
		b = fmt.Appendf(b, "%s%d %s\n", identityRetired, k.Size, k.Vkey)
	}
	for _, k := range id.retiredReceipts {
		b = fmt.Appendf(b, "%s%d %s\n", identityRetiredReceipt, k.Size, k.Vkey)
	}
	return b
}

// parseIdentity reads the stored form. What does not format to itself is
// refused, and so is a key of another name.
func parseIdentity(b []byte) (*identity, error) {
	lines := strings.Split(string(b), "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" || len(lines) > 5+2*MaxRetiredKeys {
		return nil, corrupt("the identity is not 3 to %d lines of origin and keys", 4+2*MaxRetiredKeys)
	}
	id := &identity{origin: lines[0], log: lines[1], receipt: lines[2]}
	for _, line := range lines[3 : len(lines)-1] {
		if vkey, ok := strings.CutPrefix(line, identityNext); ok {
			id.next = vkey
		} else if rest, ok := strings.CutPrefix(line, identityRetired); ok {
			id.retired = append(id.retired, parseRetired(rest))
		} else if rest, ok := strings.CutPrefix(line, identityRetiredReceipt); ok {
			id.retiredReceipts = append(id.retiredReceipts, parseRetired(rest))
		}
	}
	if string(id.format()) != string(b) {
		return nil, corrupt("the identity is not in the form that a log writes")
	}
	for _, k := range id.vkeys() {
		key, err := checkpoint.ParseVkey(k.Vkey)
		if err != nil || key.Name() != k.name(id.origin) {
			return nil, corrupt("the identity names %q, which is no %s of %q", k.Vkey, k.Role, id.origin)
		}
	}
	return id, nil
}

// parseRetired reads "SIZE VKEY"; the caller compares what it formats to.
func parseRetired(s string) RetiredKey {
	size, vkey, _ := strings.Cut(s, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		n = 0 // does not format to itself, or not to what was there
	}
	return RetiredKey{Vkey: vkey, Size: n}
}

// Roles and states of keys, as KeyInfo and KeyError say them.
const (
	RoleLog     = "log key"
	RoleReceipt = "receipt key"

	KeyActive  = "active"  // signs
	KeyNext    = "next"    // signs beside the active one, which it will replace
	KeyRetired = "retired" // signs no more
)

// KeyInfo says what a key of a log is there for.
type KeyInfo struct {
	Role  string `json:"role"`  // RoleLog or RoleReceipt
	State string `json:"state"` // KeyActive, KeyNext or KeyRetired
	Vkey  string `json:"vkey"`
	// Size is, for a retired key, the largest tree size that it may have signed.
	Size int64 `json:"size,omitempty"`
}

// name is the key name that a key of this role has.
func (k KeyInfo) name(origin string) string {
	if k.Role == RoleReceipt {
		return origin + receiptSuffix
	}
	return origin
}

// receiptSuffix follows the origin in the name of a receipt key.
const receiptSuffix = "/receipt"

// vkeys lists the keys: those that sign, then the retired ones, newest first.
func (id *identity) vkeys() []KeyInfo {
	list := []KeyInfo{{Role: RoleLog, State: KeyActive, Vkey: id.log}}
	if id.next != "" {
		list = append(list, KeyInfo{Role: RoleLog, State: KeyNext, Vkey: id.next})
	}
	if id.receipt != "" {
		list = append(list, KeyInfo{Role: RoleReceipt, State: KeyActive, Vkey: id.receipt})
	}
	for _, k := range slices.Backward(id.retired) {
		list = append(list, KeyInfo{Role: RoleLog, State: KeyRetired, Vkey: k.Vkey, Size: k.Size})
	}
	for _, k := range slices.Backward(id.retiredReceipts) {
		list = append(list, KeyInfo{Role: RoleReceipt, State: KeyRetired, Vkey: k.Vkey, Size: k.Size})
	}
	return list
}

// verifiers returns every log key that may have signed a stored note.
func (id *identity) verifiers() ([]note.Verifier, error) {
	var keys []note.Verifier
	for _, k := range id.vkeys() {
		if k.Role != RoleLog {
			continue
		}
		v, err := checkpoint.ParseVkey(k.Vkey)
		if err != nil {
			return nil, corrupt("the identity names the key %q: %v", k.Vkey, err)
		}
		keys = append(keys, v)
	}
	return keys, nil
}

// clone returns a copy to be changed.
func (id *identity) clone() *identity {
	c := *id
	c.retired = slices.Clone(id.retired)
	c.retiredReceipts = slices.Clone(id.retiredReceipts)
	return &c
}

// identity reads what the store is bound to, after its format.
func (r reader) identity() (*identity, error) {
	if err := r.checkFormat(); err != nil {
		return nil, err
	}
	raw, err := r.get(metaIdentity)
	if err != nil {
		return nil, fmt.Errorf("reading the identity: %w", lost(err))
	}
	return parseIdentity(raw)
}

// checkFormat makes sure that the store holds a log in the form that this
// program reads.
func (r reader) checkFormat() error {
	format, err := r.get(metaFormat)
	if err != nil {
		return err // ErrNotFound: no log
	}
	if string(format) != storeFormat {
		return fmt.Errorf("%w: store format is %q, this program reads %q", ErrIdentity, format, storeFormat)
	}
	return nil
}

// KeyError says that a log was opened without one of its keys. It matches
// ErrIdentity.
type KeyError struct {
	Role  string   // RoleLog or RoleReceipt
	State string   // KeyActive or KeyNext
	Want  string   // vkey that the store names; "" if it names none
	Got   []string // vkeys that were given
}

func (e *KeyError) Error() string {
	got := "none was given"
	if len(e.Got) > 0 {
		got = fmt.Sprintf("given was %q", e.Got)
	}
	if e.Want == "" {
		return fmt.Sprintf("%v: it has no %s, %s", ErrIdentity, e.Role, got)
	}
	return fmt.Sprintf("%v: its %s %s is %q, %s: use the key file that belongs to this log", ErrIdentity, e.State, e.Role, e.Want, got)
}

// Unwrap makes errors.Is(err, ErrIdentity) hold.
func (e *KeyError) Unwrap() error { return ErrIdentity }
