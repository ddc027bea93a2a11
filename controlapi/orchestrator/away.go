package orchestrator

import (
	"context"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/provenance"
)

// A node that has a backlog is not away. Nodes take turns between tenants and
// work on each tenant's requests in their order, so one that holds a stream and
// goes on answering is still coming to whatever it has not passed yet; asking
// others, or giving up when there are none, would punish a full cluster for
// being full. This is the control plane's discretion (when to write a reschedule
// or expired record), so it may rest on clocks, on what only this process has
// seen, and on what nodes say of themselves.

// pace is how far a node has come.
type pace struct {
	at     time.Time        // when its last answer, an attestation or an abandonment, came in here
	passed map[string]int64 // by tenant, the highest index of a request that it has answered
}

// paced notes an answer by node to a request.
func (v *view) paced(node string, x *tracked, now time.Time) {
	p := v.paces[node]
	if p.passed == nil {
		p.passed = make(map[string]int64)
	}
	p.at = now
	p.passed[x.tenant] = max(p.passed[x.tenant], x.index)
	v.paces[node] = p
}

// outlook is whether a node can be expected to answer a request.
type outlook int

const (
	away   outlook = iota
	unsure         // perhaps: worth waiting for once
	coming
)

// outlook is that of a node with this pace, whose stream was opened at a time,
// on a request. It is coming if it has answered anything within the last
// deadline and has not passed the request among those of its tenant. It may be
// if it has passed it and runs it beside a later one, or if it has just
// connected and had no time to answer anything.
func (p pace) outlook(x *tracked, opened, now time.Time, deadline time.Duration) outlook {
	alive := now.Sub(p.at) <= deadline
	switch {
	case alive && p.passed[x.tenant] < x.index:
		return coming
	case alive || now.Sub(opened) < deadline:
		return unsure
	}
	return away
}

// postpone decides whether a request is waited for once more, given the outlook of
// the node that is likeliest to answer it, and how far the nodes that are coming
// have got with the tenant's requests, as a sum. Coming alone is good for
// maxStretched deadlines: a node that answers others' requests only would hold this
// one open for ever. Each of the tenant's own that is answered on the way begins
// that count anew, so that a backlog does not expire; there are finitely many.
func (x *tracked) postpone(best outlook, progress int64) bool {
	if progress > x.progress { // never falls: nodes that leave and come again add nothing
		x.progress, x.postponed = progress, 0
	}
	switch {
	case best == coming && x.postponed < maxStretched:
		x.postponed++
		return true
	case best == unsure && !x.graced:
		x.graced = true
		return true
	}
	return false
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
	now, best, progress := o.cfg.Now(), away, int64(0)
	answered := x.answered(&ex)
	for _, node := range ex.Assigned() {
		if at, ok := x.working[node]; ok && !answered[node] && now.Sub(at) <= max(o.cfg.AttemptDeadline, workingFor) && x.stretched < maxStretched {
			x.stretched++
			o.await(x, due)
			return
		}
		opened, connected := o.streams.opened(node)
		if !connected || answered[node] {
			continue
		}
		p := o.view.paces[node]
		look := p.outlook(x, opened, now, o.cfg.AttemptDeadline)
		if look == coming {
			progress += p.passed[x.tenant]
		}
		best = max(best, look)
	}
	last := ex.Attempt+1 >= ex.Schedule.Attempts()
	switch {
	case x.postpone(best, progress):
	case last && o.hindered(now):
		o.reoffer(x, &ex)
		x.reoffered = false // it is due when nodes can answer
	case last && !x.reoffered && o.reoffer(x, &ex):
	default:
		o.deriver.add(due)
		return
	}
	o.await(x, due)
}

// reoffer tells the connected nodes of an execution that would expire once more,
// with proofs of now: those that have not answered, since a node can lose an
// assignment that it could not prove any more, and its word with it; and those
// that gave up what may be there again. It happens once an attempt, not counting
// when they could not have answered. It reports whether there was anyone to tell.
// The view is locked.
func (o *Orchestrator) reoffer(x *tracked, ex *provenance.Execution) bool {
	answered := x.answered(ex)
	for _, node := range ex.Assigned() {
		if answered[node] && !passes(x.abandoned[node]) {
			continue
		}
		if _, connected := o.streams.opened(node); !connected {
			continue
		}
		delete(x.abandoned, node)
		o.streams.offer(node, x.id)
		x.reoffered = true
	}
	if x.reoffered {
		o.watchers.wake(x.id)
	}
	return x.reoffered
}

// hindered reports whether nodes could not answer lately, since the log takes no
// records or the payload store fails.
func (o *Orchestrator) hindered(now time.Time) bool {
	return o.refusing.hinders(now, o.cfg.AttemptDeadline) || o.blobs.hinder(now)
}

// putOff gives an attempt another deadline whose end the log did not take: when
// it does again, its nodes can answer again too.
func (o *Orchestrator) putOff(due job) {
	o.view.mu.Lock()
	defer o.view.mu.Unlock()
	x, ok := o.view.open[due.id]
	if ok && x.begun == due.overdue {
		x.deadline.Stop()
		o.await(x, due)
	}
}

// await arms the deadline of the attempt that has begun. The view is locked.
func (o *Orchestrator) await(x *tracked, due job) {
	x.deadline = time.AfterFunc(o.cfg.AttemptDeadline, func() { o.overdue(x, due) })
}

// answered returns the nodes that nobody needs to wait for: those that have
// attested the execution or have abandoned it.
func (x *tracked) answered(ex *provenance.Execution) map[string]bool {
	nodes := make(map[string]bool, len(ex.Attestations)+len(x.abandoned))
	for _, a := range ex.Attestations {
		nodes[a.Node] = true
	}
	for node := range x.abandoned {
		nodes[node] = true
	}
	return nodes
}

// Bounds of what a node's word that it is compiling or running an execution is
// worth, or that it is coming to it. Together they are longer than compiling and running may take, so a node
// that works is waited for, and one that only says so delays an attempt by
// minutes.
const (
	// workingFor is how long the word holds: several of a node's reports.
	workingFor = 45 * time.Second
	// maxStretched is how many further deadlines an attempt gets for each.
	maxStretched = 4
)

// Working notes what a node says that it compiles or runs now, so that it is not
// taken to be away. It decides nothing else. Ids of what the node was not
// assigned, or of what is decided, have no effect.
func (o *Orchestrator) Working(node string, ids []digest.Digest) {
	now := o.cfg.Now()
	o.view.mu.Lock()
	defer o.view.mu.Unlock()
	for _, id := range ids {
		x, ok := o.view.open[id]
		if !ok || !o.view.assignedTo(x, node) {
			continue
		}
		if x.working == nil {
			x.working = make(map[string]time.Time)
		}
		x.working[node] = now
	}
}

// CodeDraining is the code by which a node that is being stopped gives back what
// it has not begun. It is for that process only: the node is told again when it
// opens its next stream, and nothing expires for it before its deadline.
const CodeDraining = "draining"

// passes reports whether a node that gives this code lacked what may be there
// again. The codes after the first are package node's: the control plane or a log
// did not answer, and what they answered was too old to prove anything.
func passes(code string) bool {
	switch code {
	case CodeDraining, "unavailable", "membership_stale", "epoch_unproven":
		return true
	}
	return false
}

// returned forgets what a node could not do when it was last here, since it is
// told everything again. The view is locked.
func (v *view) returned(node string) {
	for _, x := range v.open {
		if passes(x.abandoned[node]) {
			delete(x.abandoned, node)
		}
	}
}

// exhausted reports whether an execution is open although every node of the
// attempts that have begun has answered. What a node could not do for now it may do
// before the deadline, which counts where there is nobody else to ask.
func (v *view) exhausted(x *tracked) bool {
	ex, _ := v.fold.Execution(x.id)
	if x.begun == 0 || ex.State != provenance.StateOpen {
		return false
	}
	if ex.Attempt+1 >= ex.Schedule.Attempts() {
		for _, code := range x.abandoned {
			if passes(code) {
				return false
			}
		}
	}
	return ex.Attempt+1 == x.begun && len(x.answered(&ex)) == len(ex.Assigned())
}

// maxAbandonCode bounds what is kept, logged and shown of a node's reason: it
// is a word, not an explanation.
const maxAbandonCode = 63

// Abandon takes a node's word that it will not attest an execution that it was
// assigned, so that nobody waits for it. It decides nothing: what the node
// attests afterwards counts all the same. The code, [a-z_]{1,63}, is shown to
// whoever may see the execution, until the process ends. Abandoning again, or
// what has been decided, is no error and changes nothing.
//
// The word is judged first; then recorded is called, and only if that returns nil
// does the word have its effect: an operation is recorded before its answer, and
// this one has no record of its own. An error of recorded is returned as it is.
func (o *Orchestrator) Abandon(_ context.Context, node string, id digest.Digest, code string, recorded func() error) error {
	if err := o.usable(); err != nil {
		return err
	}
	if !IsNodeCode(code) {
		return refuse(CodeArgument, "code %.80q: want 1 to %d characters of a to z and _", code, maxAbandonCode)
	}
	o.view.mu.RLock()
	_, err := o.view.abandonable(node, id)
	o.view.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := recorded(); err != nil {
		return err
	}
	o.view.mu.Lock()
	x, _ := o.view.abandonable(node, id) // meanwhile it may have attested, or said so twice
	if x != nil {
		if x.abandoned == nil {
			x.abandoned = make(map[string]string)
		}
		x.abandoned[node] = code
		o.view.paced(node, x, o.cfg.Now())
		if o.view.exhausted(x) {
			o.deriver.add(job{id: id, overdue: x.begun})
		}
	}
	o.view.mu.Unlock()
	if x != nil {
		o.watchers.wake(id)
		o.log.Info("assignment abandoned", "execution", id, "node", node, "code", code)
	}
	return nil
}

// abandonable returns an execution that a node may abandon, nil if that would be no
// news. A node learns nothing about what it was not assigned. The caller holds the
// lock.
func (v *view) abandonable(node string, id digest.Digest) (*tracked, error) {
	x, ok := v.executions[id]
	if !ok {
		return nil, errUnknownExecution()
	}
	ex, _ := v.fold.Execution(id)
	attempt, ok := ex.Schedule.FirstAttempt(node)
	switch {
	case !ok || attempt > ex.Attempt:
		return nil, errUnknownExecution()
	case ex.State != provenance.StateOpen:
		return nil, nil
	case attempt >= x.begun:
		return nil, errUnknownExecution()
	}
	if _, again := x.abandoned[node]; again {
		return nil, nil
	}
	if x.answered(&ex)[node] {
		return nil, errUnknownExecution()
	}
	return x, nil
}

// IsNodeCode reports whether s has the form of a code by which nodes say why:
// [a-z_]{1,63}.
func IsNodeCode(s string) bool {
	if len(s) < 1 || len(s) > maxAbandonCode {
		return false
	}
	for _, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
