package logserver

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Rotation replaces a key of a log without a new log. The log key changes in
// two steps, so that clients and witnesses have the time to learn the new one:
//
//	begin   the new key signs every checkpoint too, after the old one
//	finish  the old key signs no more
//
// or abort, in place of finish. The receipt key changes in one. Each step is one
// durable change of the store's identity before it takes effect, so a crash
// leaves the log before or after it, and Open picks among the keys that it is
// given by what the store says.

// begin returns the identity in which a new log key signs beside the old one.
// Beginning again with the same key changes nothing.
func (id *identity) begin(vkey string) (*identity, error) {
	switch {
	case id.next == vkey:
		return id, nil
	case id.next != "":
		return nil, invalid("a rotation to the key %q has begun, finish or abort it first", id.next)
	case len(id.retired) == MaxRetiredKeys:
		return nil, invalid("the log has %d retired keys, which is the most it can have: let a new log succeed it", len(id.retired))
	}
	if err := id.fresh(vkey); err != nil {
		return nil, err
	}
	c := id.clone()
	c.next = vkey
	return c, nil
}

// fresh makes sure that a key was never one of the log's: what is signed by a
// retired key would otherwise be taken for new.
func (id *identity) fresh(vkey string) error {
	for _, k := range id.vkeys() {
		if k.Vkey == vkey {
			return invalid("the key %q is or was the log's %s (%s)", vkey, k.Role, k.State)
		}
	}
	return nil
}

// finish returns the identity in which the old log key, which has signed up to
// the given tree size, signs no more.
func (id *identity) finish(size int64) (*identity, error) {
	if id.next == "" {
		return nil, invalid("no rotation of the log key has begun")
	}
	c := id.clone()
	c.retired = append(c.retired, RetiredKey{Vkey: id.log, Size: size})
	c.log, c.next = id.next, ""
	return c, nil
}

// abort returns the identity without the new log key. It may have signed
// checkpoints up to the given tree size, so it is retired.
func (id *identity) abort(size int64) (*identity, error) {
	if id.next == "" {
		return nil, invalid("no rotation of the log key has begun")
	}
	c := id.clone()
	c.retired = append(c.retired, RetiredKey{Vkey: id.next, Size: size})
	c.next = ""
	return c, nil
}

// rotateReceipt returns the identity with a new receipt key. The old one has
// signed heads up to the given tree size.
func (id *identity) rotateReceipt(vkey string, size int64) (*identity, error) {
	switch {
	case id.receipt == vkey:
		return id, nil
	case id.receipt == "":
		return nil, invalid("the log has no receipt key")
	case len(id.retiredReceipts) == MaxRetiredKeys:
		return nil, invalid("the log has %d retired receipt keys, which is the most it can have: let a new log succeed it", len(id.retiredReceipts))
	}
	if err := id.fresh(vkey); err != nil {
		return nil, err
	}
	c := id.clone()
	c.retiredReceipts = append(c.retiredReceipts, RetiredKey{Vkey: id.receipt, Size: size})
	c.receipt = vkey
	return c, nil
}

// BeginRotation makes a new log key sign every checkpoint beside the old one,
// from the next round on, also if nothing is appended. From then on Open wants
// it, as Options.NextKey. Beginning again with the same key is no error.
func (l *Log) BeginRotation(next crypto.Signer) error {
	signer, err := newHeadSigner(l.opts.Origin, l.opts.Origin, next)
	if err != nil {
		return err
	}
	return l.rotate(func(old *keyring) (*keyring, error) {
		id, err := old.begin(signer.vkey)
		return &keyring{identity: id, current: old.current, next: signer}, err
	})
}

// FinishRotation retires the old log key. A checkpoint with both signatures
// must have been published, and the policy must have a log line with the new
// key: without one no checkpoint would ever satisfy it again.
func (l *Log) FinishRotation() error {
	return l.rotate(func(old *keyring) (*keyring, error) {
		if old.next != nil && l.suspended == nil {
			if !old.signed(l.Published().Note) {
				return nil, invalid("no checkpoint with the signatures of both keys has been published yet: wait for one")
			}
			if p := l.publisher.policy.Load(); p != nil && !hasKey(p, l.opts.Origin, old.next) {
				return nil, invalid("the witness policy has no log line with the new key %q: add it there, and to the policies of witnesses and clients, and have the log read it again or restart it", old.next.vkey)
			}
		}
		id, err := old.finish(l.Signed().Size)
		return &keyring{identity: id, current: old.next}, err
	})
}

// SetPolicy replaces the witness policy of a running log by one that has other log
// lines, which is what a rotation of the log key takes. It must accept what the
// log signs and serves now. One that asks for other witnesses, or for another
// quorum of them, is refused: they have to be asked first whether they know a
// newer head, which only opening the log does. After an error, ErrInvalid, the
// policy is what it was.
func (l *Log) SetPolicy(policy *checkpoint.Policy) error {
	l.rotating.Lock() // what signs stays what it is
	defer l.rotating.Unlock()
	old, served, keys := l.publisher.policy.Load(), l.Witnessed().Note, l.keys.Load()
	if policy == nil || policy.QuorumNone() {
		if old == nil {
			return nil // neither is asked anything
		}
		return invalid("the policy asks for no cosignature, the one before does: restart the log to give witnesses up")
	}
	if old == nil || !policy.SameQuorum(old) {
		return invalid("the policy asks for other cosignatures than the one before: restart the log, which then asks all witnesses whether they know a newer head")
	}
	if !hasKey(policy, l.opts.Origin, keys.current) {
		return invalid("the policy has no log line with the log's key %q", keys.current.vkey)
	}
	if served != nil {
		if _, err := policy.Verify(served); err != nil {
			return fmt.Errorf("%w: the policy does not accept the checkpoint that is served now: %w", ErrInvalid, err)
		}
	}
	l.publisher.policy.Store(policy)
	return nil
}

func hasKey(p *checkpoint.Policy, origin string, s *headSigner) bool {
	for _, k := range p.LogKeys(origin) {
		if k.Name() == s.keys[0].Name() && k.KeyHash() == s.keys[0].KeyHash() {
			return true
		}
	}
	return false
}

// AbortRotation retires the new log key in place of the old one.
func (l *Log) AbortRotation() error {
	return l.rotate(func(old *keyring) (*keyring, error) {
		id, err := old.abort(l.Signed().Size)
		return &keyring{identity: id, current: old.current}, err
	})
}

// rotate installs what change makes of the keys, once it is durable. No
// checkpoint is being signed meanwhile.
func (l *Log) rotate(change func(old *keyring) (*keyring, error)) error {
	l.rotating.Lock()
	defer l.rotating.Unlock()
	old := l.keys.Load()
	next, err := change(old)
	if err != nil {
		return err
	}
	if next.identity == old.identity {
		return nil
	}
	if err := l.install(next); err != nil {
		return err
	}
	l.publisher.wake()
	return nil
}

// install makes a keyring durable and then current. The caller holds rotating.
func (l *Log) install(next *keyring) error {
	if l.readOnly || errors.Is(l.suspended, ErrSucceeded) {
		return l.suspended
	}
	var err error
	if next.opens, err = next.verifiers(); err != nil {
		return err
	}
	if err := l.write(map[string][]byte{string(metaIdentity): next.format()}); err != nil {
		return fmt.Errorf("storing the keys: %w", err)
	}
	l.keys.Store(next)
	return nil
}

// RotateReceiptKey lets a new receipt key sign the heads of all trees that are
// larger than any that the old one has signed. From then on Open wants it, as
// Options.ReceiptKey or NextReceiptKey. Doing it again with the same key is no
// error.
func (l *Log) RotateReceiptKey(next crypto.Signer) error {
	signer, err := newHeadSigner(l.opts.Origin, l.opts.Origin+receiptSuffix, next)
	if err != nil {
		return err
	}
	if l.receipt == nil {
		return invalid("the log has no receipt key")
	}
	l.rotating.Lock()
	defer l.rotating.Unlock()
	// Appends wait here for the length of one commit.
	l.receipt.mu.Lock()
	defer l.receipt.mu.Unlock()
	old := l.keys.Load()
	// What earlier runs of the log have signed was no larger than its tree.
	id, err := old.rotateReceipt(signer.vkey, max(l.receipt.issuedTo.Load(), l.Size()))
	if err != nil || id == old.identity {
		return err
	}
	if err := l.install(&keyring{identity: id, current: old.current, next: old.next}); err != nil {
		return err
	}
	l.receipt.current = signer
	return nil
}

// BeginRotation is Log.BeginRotation for a log that is not running.
func (s *Store) BeginRotation(next crypto.Signer) error {
	signer, err := newHeadSigner(s.id.origin, s.id.origin, next)
	if err != nil {
		return err
	}
	return s.rotate(func(snapshot) (*identity, error) { return s.id.begin(signer.vkey) })
}

// FinishRotation is Log.FinishRotation for a log that is not running. The policy
// is not known here: it must have a log line with the new key.
func (s *Store) FinishRotation() error {
	return s.rotate(func(tree snapshot) (*identity, error) {
		signed, err := s.signedHead(tree)
		if err != nil {
			return nil, err
		}
		if s.id.next != "" && s.Suspended() == nil {
			published, err := s.store.get(metaPublished)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return nil, err
			}
			if !signedBy(published, s.id.log, s.id.next) {
				return nil, invalid("no checkpoint with the signatures of both keys has been published yet: run the log until one is")
			}
		}
		return s.id.finish(signed.Size)
	})
}

// AbortRotation is Log.AbortRotation for a log that is not running.
func (s *Store) AbortRotation() error {
	return s.rotate(func(tree snapshot) (*identity, error) {
		signed, err := s.signedHead(tree)
		if err != nil {
			return nil, err
		}
		return s.id.abort(signed.Size)
	})
}

// RotateReceiptKey is Log.RotateReceiptKey for a log that is not running.
func (s *Store) RotateReceiptKey(next crypto.Signer) error {
	signer, err := newHeadSigner(s.id.origin, s.id.origin+receiptSuffix, next)
	if err != nil {
		return err
	}
	return s.rotate(func(tree snapshot) (*identity, error) { return s.id.rotateReceipt(signer.vkey, tree.size) })
}

func (s *Store) rotate(change func(tree snapshot) (*identity, error)) error {
	if err := s.Suspended(); errors.Is(err, ErrSucceeded) {
		return err
	}
	tree, err := s.store.snapshot()
	if err != nil {
		return err
	}
	id, err := change(tree)
	if err != nil || id == s.id {
		return err
	}
	if err := s.store.db.Set(metaIdentity, id.format(), pebble.Sync); err != nil {
		return fmt.Errorf("storing the keys: %w", err)
	}
	s.id = id
	return nil
}
