package logserver

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/tallystick/tallystick/logserver/internal/direct"
)

// pending is one queued entry. It holds no pointers: thousands of them are
// queued at a time, and the garbage collector has nothing to look at in them.
type pending struct {
	leaf Hash
	// frame is where the framed entry begins in batch.frames.
	frame int
	// private is where the opening begins in batch.private; the deduplication
	// key follows it.
	private int
	opening int32 // bytes of the opening
	dedup   int32 // bytes of the deduplication key
	// conds is the number of the entry's conditions in batch.conds plus one,
	// 0 if it has none.
	conds int32
}

// condition is what an entry's guards ask and what its registers become.
type condition struct {
	guards []Guard
	sets   []Register
}

// batch is what one commit group will sequence. It belongs to the queue (under
// its lock) until it is taken, then to the sequencer, which hands it back for
// reuse; callers never see it.
type batch struct {
	entries []pending
	frames  []byte // the entries one after the other, framed as in a bundle
	private []byte // openings and deduplication keys
	conds   []condition
	bytes   int // of entries and openings
	// plain says that no entry has a deduplication key, a guard or a register
	// to set, so that every one of them will be sequenced.
	plain bool
}

// answer is what the callers of one batch wait for. It is filled in by whoever
// has the commit group, then done is closed; callers read it only after that.
type answer struct {
	done    chan struct{}
	entries int // in the batch
	// first is the index of the batch's first entry, if results is nil:
	// then all were sequenced, one after the other.
	first   int64
	results []Result // one for each entry of the batch, or nil
	head    Head
	err     error // set if the whole batch failed; the outcome may be unknown
	log     *Log  // makes receipts
	// asked are the callers that do not wait for done but are told. It belongs
	// to the queue (under its lock) until the batch is taken, then to the
	// sequencer.
	asked []question
}

// question is an entry whose caller does not wait.
type question struct {
	by    direct.Asker
	place int // in the batch
}

// result returns that of the i-th entry of a batch that did not fail.
func (a *answer) result(i int) Result {
	if a.results == nil {
		return Result{Index: a.first + int64(i)}
	}
	return a.results[i]
}

// queue is the bounded place where callers meet the sequencer. A caller adds
// its entries to the batch that is gathering and waits for that batch's
// answer, so that one wake-up serves everybody in a commit group.
type queue struct {
	maxEntries int
	maxBytes   int
	// ready holds a token while a batch is gathering: the sequencer waits on it.
	ready chan struct{}
	// large has a token after the gathering batch has become large.
	large chan struct{}
	// largeEntries is the number of entries from which a batch is large.
	largeEntries int
	// taken counts the batches that were handed to the sequencer.
	taken atomic.Int64

	mu struct {
		sync.Mutex
		gathering *batch
		answer    *answer
		spare     *batch // handed back by the sequencer
		refuse    error  // once set, nothing is accepted any more
	}
}

func newQueue(maxEntries, maxBytes int) *queue {
	q := &queue{maxEntries: maxEntries, maxBytes: maxBytes, ready: make(chan struct{}, 1), large: make(chan struct{}, 1), largeEntries: largeBatchEntries}
	q.mu.gathering, q.mu.answer = newBatch(), newAnswer()
	q.mu.spare = newBatch()
	return q
}

func newBatch() *batch { return &batch{plain: true} }

func newAnswer() *answer { return &answer{done: make(chan struct{})} }

// join adds the entries, with the leaf hashes that their caller computed, to
// the gathering batch in one piece and returns its answer and the place of the
// first one in it. ErrPushback means that they would exceed the bound. by, unless
// it is nil, is told when there is an answer, and only if there is no error.
func (q *queue) join(entries []Entry, leaves []Hash, by direct.Asker) (*answer, int, error) {
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
	wasLarge := q.isLarge(b)
	b.bytes += size
	for i := range entries {
		b.add(&entries[i], &leaves[i])
	}
	if by != nil {
		q.mu.answer.asked = append(q.mu.answer.asked, question{by, first})
	}
	if first == 0 {
		q.ready <- struct{}{}
	}
	if !wasLarge && q.isLarge(b) {
		select {
		case q.large <- struct{}{}:
		default: // one that nobody has looked at yet
		}
	}
	return q.mu.answer, first, nil
}

// await blocks until a batch is gathering; false means that the queue is shut and
// empty.
func (q *queue) await() bool {
	_, ok := <-q.ready
	return ok
}

// A batch is large from so many entries, or bytes of them, on: building its group
// then takes about as long as a sync.
const (
	largeBatchEntries = 512
	largeBatchBytes   = 256 << 10
)

func (q *queue) isLarge(b *batch) bool {
	return len(b.entries) >= q.largeEntries || b.bytes >= largeBatchBytes
}

// gatheringLarge reports whether the gathering batch is large.
func (q *queue) gatheringLarge() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.isLarge(q.mu.gathering)
}

// take hands over the batch that await has told of, and its answer.
func (q *queue) take() (*batch, *answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, a := q.mu.gathering, q.mu.answer
	q.mu.gathering, q.mu.answer = q.mu.spare, newAnswer()
	q.mu.spare = nil
	q.taken.Add(1)
	if q.mu.gathering == nil {
		q.mu.gathering = newBatch()
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

// add copies an entry: the caller's slices may change as soon as the caller
// gives up waiting.
func (b *batch) add(e *Entry, leaf *Hash) {
	b.entries = append(b.entries, pending{
		leaf: *leaf, frame: len(b.frames), private: len(b.private),
		opening: int32(len(e.Opening)), dedup: int32(len(e.Dedup)),
	})
	b.frames = binary.BigEndian.AppendUint16(b.frames, uint16(len(e.Data)))
	b.frames = append(b.frames, e.Data...)
	b.private = append(b.private, e.Opening...)
	b.private = append(b.private, e.Dedup...)
	if len(e.Guards)+len(e.Sets) > 0 {
		b.conds = append(b.conds, condition{
			guards: append([]Guard(nil), e.Guards...),
			sets:   append([]Register(nil), e.Sets...),
		})
		b.entries[len(b.entries)-1].conds = int32(len(b.conds))
	}
	if len(e.Guards)+len(e.Sets)+len(e.Dedup) > 0 {
		b.plain = false
	}
}

// frame returns the entry as it is stored in a bundle.
func (b *batch) frame(p *pending) []byte {
	end := p.frame + 2 + int(binary.BigEndian.Uint16(b.frames[p.frame:]))
	return b.frames[p.frame:end]
}

// openingOf returns the entry's opening; it is empty if there is none.
func (b *batch) openingOf(p *pending) []byte {
	return b.private[p.private : p.private+int(p.opening)]
}

// dedupOf returns the entry's deduplication key; it is empty if there is none.
func (b *batch) dedupOf(p *pending) []byte {
	from := p.private + int(p.opening)
	return b.private[from : from+int(p.dedup)]
}

// condition returns the entry's guards and registers.
func (b *batch) condition(p *pending) condition {
	if p.conds == 0 {
		return condition{}
	}
	return b.conds[p.conds-1]
}

// keptBytes is the largest buffer that a batch keeps when it is reused, in
// bytes: what some thousands of callers with small entries fill.
const keptBytes = 4 << 20

// reset forgets the entries but keeps the buffers, unless they grew unusually.
func (b *batch) reset() {
	b.entries, b.bytes, b.plain = b.entries[:0], 0, true
	clear(b.conds)
	b.conds = b.conds[:0]
	if b.frames = b.frames[:0]; cap(b.frames) > keptBytes {
		b.frames = nil
	}
	if b.private = b.private[:0]; cap(b.private) > keptBytes {
		b.private = nil
	}
}
