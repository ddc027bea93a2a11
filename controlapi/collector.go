package controlapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

const (
	// maxQueued bounds the operations that wait for the collector; beyond it
	// they are refused as busy. It is a few times what all quotas of a busy
	// cluster let through while one batch is written.
	maxQueued = 8_192
	// maxBatchItems bounds one batch record: the longest items, about 260 bytes
	// each, stay below the size of a record.
	maxBatchItems = 400
	// maxParked bounds the refusals over quota of one principal that wait for
	// its next batch. Further ones are counted, but answered as not recorded.
	maxParked = 128
	// parkInterval is how often refusals over quota alone may cause a batch.
	parkInterval = time.Second
	// recordTimeout bounds the append of a record. A log that takes longer is
	// as good as away.
	recordTimeout = 30 * time.Second
)

// collector writes the records of operations that get none of their own. One
// goroutine takes what waits, writes it in one commit, a batch record for each
// principal, and answers everyone; while it writes, the next batch gathers.
// There is no timer unless refusals over quota wait, and nothing is written
// when nothing was asked.
type collector struct {
	record Recorder
	items  func(n int) // observes the size of each batch

	queue chan entry
	stop  chan struct{}
	done  chan struct{}

	mu    sync.Mutex
	noise map[Code]uint64 // unauthenticated requests since the last batch; guarded by mu

	// Owned by the goroutine.
	parked  []entry              // refusals over quota, in order of arrival
	written map[string]time.Time // when each principal's parked ones were last written
}

// entry is one operation on its way into a batch.
type entry struct {
	principal string
	tenant    string // the principal, if it is a tenant
	item      *pb.OperationItem
	parked    bool       // a refusal over quota: waits for the principal's next batch
	done      chan error // buffered; nil if nobody waits
}

func newCollector(record Recorder, items func(int)) *collector {
	c := &collector{
		record:  record,
		items:   items,
		queue:   make(chan entry, maxQueued),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		noise:   make(map[Code]uint64),
		written: make(map[string]time.Time),
	}
	go c.run()
	return c
}

// add queues e and waits until its record is durable.
func (c *collector) add(e entry) error {
	e.done = make(chan error, 1)
	if err := c.enqueue(e); err != nil {
		return err
	}
	return <-e.done
}

// count queues e for nobody: it is in some later batch, or lost in a crash.
func (c *collector) count(e entry) { _ = c.enqueue(e) }

func (c *collector) enqueue(e entry) error {
	select {
	case c.queue <- e:
		return nil
	default:
		return fmt.Errorf("%d operations wait for their record", maxQueued)
	}
}

// unauthenticated counts a request that no principal can be named for.
func (c *collector) unauthenticated(code Code) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noise[code]++
}

// stopAndWait writes what waits and ends the goroutine. Nothing may be added
// any more.
func (c *collector) stopAndWait() {
	close(c.stop)
	<-c.done
}

func (c *collector) run() {
	defer close(c.done)
	for {
		var due <-chan time.Time
		if len(c.parked) > 0 {
			due = time.After(c.untilDue())
		}
		var fresh []entry
		select {
		case e := <-c.queue:
			fresh = append(fresh, e)
		case <-due:
		case <-c.stop:
			c.write(c.drain(nil), true)
			return
		}
		c.write(c.drain(fresh), false)
	}
}

// drain takes what waits without blocking.
func (c *collector) drain(taken []entry) []entry {
	for {
		select {
		case e := <-c.queue:
			taken = append(taken, e)
		default:
			return taken
		}
	}
}

// untilDue is how long the first parked refusal must still wait.
func (c *collector) untilDue() time.Duration {
	now, soonest := time.Now(), parkInterval
	for _, e := range c.parked {
		soonest = min(soonest, c.written[e.principal].Add(parkInterval).Sub(now))
	}
	return max(0, soonest)
}

// write records the fresh entries, and the parked ones that may go now: those of
// principals that get a batch anyway, or whose last such batch is long enough
// ago. all lets every parked one go.
func (c *collector) write(fresh []entry, all bool) {
	now := time.Now()
	pending := append(c.parked, fresh...)
	goes := make(map[string]bool)
	for _, e := range pending {
		if all || !e.parked || now.Sub(c.written[e.principal]) >= parkInterval {
			goes[e.principal] = true
		}
	}
	var ready, later []entry
	for _, e := range pending {
		if !goes[e.principal] {
			later = append(later, e)
			continue
		}
		ready = append(ready, e)
		if e.parked {
			c.written[e.principal] = now
		}
	}
	c.parked = later
	for principal, at := range c.written {
		if now.Sub(at) > parkInterval {
			delete(c.written, principal)
		}
	}
	if len(ready) == 0 {
		return
	}
	err := c.append(batches(ready))
	for _, e := range ready {
		if e.done != nil {
			e.done <- err
		}
	}
}

// append writes the records, with the noise so far, in one commit.
func (c *collector) append(records []*pb.OperationBatchRecord) error {
	for _, r := range records {
		c.items(len(r.Items))
	}
	noise := c.takeNoise()
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	err := c.record.RecordBatches(ctx, records, counts(noise))
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for code, n := range noise {
			c.noise[code] += n
		}
	}
	return err
}

func (c *collector) takeNoise() map[Code]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.noise
	c.noise = make(map[Code]uint64)
	return taken
}

// counts lists noise by code, in the order of tokenCodes.
func counts(noise map[Code]uint64) []*pb.RefusalCount {
	var list []*pb.RefusalCount
	for _, code := range tokenCodes {
		if n := noise[code]; n > 0 {
			list = append(list, &pb.RefusalCount{Code: string(code), Count: n})
		}
	}
	return list
}

// tokenCodes are the codes of requests without a principal, ascending.
var tokenCodes = []Code{
	CodeTokenAudience, CodeTokenClaims, CodeTokenEarly, CodeTokenExpired,
	CodeTokenKey, CodeTokenMalformed, CodeTokenMissing, CodeTokenSignature,
}

// batches makes the records of entries: one for each principal in order of
// arrival, more if it has many items. Equal items become one with their count.
func batches(entries []entry) []*pb.OperationBatchRecord {
	type key struct{ principal, method, code, object string }
	var records []*pb.OperationBatchRecord
	open := make(map[string]*pb.OperationBatchRecord) // by principal
	seen := make(map[key]*pb.OperationItem)
	for _, e := range entries {
		k := key{e.principal, e.item.Method, e.item.Code, string(e.item.Object)}
		if item := seen[k]; item != nil {
			item.Count++
			continue
		}
		r := open[e.principal]
		if r == nil || len(r.Items) >= maxBatchItems {
			r = &pb.OperationBatchRecord{Tenant: e.tenant}
			open[e.principal] = r
			records = append(records, r)
		}
		e.item.Count = 1
		seen[k] = e.item
		r.Items = append(r.Items, e.item)
	}
	return records
}

// itemOf describes an operation in a batch.
func itemOf(actor orchestrator.Actor, code Code, object []byte) *pb.OperationItem {
	return &pb.OperationItem{Principal: actor.Principal, Method: actor.Method, Code: string(code), Object: object}
}
