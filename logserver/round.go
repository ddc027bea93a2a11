package logserver

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// errSigner marks a signature that the key did not make. It changes nothing on
// either side, so the next round tries again.
var errSigner = errors.New("the log key did not sign")

// round signs the newest tree, unless the last signed one still is, has it
// cosigned, and publishes it. An error means that nothing may be written any
// more; a key or witnesses that stay away do not.
func (p *publisher) round() error {
	// 1. Sign, if the tree has grown or a key has been rotated.
	// Crash before the signature is stored: it never left the process.
	if size := max(p.target(), p.signed.Load().Size); size > p.signed.Load().Size || !p.signedByAll() {
		switch err := p.sign(size); {
		case errors.Is(err, errSigner):
			p.miss("the log key did not sign", size, err)
			return nil
		case err != nil:
			return fmt.Errorf("signing tree size %d: %w", size, err)
		}
	}

	// 2. Have it cosigned. Nothing but our own signature goes to witnesses, and
	// a refresh is the same note again, cosigned anew.
	// Crash here: at start the same signed note is submitted again.
	s := p.signed.Load()
	refresh := p.witnessed == s.Size
	if p.pending.Size != s.Size || p.pending.Note == nil || refresh {
		p.pending = *s
	}
	satisfied := p.gather(refresh)
	if satisfied {
		p.log.metrics.round(true)
		p.missed = 0
		p.due = time.Now().Add(p.log.opts.RefreshInterval) // else the next round tries again
	} else if p.miss("witnesses did not satisfy the policy in time", p.pending.Size, nil); !p.log.opts.FailOpen {
		return nil
	}

	// 3. Publish: store the cosigned note, then serve it.
	// Crash between: the same note is served after the restart, or a newer one.
	if err := p.publish(satisfied); err != nil {
		return fmt.Errorf("publishing tree size %d: %w", p.pending.Size, err)
	}
	return nil
}

// miss counts a round that led to no witnessed checkpoint, and tells the
// operator of the first in a row.
func (p *publisher) miss(what string, size int64, err error) {
	p.log.metrics.round(false)
	if p.missed++; p.missed == 1 {
		p.log.opts.Logger.Warn(what, "origin", p.log.opts.Origin, "size", size, "fail_open", p.log.opts.FailOpen, "err", err)
	}
}

// sign checks from stored bytes that the tree extends the last signed one, signs
// it, and stores the signed note before anybody sees it.
func (p *publisher) sign(size int64) error {
	p.log.rotating.Lock() // the keys stay what they are until the note is stored
	defer p.log.rotating.Unlock()
	var root Hash
	err := p.log.store.pin(func(r reader) (err error) {
		root, err = r.checkExtends(*p.signed.Load(), size)
		return err
	})
	if err != nil {
		return err
	}
	signed, err := p.log.keys.Load().sign(size, root)
	if err != nil {
		return fmt.Errorf("%w: %w", errSigner, err)
	}
	if err := p.log.write(map[string][]byte{string(metaSigned): signed}); err != nil {
		return err
	}
	if err := p.log.signedFile.raise(Head{Size: size, Root: root}); err != nil {
		return err
	}
	p.signed.Store(&SignedNote{Size: size, Root: root, Note: signed})
	// The same tree with other signatures is to be cosigned and published, too.
	p.pending, p.witnessed = SignedNote{}, min(p.witnessed, size-1)
	return nil
}

// signedByAll reports whether the last signed note is signed by every key that
// signs now.
func (p *publisher) signedByAll() bool {
	keys := p.log.keys.Load()
	if p.signedWith != keys && keys.signed(p.signed.Load().Note) {
		p.signedWith = keys
	}
	return p.signedWith == keys
}

// gather submits the pending note to every witness and collects cosignatures
// until the policy is satisfied, which it reports, or the round's time is over.
// In a refresh only those count that readers will find fresh: a witness whose
// clock is slow does not end it. The clients go on by themselves: what they bring
// later is kept, but never waited for.
func (p *publisher) gather(refresh bool) bool {
	if p.policy == nil {
		return true
	}
	p.submit()
	timeout := time.NewTimer(p.log.opts.WitnessTimeout)
	defer timeout.Stop()
	for {
		if p.satisfied(refresh) {
			return true
		}
		select {
		case a := <-p.answers:
			p.accept(a)
		case <-timeout.C:
			return false
		case <-p.ctx.Done():
			return false
		}
	}
}

// satisfied reports whether the pending note satisfies the policy.
func (p *publisher) satisfied(refresh bool) bool {
	if refresh {
		_, err := p.policy.VerifyFresh(p.pending.Note, time.Now(), p.log.opts.freshFor())
		return err == nil
	}
	_, err := p.policy.Verify(p.pending.Note)
	return err == nil
}

func (p *publisher) submit() {
	for _, w := range p.witnesses {
		w.submit(*p.signed.Load())
	}
}

// confirmHead is the start-up head check: the last signed head is submitted to
// every witness until those that keep silent could not have witnessed another
// history by themselves. It reports whether the log may sign and append. Until
// then reads go on, which the lawful cosigner of a membership log depends on.
func (p *publisher) confirmHead() bool {
	p.pending = *p.signed.Load()
	silent := make(map[string]bool)
	for _, w := range p.policy.Witnesses() {
		silent[w.Name] = true
	}
	p.submit()
	for p.policy.CouldSatisfy(silent) {
		select {
		case a := <-p.answers:
			for _, name := range p.accept(a) {
				delete(silent, name)
			}
			if errors.Is(a.err, ErrForked) {
				p.log.opts.Logger.Error("refusing to sign: a witness knows another head; restore the store from a holder of the last signed head",
					"origin", p.log.opts.Origin, "size", p.pending.Size, "witness", a.client.url, "err", a.err)
				p.refused.Store(&a.err)
				return false
			}
		case <-p.stopping:
			return false
		case <-p.ctx.Done():
			return false
		}
	}
	if _, err := p.policy.Verify(p.pending.Note); err != nil {
		return true // the first round gathers the rest
	}
	if err := p.publish(true); err != nil {
		p.log.fail(err)
		return false
	}
	p.due = time.Now().Add(p.log.opts.RefreshInterval)
	return true
}

// accept keeps the valid cosignatures of an answer, for the pending note and for
// the published one, and returns the witnesses that gave them. Everything else
// in the answer is dropped.
func (p *publisher) accept(a witnessAnswer) []string {
	p.log.metrics.answer(a)
	if a.err != nil {
		p.log.opts.Logger.Debug("witness did not cosign", "origin", p.log.opts.Origin, "witness", a.client.url, "err", a.err)
		return nil
	}
	if a.note.Size == p.pending.Size {
		p.pending.Note = a.addTo(p.pending.Note)
	}
	// A late or refreshed cosignature. Losing it would cost nothing but its
	// freshness, so it is stored with whatever is synced next.
	if pub := p.published.Load(); pub.Note != nil && a.note.Size == pub.Size && p.log.failed() == nil && p.log.space.admitRound() == nil {
		merged := *pub
		merged.Note = a.addTo(pub.Note)
		if err := p.log.store.db.Set(metaPublished, merged.Note, noSync); err != nil {
			p.log.fail(fmt.Errorf("storing a cosignature: %w", err))
			return nil
		}
		p.published.Store(&merged)
		if p.accepted.Load().Size == merged.Size && p.witnessed == merged.Size {
			p.confirm(merged)
		}
	}
	return a.by
}

// publish stores the pending note and serves it. The first one of its size that
// satisfied the policy is also kept for ever.
func (p *publisher) publish(satisfied bool) error {
	next := p.pending
	if pub := p.published.Load(); pub.Note != nil && pub.Size == next.Size && bytes.HasPrefix(pub.Note, p.signed.Load().Note) {
		// A refresh: what was gathered is in there already.
		next = *pub
	}
	values := map[string][]byte{string(metaPublished): next.Note}
	if satisfied {
		key := indexKey(kindNote, next.Size)
		if _, err := p.log.store.get(key); errors.Is(err, ErrNotFound) {
			values[string(key)] = next.Note
		} else if err != nil {
			return err
		}
	}
	if err := p.log.write(values); err != nil {
		return err
	}
	p.published.Store(&next)
	p.covered.raise(next.Size)
	if satisfied {
		p.confirm(next)
		p.witnessed = next.Size
		p.behindSince.Store(0)
	}
	return nil
}

// write stores a few values in one synced commit, unless the log has failed.
func (l *Log) write(values map[string][]byte) error {
	if err := l.failed(); err != nil {
		return err
	}
	b := l.store.db.NewBatch()
	defer b.Close()
	for key, value := range values {
		if err := b.Set([]byte(key), value, nil); err != nil {
			return err
		}
	}
	return l.store.commit(b)
}

// addTo merges the answer's cosignatures into a note of the same checkpoint.
func (a *witnessAnswer) addTo(signed []byte) []byte {
	merged, err := checkpoint.AddCosignatures(signed, a.lines, accepted(a.client.witnesses))
	if err != nil {
		return signed // too many signatures: what is there stays
	}
	return merged
}
