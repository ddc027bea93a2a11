package logserver

import "sync"

// arenaChunk is the size in bytes of the buffers that hold queued bytes.
const arenaChunk = 1 << 20

// pending is one queued entry. Its slices point into the batch's arena.
type pending struct {
	leaf    Hash
	data    []byte
	opening []byte
	dedup   []byte
	guards  []Guard
	sets    []Register
	// unit is, for the first entry of an atomic unit, the number of entries
	// in it; 0 for the others of the unit; 1 for an entry on its own.
	unit int
}

// batch is what one commit group will sequence. It belongs to the queue (under
// its lock) until it is taken, then to the sequencer, which hands it back for
// reuse; callers never see it.
type batch struct {
	entries []pending
	arena   []byte // the current chunk; its length is what is in use
	bytes   int    // data and openings queued
}

// answer is what the callers of one batch wait for. The sequencer writes the
// fields, then closes done; callers read them only after that.
type answer struct {
	done    chan struct{}
	results []Result // one for each entry of the batch
	head    Head
	err     error // set if the whole batch failed; the outcome may be unknown
}

// queue is the bounded place where callers meet the sequencer. A caller adds
// its entries to the batch that is gathering and waits for that batch's
// answer, so that one wake-up serves everybody in a commit group.
type queue struct {
	maxEntries int
	maxBytes   int
	// ready holds a token while a batch is gathering: the sequencer waits on it.
	ready chan struct{}

	mu struct {
		sync.Mutex
		gathering *batch
		answer    *answer
		spare     *batch // handed back by the sequencer
		refuse    error  // once set, nothing is accepted any more
	}
}

func newQueue(maxEntries, maxBytes int) *queue {
	q := &queue{maxEntries: maxEntries, maxBytes: maxBytes, ready: make(chan struct{}, 1)}
	q.mu.gathering, q.mu.answer = new(batch), newAnswer()
	q.mu.spare = new(batch)
	return q
}

func newAnswer() *answer { return &answer{done: make(chan struct{})} }

// join adds the entries, with the leaf hashes that their caller computed, to
// the gathering batch in one piece and returns its answer and the place of the
// first one in it. ErrPushback means that they would exceed the bound.
func (q *queue) join(entries []Entry, leaves []Hash, atomic bool) (*answer, int, error) {
	size := 0
	for i := range entries {
		size += len(entries[i].Data) + len(entries[i].Opening)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.refuse != nil {
		return nil, 0, q.mu.refuse
	}
	b := q.mu.gathering
	first := len(b.entries)
	// A batch that is larger than the bound by itself is accepted when the
	// queue is empty: otherwise it could never be.
	if first > 0 && (first+len(entries) > q.maxEntries || b.bytes+size > q.maxBytes) {
		return nil, 0, ErrPushback
	}
	b.bytes += size
	for i := range entries {
		b.add(&entries[i], leaves[i])
	}
	if atomic {
		for i := range entries {
			b.entries[first+i].unit = 0
		}
		b.entries[first].unit = len(entries)
	}
	if first == 0 {
		q.ready <- struct{}{}
	}
	return q.mu.answer, first, nil
}

// take blocks until a batch has entries and hands it over with its answer, or
// returns nil when the queue is shut and empty.
func (q *queue) take() (*batch, *answer) {
	if _, ok := <-q.ready; !ok {
		return nil, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	b, a := q.mu.gathering, q.mu.answer
	q.mu.gathering, q.mu.answer = q.mu.spare, newAnswer()
	q.mu.spare = nil
	if q.mu.gathering == nil {
		q.mu.gathering = new(batch)
	}
	return b, a
}

// release hands a batch back whose entries nobody refers to any more.
func (q *queue) release(b *batch) {
	b.reset()
	q.mu.Lock()
	q.mu.spare = b
	q.mu.Unlock()
}

// refuse makes the queue turn down everything from now on with err; the first
// reason stays. What is already queued is still taken.
func (q *queue) refuse(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.refuse == nil {
		q.mu.refuse = err
	}
}

// shut refuses everything and ends the sequencer once it has taken the rest.
// It is called once.
func (q *queue) shut() {
	q.refuse(ErrClosed)
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.ready)
}

func (b *batch) add(e *Entry, leaf Hash) {
	p := pending{leaf: leaf, data: b.keep(e.Data), opening: b.keep(e.Opening), dedup: b.keep(e.Dedup), unit: 1}
	if len(e.Guards) > 0 {
		p.guards = append([]Guard(nil), e.Guards...)
	}
	if len(e.Sets) > 0 {
		p.sets = append([]Register(nil), e.Sets...)
	}
	b.entries = append(b.entries, p)
}

// keep copies v into the arena: the caller's slice may change as soon as the
// caller gives up waiting.
func (b *batch) keep(v []byte) []byte {
	if len(v) == 0 {
		return nil
	}
	if cap(b.arena)-len(b.arena) < len(v) {
		b.arena = make([]byte, 0, max(arenaChunk, len(v)))
	}
	n := len(b.arena)
	b.arena = append(b.arena, v...)
	return b.arena[n:len(b.arena):len(b.arena)]
}

// reset forgets the entries but keeps the buffers, unless they grew unusually.
func (b *batch) reset() {
	clear(b.entries)
	b.entries, b.bytes = b.entries[:0], 0
	if b.arena = b.arena[:0]; cap(b.arena) > arenaChunk {
		b.arena = nil
	}
}
