package orchestrator

import (
	"time"

	"github.com/tallystick/tallystick/provenance"
)

// A node that has a backlog is not away. Nodes work on assignments in the order
// of their requests, so one that holds a stream and goes on attesting is still
// coming to whatever it has not passed yet; asking others, or giving up when
// there are none, would punish a full cluster for being full. This is the
// control plane's discretion (when to write a reschedule or expired record),
// so it may rest on clocks and on what only this process has seen.

// pace is how far a node has come.
type pace struct {
	at    time.Time // when its last attestation was applied here
	index int64     // highest index of a request that it has attested
}

// paced notes an attestation by node for the request at index.
func (v *view) paced(node string, index int64, now time.Time) {
	v.paces[node] = pace{at: now, index: max(index, v.paces[node].index)}
}

// coming reports whether a connected node of this pace can still be expected to
// attest the request at index: it has attested something within the last
// deadline, and has not passed the request. One that has just passed it may be
// running it beside a later one, which is what grace is for: it is true once.
func (p pace) coming(index int64, now time.Time, deadline time.Duration, grace bool) bool {
	if p.at.IsZero() || now.Sub(p.at) > deadline {
		return false
	}
	return p.index < index || grace
}

// overdue is called when the deadline of an attempt has passed. It waits once
// more while an assigned node is coming; else the execution is due its next
// record.
func (o *Orchestrator) overdue(x *tracked, due job) {
	o.view.mu.Lock()
	defer o.view.mu.Unlock()
	ex, ok := o.view.fold.Execution(x.id)
	if !ok || ex.State != provenance.StateOpen || x.begun != due.overdue {
		return
	}
	heard := make(map[string]bool, len(ex.Attestations))
	for _, a := range ex.Attestations {
		heard[a.Node] = true
	}
	now := o.cfg.Now()
	for _, node := range ex.Assigned() {
		if heard[node] || !o.streams.connected(node) {
			continue
		}
		p := o.view.paces[node]
		if !p.coming(x.index, now, o.cfg.AttemptDeadline, !x.graced) {
			continue
		}
		x.graced = x.graced || p.index >= x.index
		o.await(x, due)
		return
	}
	o.deriver.add(due)
}

// await arms the deadline of the attempt that has begun. The view is locked.
func (o *Orchestrator) await(x *tracked, due job) {
	x.deadline = time.AfterFunc(o.cfg.AttemptDeadline, func() { o.overdue(x, due) })
}
