package membership

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
)

// MaxChangeEnvelope bounds the envelope of a change in bytes: it is one entry
// of a public log (C2SP tlog-tiles), which is tighter than DSSE envelopes are
// in general.
const MaxChangeEnvelope = 65_535

// What an envelope has beside its payload in base64, in bytes of canonical JSON.
const (
	envelopeFrame     = len(`{"payload":"","payloadType":"","signatures":[]}`) + len(PayloadType)
	envelopeSignature = len(`{"keyid":"","sig":""},`) + 64 + 88 // hexadecimal key id, base64 signature
)

// A ChangeInfo is what became of one lawful change.
type ChangeInfo struct {
	Change        Change
	PayloadDigest digest.Digest
	Admins        []string // ids of the admins that signed, ascending
	Added         []string // ids of the keys that the change added, each of which signed; ascending
}

// Genesis makes the first state from entry 0 of a membership log. The caller
// decides whether this is the genesis it trusts. Errors are a [*RefusalError].
func Genesis(envelope []byte) (*State, *ChangeInfo, error) {
	p, err := openChange(envelope)
	if err != nil {
		return nil, nil, err
	}
	founding, ok := p.change.Effect.(Founding)
	if !ok || p.change.Epoch != 1 || p.change.Previous != noPrevious {
		return nil, nil, refuse(RefusedGenesis, "the first change is of kind %q, epoch %d, previous %s, want %q, 1 and zeros",
			p.change.Effect.Kind(), p.change.Epoch, p.change.Previous, KindGenesis)
	}
	d := newGenesisDraft(p.change.Cluster)
	if err := founding.apply(d); err != nil {
		return nil, nil, err
	}
	// Every admin that genesis names must have signed it.
	var admins uint64
	for _, principal := range founding.Principals {
		if principal.Kind == KindAdmin {
			admins++
		}
	}
	return p.finish(d, d.next, max(admins, founding.AdminThreshold))
}

// Apply makes the next state from the envelope of a change. It checks every
// rule of docs/formats/membership.md and never has a partial effect: s stays as
// it is, and errors are a [*RefusalError].
func (s *State) Apply(envelope []byte) (*State, *ChangeInfo, error) {
	p, err := openChange(envelope)
	if err != nil {
		return nil, nil, err
	}
	if err := s.follows(p.change); err != nil {
		return nil, nil, err
	}
	d := newDraft(s)
	if err := p.change.Effect.apply(d); err != nil {
		return nil, nil, err
	}
	return p.finish(d, s, s.adminThreshold)
}

// follows checks that a change is the next one after s.
func (s *State) follows(c Change) error {
	switch {
	case c.Cluster != s.cluster:
		return refuse(RefusedCluster, "the change is for cluster %q, this is %q", c.Cluster, s.cluster)
	case c.Effect.Kind() == KindGenesis:
		return refuse(RefusedGenesis, "a second genesis at epoch %d", s.epoch)
	case c.Epoch <= s.epoch:
		return refuse(RefusedReplay, "the change makes epoch %d, the current one is %d", c.Epoch, s.epoch)
	case c.Epoch > s.epoch+1:
		return refuse(RefusedGap, "the change makes epoch %d, the current one is %d", c.Epoch, s.epoch)
	case c.Previous != s.payloadDigest:
		return refuse(RefusedPrevious, "the change follows payload %s, the last one is %s", c.Previous, s.payloadDigest)
	}
	return nil
}

// A proposed change is an envelope on its way through the rules.
type proposed struct {
	envelope *dsse.Envelope
	change   Change
}

// openChange checks everything that does not depend on a state.
func openChange(envelope []byte) (*proposed, error) {
	if len(envelope) > MaxChangeEnvelope {
		return nil, refuse(RefusedEnvelope, "envelope of %d bytes, want at most %d", len(envelope), MaxChangeEnvelope)
	}
	e, err := dsse.Parse(envelope)
	if err != nil {
		return nil, refuseCause(RefusedEnvelope, err)
	}
	if e.PayloadType != PayloadType {
		return nil, refuse(RefusedEnvelope, "payload type is %q, want %q", e.PayloadType, PayloadType)
	}
	c, err := ParseChange(e.Payload)
	if err != nil {
		return nil, err
	}
	return &proposed{envelope: e, change: c}, nil
}

// finish checks what remains once the effect is applied to d, cheap rules
// first, and returns the new state. electorate is the state whose admins have
// to sign, threshold of them.
func (p *proposed) finish(d *draft, electorate *State, threshold uint64) (*State, *ChangeInfo, error) {
	if err := d.checkLockOut(); err != nil {
		return nil, nil, err
	}
	info, err := p.checkSignatures(d, electorate, threshold)
	if err != nil {
		return nil, nil, err
	}
	next, err := d.seal()
	if err != nil {
		return nil, nil, err
	}
	if err := p.change.states(next); err != nil {
		return nil, nil, err
	}
	next.payloadDigest = info.PayloadDigest
	return next, info, nil
}

// states checks the count and hashes that c states against the state it makes.
func (c Change) states(next *State) error {
	switch {
	case c.MembershipCount != next.Count():
		return refuse(RefusedHash, "the change states %d principals, it makes %d", c.MembershipCount, next.Count())
	case c.MembershipHash != next.hash:
		return refuse(RefusedHash, "the change states membership hash %s, it makes %s", c.MembershipHash, next.hash)
	case c.ClusterIdentityHash != next.identity:
		return refuse(RefusedHash, "the change states cluster identity hash %s, it makes %s", c.ClusterIdentityHash, next.identity)
	}
	return nil
}

// Preview returns the change in a payload and the state that it would make of s
// once it is signed: every rule is checked but those on signatures. It is for
// showing a signer what there is to sign; nothing may rely on the state
// otherwise. Errors are a [*RefusalError].
func (s *State) Preview(payload []byte) (*State, Change, error) {
	c, err := ParseChange(payload)
	if err != nil {
		return nil, Change{}, err
	}
	if err := s.follows(c); err != nil {
		return nil, c, err
	}
	d := newDraft(s)
	if err := c.Effect.apply(d); err != nil {
		return nil, c, err
	}
	if err := d.checkLockOut(); err != nil {
		return nil, c, err
	}
	next, err := d.seal()
	if err != nil {
		return nil, c, err
	}
	if err := c.states(next); err != nil {
		return nil, c, err
	}
	next.payloadDigest = digest.Of(payload)
	return next, c, nil
}

// checkSignatures holds the envelope to the rule on signatures: at least
// threshold distinct admins of electorate, every added key, and nobody else.
func (p *proposed) checkSignatures(d *draft, electorate *State, threshold uint64) (*ChangeInfo, error) {
	added := make(map[string]ed25519.PublicKey, len(d.added)) // those that have not signed yet
	for _, k := range d.added {
		added[k.ID()] = k.PublicKey
	}
	info := &ChangeInfo{Change: p.change, PayloadDigest: digest.Of(p.envelope.Payload)}
	var keys []ed25519.PublicKey
	for _, sig := range p.envelope.Signatures {
		admin, adminKey := electorate.changeKey(sig.KeyID)
		addedKey := added[sig.KeyID]
		switch {
		case adminKey != nil:
			keys = append(keys, adminKey)
			info.Admins = append(info.Admins, admin)
		case addedKey != nil:
			keys = append(keys, addedKey)
		default:
			return nil, refuse(RefusedSigner, "key %s signed, which is neither an admin's key for changes nor added", sig.KeyID)
		}
		if addedKey != nil {
			info.Added = append(info.Added, sig.KeyID)
			delete(added, sig.KeyID)
		}
	}
	if _, err := p.envelope.VerifyWith(PayloadType, keys); err != nil {
		if errors.Is(err, dsse.ErrBadSignature) {
			return nil, refuseCause(RefusedSignature, err)
		}
		return nil, refuseCause(RefusedEnvelope, err)
	}
	for _, k := range d.added { // in order, so that the refusal is always the same
		if added[k.ID()] != nil {
			return nil, refuse(RefusedPossession, "added key %s has not signed", k.ID())
		}
	}
	slices.Sort(info.Added)
	slices.Sort(info.Admins)
	info.Admins = slices.Compact(info.Admins)
	if have := uint64(len(info.Admins)); have < threshold {
		return nil, refuse(RefusedThreshold, "%d admins have signed, want %d", have, threshold)
	}
	return info, nil
}

// changeKey returns the admin that may sign changes with this key, and the key.
func (s *State) changeKey(keyID string) (admin string, key ed25519.PublicKey) {
	p, ok := s.KeyHolder(keyID)
	if !ok || p.Kind != KindAdmin {
		return "", nil
	}
	key, ok = p.KeyFor(UseChange, keyID)
	if !ok {
		return "", nil
	}
	return p.ID, key
}

// Propose returns the payload that applies effect to s, for admins to sign. It
// puts lists in the order that the format wants, and refuses with a
// [*RefusalError] what Apply would refuse whoever signed it.
func (s *State) Propose(effect Effect) (payload []byte, err error) {
	return propose(newDraft(s), effect, s.payloadDigest)
}

// ProposeGenesis returns the payload that begins a cluster, for all its admins
// and all keys in it to sign.
func ProposeGenesis(cluster string, founding Founding) (payload []byte, err error) {
	if err := validateID("cluster", cluster); err != nil {
		return nil, refuseCause(RefusedValue, err)
	}
	return propose(newGenesisDraft(cluster), founding, noPrevious)
}

func propose(d *draft, effect Effect, previous digest.Digest) ([]byte, error) {
	effect = effect.normal()
	if err := effect.validate(d.next.cluster); err != nil {
		return nil, refuseCause(RefusedValue, err)
	}
	if d.old != nil && effect.Kind() == KindGenesis {
		return nil, refuse(RefusedGenesis, "a second genesis at epoch %d", d.old.epoch)
	}
	if err := effect.apply(d); err != nil {
		return nil, err
	}
	if err := d.checkLockOut(); err != nil {
		return nil, err
	}
	next, err := d.seal()
	if err != nil {
		return nil, err
	}
	// At genesis the keys added include those of all admins.
	signatures := len(d.added)
	if d.old != nil {
		signatures += int(d.old.adminThreshold)
	}
	if signatures > dsse.MaxSignatures {
		return nil, refuse(RefusedValue, "the change adds %d keys, each of which has to sign; with the admins that is %d signatures, want at most %d",
			len(d.added), signatures, dsse.MaxSignatures)
	}
	payload, err := Change{
		Cluster:             next.cluster,
		ClusterIdentityHash: next.identity,
		Effect:              effect,
		Epoch:               next.epoch,
		MembershipCount:     next.Count(),
		MembershipHash:      next.hash,
		Previous:            previous,
		ProtocolVersion:     ProtocolVersion,
	}.payload()
	if err != nil {
		return nil, refuseCause(RefusedValue, err)
	}
	if base64.StdEncoding.EncodedLen(len(payload))+envelopeFrame+signatures*envelopeSignature > MaxChangeEnvelope {
		return nil, refuse(RefusedValue, "payload of %d bytes does not fit an envelope of %d with %d signatures",
			len(payload), MaxChangeEnvelope, signatures)
	}
	return payload, nil
}
