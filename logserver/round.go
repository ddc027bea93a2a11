package logserver

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
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
// A refresh waits for such that readers will find fresh: a witness whose clock
// is slow does not end it early. But what it has gathered when its time is over
// was all made since it began, whatever the clocks say. The clients go on by
// themselves: what they bring later is kept, but never waited for.
func (p *publisher) gather(refresh bool) bool {
	if p.policy.Load() == nil {
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
			return refresh && p.satisfied(false)
		case <-p.ctx.Done():
			return false
		}
	}
}

// satisfied reports whether the pending note satisfies the policy, with fresh
// cosignatures if it is to be a refresh.
func (p *publisher) satisfied(refresh bool) bool {
	if refresh {
		_, err := p.policy.Load().VerifyFresh(p.pending.Note, p.now(), p.log.opts.freshFor())
		return err == nil
	}
	_, err := p.policy.Load().Verify(p.pending.Note)
	return err == nil
}

// now is the time by which cosignatures are fresh.
func (p *publisher) now() time.Time { return p.clocks.now(time.Now(), uptime()) }

func (p *publisher) submit() {
	for _, w := range p.witnesses {
		w.submit(*p.signed.Load())
	}
}

// headGrace is for how long the start-up head check waits, once enough witnesses
// have confirmed the head, for a first answer of the others. A witness that is
// down fails at once; who is cut off without a word delays the start by this.
const headGrace = 2 * time.Second

// confirmHead is the start-up head check: the last signed head is submitted to
// every witness until those that keep silent could not have witnessed another
// history by themselves. It reports whether the log may sign and append. Until
// then reads go on, which the lawful cosigner of a membership log depends on.
//
// One witness that knows another head keeps the log from signing, however many
// confirm it, so that the first answers of all are read, whatever their order.
func (p *publisher) confirmHead() bool {
	p.pending = *p.signed.Load()
	silent, unheard := make(map[string]bool), make(map[*witnessClient]bool)
	for _, w := range p.policy.Load().Witnesses() {
		silent[w.Name] = true
	}
	for _, c := range p.witnesses {
		unheard[c] = true
	}
	p.submit()
	var grace <-chan time.Time
	for p.policy.Load().CouldSatisfy(silent) || len(unheard) > 0 {
		if grace == nil && !p.policy.Load().CouldSatisfy(silent) {
			grace = time.After(headGrace)
		}
		select {
		case a := <-p.answers:
			if errors.Is(a.err, ErrForked) {
				p.refuse(a)
				return false
			}
			delete(unheard, a.client)
			for _, name := range p.accept(a) {
				delete(silent, name)
			}
		case <-grace:
			clear(unheard)
		case <-p.stopping:
			return false
		case <-p.ctx.Done():
			return false
		}
	}
	if _, err := p.policy.Load().Verify(p.pending.Note); err != nil {
		return true // the first round gathers the rest
	}
	if err := p.publish(true); err != nil {
		p.log.fail(err)
		return false
	}
	p.due = time.Now().Add(p.log.opts.RefreshInterval)
	return true
}

// refuse ends the start-up head check for an answer that knows another head.
func (p *publisher) refuse(a witnessAnswer) {
	p.log.metrics.answer(a)
	p.log.opts.Logger.Error("refusing to sign: a witness knows another head; restore the store from a holder of the last signed head",
		"origin", p.log.opts.Origin, "size", p.pending.Size, "witness", a.client.url, "err", a.err)
	p.refused.Store(&a.err)
}

// accept keeps the valid cosignatures of an answer, for the pending note and for
// the published one, and returns the witnesses that gave them. Everything else
// in the answer is dropped.
func (p *publisher) accept(a witnessAnswer) []string {
	p.log.metrics.answer(a)
	switch {
	case a.err == nil:
		a.client.fork.Store(nil)
	case errors.Is(a.err, ErrForked) && a.client.fork.Swap(&a.err) == nil:
		p.log.opts.Logger.Warn("a witness knows another head and does not cosign", "origin", p.log.opts.Origin, "witness", a.client.url, "err", a.err)
		return nil
	default:
		p.log.opts.Logger.Debug("witness did not cosign", "origin", p.log.opts.Origin, "witness", a.client.url, "err", a.err)
		return nil
	}
	if a.note.Size == p.pending.Size {
		p.pending.Note = p.merge(p.pending.Note, a)
	}
	// A late or refreshed cosignature. Losing it would cost nothing but its
	// freshness, so it is stored with whatever is synced next.
	if pub := p.published.Load(); pub.Note != nil && a.note.Size == pub.Size && p.log.failed() == nil && p.log.space.admitRound() == nil {
		merged := *pub
		merged.Note = p.merge(pub.Note, a)
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
	p.serve(next)
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

// merge adds the cosignatures of an answer to a note of the same checkpoint. Of
// two by one key the later one stays, unless it is of the future: the clock of
// its witness has been set since.
func (p *publisher) merge(signed []byte, a witnessAnswer) []byte {
	if len(a.lines) == 0 {
		return signed
	}
	keys := accepted(a.client.witnesses)
	merged, err := checkpoint.AddCosignatures(p.withoutFuture(signed, a.lines), a.lines, keys)
	if err != nil {
		return signed // too many signatures: what is there stays
	}
	return merged
}

// withoutFuture returns the note without those cosignatures of the future by keys
// that lines has others of.
func (p *publisher) withoutFuture(signed, lines []byte) []byte {
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return signed // never: it is ours
	}
	answer, err := checkpoint.ParseSignatures(lines)
	if err != nil {
		return signed // never: the client parsed them
	}
	newest := p.now().Add(checkpoint.FutureTolerance).Unix()
	kept := append(bytes.Clone(n.Text), '\n')
	for _, sig := range n.Signatures {
		again := slices.ContainsFunc(answer, func(s checkpoint.Signature) bool { return s.Name == sig.Name && s.KeyID == sig.KeyID })
		if t, ok := sig.CosignatureTime(); !again || !ok || t <= newest {
			kept = append(kept, sig.Line()...)
		}
	}
	return kept
}
