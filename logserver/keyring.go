package logserver

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// headSigner signs checkpoints of one origin with one key.
type headSigner struct {
	origin string
	signer note.Signer
	vkey   string
	keys   []note.Verifier // the one verifier, as checkpoint.Open takes it
}

func newHeadSigner(origin, name string, key crypto.Signer) (*headSigner, error) {
	if key == nil {
		return nil, invalid("log %q has no key", origin)
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, invalid("key of %q is not an Ed25519 key", name)
	}
	signer, err := checkpoint.NewSigner(name, key)
	if err != nil {
		return nil, fmt.Errorf("using the key of %q: %w", name, err)
	}
	vkey, err := checkpoint.Vkey(name, public)
	if err != nil {
		return nil, fmt.Errorf("using the key of %q: %w", name, err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("using the key of %q: %w", name, err)
	}
	return &headSigner{origin: origin, signer: signer, vkey: vkey, keys: []note.Verifier{verifier}}, nil
}

// keyring is the identity of a store with the private keys that belong to it.
// It is immutable; a rotation installs another one.
type keyring struct {
	*identity
	current *headSigner
	next    *headSigner // nil unless a rotation has begun
	// opens are the keys that may have signed a stored note, retired ones too.
	opens []note.Verifier
}

// sign returns the checkpoint signed by the current key and, in a rotation, by
// the next one after it.
func (k *keyring) sign(size int64, root Hash) ([]byte, error) {
	signers := []note.Signer{k.current.signer}
	if k.next != nil {
		signers = append(signers, k.next.signer)
	}
	return checkpoint.Sign(checkpoint.Checkpoint{Origin: k.origin, Size: size, Root: root}, signers...)
}

// signed reports whether every key that signs now has signed the note.
func (k *keyring) signed(signed []byte) bool {
	if k.next == nil {
		return signedBy(signed, k.current.vkey)
	}
	return signedBy(signed, k.current.vkey, k.next.vkey)
}

// signedBy reports whether each of the keys has signed the note.
func signedBy(signed []byte, vkeys ...string) bool {
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return false
	}
	for _, vkey := range vkeys {
		key, err := checkpoint.ParseVkey(vkey)
		if err != nil {
			return false
		}
		if good, err := n.Verified([]note.Verifier{key}); err != nil || len(good) == 0 {
			return false
		}
	}
	return true
}

// candidates are the private keys that a log was opened with. Which is which
// follows from the store: an operation that was interrupted between the store
// and the files leaves them in the other order.
type candidates struct {
	logs     []*headSigner
	receipts []*headSigner
}

func newCandidates(o Options) (*candidates, error) {
	c := new(candidates)
	if o.Key == nil {
		return nil, invalid("log %q has no key", o.Origin)
	}
	for _, key := range []crypto.Signer{o.Key, o.NextKey} {
		if key == nil {
			continue
		}
		s, err := newHeadSigner(o.Origin, o.Origin, key)
		if err != nil {
			return nil, err
		}
		c.logs = append(c.logs, s)
	}
	for _, key := range []crypto.Signer{o.ReceiptKey, o.NextReceiptKey} {
		if key == nil {
			continue
		}
		s, err := newHeadSigner(o.Origin, o.Origin+receiptSuffix, key)
		if err != nil {
			return nil, err
		}
		c.receipts = append(c.receipts, s)
	}
	return c, nil
}

// identity is that of a log which is created with these keys.
func (c *candidates) identity(origin string) *identity {
	id := &identity{origin: origin, log: c.logs[0].vkey}
	if len(c.receipts) > 0 {
		id.receipt = c.receipts[0].vkey
	}
	return id
}

// fit finds the private key of every key that the identity has in use.
func (c *candidates) fit(id *identity) (*keyring, *headSigner, error) {
	k := &keyring{identity: id}
	var err error
	if k.current, err = pick(c.logs, KeyError{Role: RoleLog, State: KeyActive, Want: id.log}); err != nil {
		return nil, nil, err
	}
	if id.next != "" {
		if k.next, err = pick(c.logs, KeyError{Role: RoleLog, State: KeyNext, Want: id.next}); err != nil {
			return nil, nil, err
		}
	}
	var receipt *headSigner
	if id.receipt != "" || len(c.receipts) > 0 {
		if receipt, err = pick(c.receipts, KeyError{Role: RoleReceipt, State: KeyActive, Want: id.receipt}); err != nil {
			return nil, nil, err
		}
	}
	k.opens, err = id.verifiers()
	return k, receipt, err
}

// pick returns the signer with the wanted vkey.
func pick(from []*headSigner, want KeyError) (*headSigner, error) {
	for _, s := range from {
		if s.vkey == want.Want {
			return s, nil
		}
		want.Got = append(want.Got, s.vkey)
	}
	return nil, &want
}

// receiptSigner hands out receipt heads, by whichever receipt key is current.
type receiptSigner struct {
	// mu lets many issue, and a rotation wait for them: while it is held for
	// writing no head is being issued.
	mu      sync.RWMutex
	current *headSigner
	// issuedTo is the largest tree size that has been issued since the log was
	// opened, or a size at or above it.
	issuedTo atomic.Int64
}

// issue returns the receipt head of a durable tree.
func (r *receiptSigner) issue(size int64, root Hash) *receiptHead {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for {
		to := r.issuedTo.Load()
		if size <= to || r.issuedTo.CompareAndSwap(to, size) {
			break
		}
	}
	return &receiptHead{signer: r.current, size: size, root: root}
}

// receiptHead is a head of a durable tree that may be signed at any time: most
// commit groups have no caller who wants the signature, and making it costs as
// much as sequencing a hundred entries. The key is that of when it was issued.
type receiptHead struct {
	signer *headSigner
	size   int64
	root   Hash

	once sync.Once
	note []byte
	err  error
}

func (r *receiptHead) sign() ([]byte, error) {
	r.once.Do(func() {
		head := checkpoint.Checkpoint{Origin: r.signer.origin, Size: r.size, Root: r.root}
		if r.note, r.err = checkpoint.Sign(head, r.signer.signer); r.err != nil {
			r.err = fmt.Errorf("signing the receipt head: %w", r.err)
		}
	})
	return r.note, r.err
}

// vkey returns the verifier key of the current receipt key.
func (r *receiptSigner) vkey() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.current.vkey
}
