package logserver

import "fmt"

// sequencer turns batches into commit groups. Its one goroutine owns every
// field; the rest of the log sees its work through Log.view.
type sequencer struct {
	log   *Log
	edge  edge
	conds *conditions
	// last is the head of the newest commit group, answered to batches that
	// sequence nothing.
	last Head
}

// run sequences one batch after the other until the queue is shut and empty.
// There is no timer: whoever arrives during a commit is in the next.
func (s *sequencer) run() {
	defer close(s.log.sequencerDone)
	for {
		b, a := s.log.queue.take()
		if b == nil {
			return
		}
		err := s.log.failed()
		if err == nil {
			a.err = s.log.space.admit(b.bytes)
		}
		if err == nil && a.err == nil {
			err = s.sequence(b, a)
		}
		if err != nil {
			// The edge in memory may be ahead of the store, or behind it:
			// nothing is written until the log is opened again.
			a.results, a.err = nil, s.log.fail(err)
		}
		s.log.metrics.group(a)
		close(a.done) // from here on the answer belongs to the callers
		s.log.queue.release(b)
	}
}

// sequence is the life of one commit group: decide, build, commit, show, sign,
// answer. On success the answer is complete except for its closing.
func (s *sequencer) sequence(b *batch, a *answer) error {
	commit := s.log.store.db.NewBatch()
	defer commit.Close()
	w := batchWriter{commit}
	a.results = make([]Result, len(b.entries))
	s.conds.reset()
	before := s.edge.size

	// 1. Decide on each unit against the store and everything ahead of it in
	// this batch, and let the edge grow by what is sequenced. A tile or bundle
	// that becomes full is added to the commit on the way.
	// Crash here: nothing has been written; the callers have no answer.
	for i := 0; i < len(b.entries); {
		n := b.entries[i].unit
		fresh, err := s.conds.decide(b.entries[i:i+n], a.results[i:i+n], s.edge.size)
		if err != nil {
			return err
		}
		for j := i; fresh > 0; j++ {
			if a.results[j].Duplicate {
				continue
			}
			if err := s.integrate(&b.entries[j], w); err != nil {
				return err
			}
			fresh--
		}
		i += n
	}

	if s.edge.size > before {
		// 2. Complete the commit: the parts of unfinished tiles and bundle
		// that are new, the deduplication keys and registers, and the head.
		if err := s.edge.flush(w); err != nil {
			return err
		}
		if err := s.conds.write(commit); err != nil {
			return err
		}
		root := s.edge.root()
		if err := commit.Set(metaHead, encodeHead(s.edge.size, root), nil); err != nil {
			return err
		}

		// 3. Commit, with one sync. All of it becomes durable or none.
		// Crash before: the group never was, and nobody was told otherwise.
		// Crash after: the group is there on restart; callers who got no
		// answer find their deduplication keys taken by their own entries.
		if err := s.log.store.commit(commit); err != nil {
			return err
		}

		// 4. Show the group to readers. What is served is durable.
		s.log.view.Store(s.edge.view(root))
		s.log.integrated.raise(s.edge.size)
		s.last = Head{Size: s.edge.size, Root: root}
	}

	// 5. Sign the receipt head. The commit forbids contradicting it: recovery
	// refuses a store whose bytes do not lead to the committed head.
	// Crash here: the group stands; its callers have no answer.
	if s.last.Note == nil && s.log.receipt != nil {
		note, err := s.log.receipt.sign(s.last.Size, s.last.Root)
		if err != nil {
			return fmt.Errorf("signing the receipt head: %w", err)
		}
		s.last.Note = note
	}

	head := s.last
	s.log.head.Store(&head)

	// 6. Answer every caller of the group at once.
	a.head = s.last
	return nil
}

// integrate adds one entry and its opening to the edge and the commit.
func (s *sequencer) integrate(p *pending, w batchWriter) error {
	if p.opening != nil {
		if err := w.b.Set(indexKey(kindOpening, s.edge.size), p.opening, nil); err != nil {
			return err
		}
	}
	return s.edge.append(p.data, &p.leaf, w)
}
