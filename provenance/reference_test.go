package provenance_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// The reference below reads docs/formats/execution.md, "The fold", and nothing
// else. It knows no records: of each it is told what it means, who signed it, and
// what is wrong with it. It keeps no state: whatever it is asked, it goes through
// the whole history again.

// happening is one record of the log, as the reference knows it.
type happening struct {
	kind      string // epoch, retire, request, cancel, reschedule, expired, attest, restate
	epoch     uint64 // that the record states
	key       string // that signed it
	execution int    // that it is about, -1 if there is none such
	attempt   uint64 // of a reschedule
	node      string
	said      string // of an attestation: result and checkpoint
	misfit    bool   // the record does not fit what it is about
	members   int    // of a request: nodes that there are, all of them eligible
}

// span is in which epochs a key is valid: from on, and before to if that is not 0.
type span struct{ from, to uint64 }

func (s span) at(epoch uint64) bool {
	return s.from > 0 && s.from <= epoch && (s.to == 0 || epoch < s.to)
}

// reference is the history so far, with what membership says beside it.
type reference struct {
	log      []happening
	keys     map[string]span
	rankings [][]string // by execution
	shape    shape
}

// shape is what the contract of all executions of a history asks for.
type shape struct{ nodes, agreement, step, most int }

// shapes has the edges of 2k > n: one node, two, an even number, all that there are.
var shapes = []shape{{3, 2, 1, 5}, {1, 1, 0, 1}, {2, 2, 0, 2}, {4, 3, 1, 5}, {1, 1, 1, 4}, {2, 2, 2, 5}, {3, 3, 1, 4}, {5, 3, 0, 5}}

// standing is where an execution stands.
type standing struct {
	state    provenance.State
	pinned   uint64
	attempt  uint64
	decided  int
	recorded bool
	said     []saying2 // valid attestations in order
}

type saying2 struct {
	index      int
	node, said string
	evidence   bool
}

func (r *reference) epochBefore(n int) (epoch uint64) {
	for _, h := range r.log[:n] {
		if h.kind == "epoch" && h.epoch == epoch+1 {
			epoch++
		}
	}
	return epoch
}

func (r *reference) retiredBefore(n int) bool {
	for i, h := range r.log[:n] {
		if h.kind == "retire" && r.verdictOn(i) == "" {
			return true
		}
	}
	return false
}

// assigned are the nodes that attempts 0 to a assign.
func (r *reference) assigned(execution int, a uint64) []string {
	ranking := r.rankings[execution]
	return ranking[:min(r.shape.nodes+int(a)*r.shape.step, r.shape.most, len(ranking))]
}

// at is the standing of an execution before the n-th record; nil if it does not
// exist.
func (r *reference) at(execution, n int) *standing {
	var s *standing
	for i, h := range r.log[:n] {
		if h.execution != execution || h.kind != "request" && s == nil || r.judge(i, s) != "" {
			continue
		}
		switch h.kind {
		case "request":
			s = &standing{state: provenance.StateOpen, pinned: h.epoch, decided: -1}
		case "cancel":
			s.state, s.decided = provenance.StateCancelled, i
		case "reschedule":
			s.attempt++
		case "expired":
			s.state, s.decided = provenance.StateExpired, i
		case "restate":
			s.recorded = true
		case "attest":
			s.said = append(s.said, saying2{i, h.node, h.said, s.state != provenance.StateOpen})
			if s.state != provenance.StateOpen {
				break
			}
			if s.state = r.outcome(execution, s.said); s.state != provenance.StateOpen {
				s.decided = i
			}
		}
	}
	return s
}

// sets are the nodes by what they said, without those that said two things.
func sets(said []saying2) (by map[string][]string, heard map[string]bool) {
	by, heard = map[string][]string{}, map[string]bool{}
	for _, a := range said {
		heard[a.node] = true
		twice := slices.ContainsFunc(said, func(b saying2) bool { return b.node == a.node && b.said != a.said })
		if !twice && !slices.Contains(by[a.said], a.node) {
			by[a.said] = append(by[a.said], a.node)
		}
	}
	return by, heard
}

// outcome is what attestations come to: it tries every way in which the ranks that
// were not heard could still fall.
func (r *reference) outcome(execution int, said []saying2) provenance.State {
	by, heard := sets(said)
	m := 0
	for _, nodes := range by {
		m += len(nodes)
	}
	for _, nodes := range by {
		if len(nodes) >= r.shape.agreement && 2*len(nodes) > m {
			return provenance.StateComplete
		}
	}
	unheard := min(r.shape.most, len(r.rankings[execution])) - len(heard)
	by[""] = nil // a set that nobody belongs to yet
	for _, nodes := range by {
		if set := len(nodes) + unheard; set >= r.shape.agreement && 2*set > m+unheard {
			return provenance.StateOpen
		}
	}
	return provenance.StateDiverged
}

// verdictOn is the code of the i-th record, "" if it is valid.
func (r *reference) verdictOn(i int) provenance.Code {
	h := r.log[i]
	if h.kind == "epoch" || h.kind == "retire" {
		return r.judge(i, nil)
	}
	return r.judge(i, r.at(h.execution, i))
}

// judge goes through a row of the table; s is where the execution stands, nil if
// there is none.
func (r *reference) judge(i int, s *standing) provenance.Code {
	h, epoch := r.log[i], r.epochBefore(i)
	signed := r.keys[h.key].at(epoch)
	stale := h.epoch != epoch
	switch h.kind {
	case "epoch":
		if h.epoch != epoch+1 {
			return provenance.CodeEpochOrder
		}
	case "retire":
		switch {
		case stale:
			return provenance.CodeStaleEpoch
		case !signed:
			return provenance.CodeRetirementInvalid
		case r.retiredBefore(i):
			return provenance.CodeContractRetired
		}
	case "request":
		switch {
		case stale:
			return provenance.CodeStaleEpoch
		case !signed:
			return provenance.CodeSubmissionInvalid
		case s != nil:
			return provenance.CodeExecutionKnown
		case r.retiredBefore(i):
			return provenance.CodeContractRetired
		case h.members < r.shape.nodes:
			return provenance.CodeEligible
		}
	case "cancel":
		switch {
		case stale:
			return provenance.CodeStaleEpoch
		case !signed:
			return provenance.CodeCancellationInvalid
		case s == nil:
			return provenance.CodeExecutionUnknown
		case s.state != provenance.StateOpen:
			return provenance.CodeDecided
		}
	case "reschedule":
		switch {
		case s == nil:
			return provenance.CodeExecutionUnknown
		case s.state != provenance.StateOpen:
			return provenance.CodeDecided
		case h.attempt != s.attempt+1:
			return provenance.CodeAttempt
		case len(r.assigned(h.execution, h.attempt)) == len(r.assigned(h.execution, s.attempt)):
			return provenance.CodeNobodyNew
		}
	case "expired":
		switch {
		case s == nil:
			return provenance.CodeExecutionUnknown
		case s.state != provenance.StateOpen:
			return provenance.CodeDecided
		case len(r.assigned(h.execution, s.attempt)) < min(r.shape.most, len(r.rankings[h.execution])):
			return provenance.CodeRanksRemain
		}
	case "attest":
		switch {
		case s == nil:
			return provenance.CodeExecutionUnknown
		case stale:
			return provenance.CodeStaleEpoch
		case !slices.Contains(r.assigned(h.execution, s.attempt), h.node):
			return provenance.CodeNotAssigned
		case !signed || !r.keys[h.key].at(s.pinned):
			return provenance.CodeAttestationInvalid
		case h.misfit:
			return provenance.CodeAttestationDiffers
		}
		var before []string
		for _, a := range s.said {
			if a.node == h.node {
				before = append(before, a.said)
			}
		}
		if len(before) > 1 || slices.Contains(before, h.said) {
			return provenance.CodeRepeated
		}
	case "restate":
		switch {
		case s == nil:
			return provenance.CodeExecutionUnknown
		case s.recorded || s.state != provenance.StateComplete && s.state != provenance.StateDiverged:
			return provenance.CodeNotDerived
		case h.misfit:
			return provenance.CodeDiffers
		}
	}
	return ""
}

// describe writes a standing as the test writes that of the fold.
func (s *standing) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s attempt %d decided %d recorded %t", s.state, s.attempt, s.decided, s.recorded)
	decisive := slices.DeleteFunc(slices.Clone(s.said), func(a saying2) bool { return a.evidence })
	by, _ := sets(decisive)
	for _, a := range s.said {
		twice := slices.ContainsFunc(s.said, func(b saying2) bool { return b.node == a.node && b.said != a.said })
		// The winning set is the largest, since it is more than half.
		agrees := s.state == provenance.StateComplete && !a.evidence && slices.Contains(by[a.said], a.node) &&
			!slices.ContainsFunc(decisive, func(b saying2) bool { return len(by[b.said]) > len(by[a.said]) })
		fmt.Fprintf(&b, "; %d %s evidence %t void %t agrees %t", a.index, a.node, a.evidence, twice, agrees)
	}
	return b.String()
}

func describeFold(ex provenance.Execution) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s attempt %d decided %d recorded %t", ex.State, ex.Attempt, ex.DecidedAt, ex.Recorded)
	for _, a := range ex.Attestations {
		fmt.Fprintf(&b, "; %d %s evidence %t void %t agrees %t", a.Index, a.Node, a.Evidence, a.Void, a.Agrees)
	}
	return b.String()
}

// story makes a random history, in the log and for the reference.
type story struct {
	*scene
	rng   *rand.Rand
	ref   *reference
	terms *contract.Contract // of all executions
	ids   []digest.Digest
	subs  []*contract.Submission
	due   []*pb.Record // derived records that were not appended yet
	// keys by holder and use, the newest last.
	held map[string][]string
	seen map[provenance.Code]int
	n    int // makes names unique
}

func newStory(t *testing.T, seed uint64) *story {
	c := testcluster.New(t, testcluster.Options{Nodes: 5})
	s := &story{scene: &scene{Cluster: c}, rng: rand.New(rand.NewPCG(seed, 7)), held: map[string][]string{}, seen: map[provenance.Code]int{},
		ref: &reference{keys: map[string]span{}, shape: shapes[seed%uint64(len(shapes))]}}
	s.ref.log = append(s.ref.log, happening{kind: "epoch", epoch: 1, execution: -1})
	for _, name := range []string{testcluster.Tenant + "/contract", testcluster.Tenant + "/submission"} {
		s.hold(name, name)
	}
	for n := range 5 {
		name := testcluster.NodeID(n+1) + "/attestation"
		s.hold(name, name)
	}
	s.terms = c.Contract()
	s.terms.Nodes, s.terms.Agreement = uint64(s.ref.shape.nodes), uint64(s.ref.shape.agreement)
	s.terms.Step, s.terms.MaxAssigned = uint64(s.ref.shape.step), uint64(s.ref.shape.most)
	s.contract = c.Register(s.terms)
	s.ref.log = append(s.ref.log, happening{kind: "register", execution: -1})
	return s
}

// hold notes a key that becomes valid at the epoch in force.
func (s *story) hold(slot, key string) {
	s.held[slot] = append(s.held[slot], key)
	s.ref.keys[key] = span{from: s.Fold.Epoch()}
}

// newest is the key that the holder would use; any is one that it ever had.
func (s *story) newest(slot string) string { return s.held[slot][len(s.held[slot])-1] }

func (s *story) any(slot string) string {
	if s.rng.IntN(4) > 0 {
		return s.newest(slot)
	}
	return s.held[slot][s.rng.IntN(len(s.held[slot]))]
}

// stated is the epoch that a record states: mostly the one in force.
func (s *story) stated() uint64 {
	if s.rng.IntN(12) == 0 {
		return max(1, s.Fold.Epoch()-1) + uint64(s.rng.IntN(2))*2
	}
	return s.Fold.Epoch()
}

// pick is one of the executions that were asked for, and its id.
func (s *story) pick() (int, digest.Digest) {
	i := s.rng.IntN(len(s.ids))
	return i, s.ids[i]
}

// tell appends a record, and holds what the fold makes of it against the
// reference, for every execution.
func (s *story) tell(t *testing.T, r *pb.Record, h happening) {
	t.Helper()
	s.ref.log = append(s.ref.log, h)
	last := len(s.ref.log) - 1
	want := s.ref.verdictOn(last)
	checked := s.Fold.Check(r)
	index, effect := s.Append(r)
	if int(index) != last {
		t.Fatalf("record %d is the reference's %d", index, last)
	}
	if effect.Code != want || checked.Code != want || effect.Void != (want != "") {
		t.Fatalf("record %d %+v: the fold says %q (%s), Check %q, the reference %q", last, h, effect.Code, effect.Detail, checked.Code, want)
	}
	s.seen[want]++
	if effect.Derived != nil {
		s.due = append(s.due, effect.Derived)
	}
	s.compare(t)
}

func (s *story) compare(t *testing.T) {
	t.Helper()
	for i, id := range s.ids {
		ex, exists := s.Fold.Execution(id)
		standing := s.ref.at(i, len(s.ref.log))
		if exists != (standing != nil) {
			t.Fatalf("execution %d exists %t, for the reference %t", i, exists, standing != nil)
		}
		if !exists {
			continue
		}
		if have, want := describeFold(ex), standing.describe(); have != want {
			t.Fatalf("after record %d, execution %d is\n%s\nfor the reference\n%s", len(s.ref.log)-1, i, have, want)
		}
		s.seen[provenance.Code("state "+string(ex.State))]++
	}
}

// changed mirrors a change of the membership for the reference.
func (s *story) changed(t *testing.T) {
	t.Helper()
	s.ref.log = append(s.ref.log, happening{kind: "epoch", epoch: s.Fold.Epoch(), execution: -1})
	s.compare(t)
}

// end makes a key invalid from the epoch in force on.
func (s *story) end(key string) {
	k := s.ref.keys[key]
	k.to = s.Fold.Epoch()
	s.ref.keys[key] = k
}

// rotate replaces the newest key of a holder for a use.
func (s *story) rotate(t *testing.T, holder string, use membership.Use) {
	t.Helper()
	s.n++
	slot := holder + "/" + string(use)
	old, fresh := s.newest(slot), fmt.Sprint(slot, "#", s.n)
	if p, _ := s.History.Current().Principal(holder); p.ID == "" {
		return
	}
	oldKey, freshKey := testcluster.NewKey(old), testcluster.NewKey(fresh, use)
	s.Change(membership.RotateKey{ID: holder, Add: &freshKey, Remove: oldKey.ID()}, fresh)
	s.end(old)
	s.hold(slot, fresh)
	s.changed(t)
}

// step lets something happen.
func (s *story) step(t *testing.T) {
	t.Helper()
	members := s.nodesNow()
	switch n := s.rng.IntN(100); {
	case n < 2 && len(members) > 3:
		node := members[s.rng.IntN(len(members))]
		s.Change(membership.RemovePrincipal{ID: node})
		for _, key := range s.held[node+"/attestation"] {
			if s.ref.keys[key].to == 0 {
				s.end(key)
			}
		}
		s.changed(t)
	case n < 4:
		s.n++
		node := fmt.Sprint("late-", s.n)
		s.AddNode(node)
		s.hold(node+"/attestation", node+"/attestation")
		s.changed(t)
	case n < 6:
		s.rotate(t, members[s.rng.IntN(len(members))], membership.UseAttestation)
	case n < 7:
		s.rotate(t, testcluster.Tenant, membership.UseSubmission)
	case n < 8:
		s.rotate(t, testcluster.Tenant, membership.UseContract)
	case n < 9:
		epoch := 1 + s.rng.Uint64N(s.Fold.Epoch())
		s.tell(t, s.EpochRecord(epoch), happening{kind: "epoch", epoch: epoch, execution: -1})
	case n < 10:
		key, epoch := s.any(testcluster.Tenant+"/contract"), s.stated()
		known := key
		if s.rng.IntN(2) == 0 {
			key, known = s.newest(testcluster.Tenant+"/submission"), "" // a key for another use
		}
		r := s.retirement(nil)
		payload, _ := (&contract.Retirement{Cluster: s.Name, Contract: s.contract, ProtocolVersion: "1.0", Tenant: testcluster.Tenant}).Marshal()
		r.GetRetirement().Epoch, r.GetRetirement().Envelope = epoch, s.Envelope(contract.RetirementType, payload, key)
		s.tell(t, r, happening{kind: "retire", epoch: epoch, key: known, execution: -1})
	case n < 22:
		s.request(t)
	case n < 26:
		i, id := s.pick()
		key, epoch := s.any(testcluster.Tenant+"/submission"), s.stated()
		s.id = id
		r := s.cancellation(nil)
		payload, _ := (&contract.Cancellation{Cluster: s.Name, Execution: id, ProtocolVersion: "1.0", Tenant: testcluster.Tenant}).Marshal()
		r.GetCancellation().Epoch, r.GetCancellation().Envelope = epoch, s.Envelope(contract.CancellationType, payload, key)
		s.tell(t, r, happening{kind: "cancel", epoch: epoch, key: key, execution: i})
	case n < 36:
		i, id := s.pick()
		attempt := uint64(1)
		if ex, ok := s.Fold.Execution(id); ok {
			attempt = max(1, ex.Attempt+1+uint64(s.rng.IntN(8)/7))
		}
		s.tell(t, s.Fill(&pb.Record{Body: &pb.Record_Reschedule{Reschedule: &pb.RescheduleRecord{ExecutionId: id[:], Attempt: attempt}}}),
			happening{kind: "reschedule", attempt: attempt, execution: i})
	case n < 39:
		i, id := s.pick()
		s.id = id
		s.tell(t, s.expired(), happening{kind: "expired", execution: i})
	case n < 47 && len(s.due) > 0:
		s.restate(t)
	default:
		s.attest(t)
	}
}

func (s *story) nodesNow() (list []string) {
	for _, n := range s.History.Current().Nodes() {
		list = append(list, n.ID)
	}
	slices.Sort(list)
	return list
}

// request asks for an execution, sometimes for one that was asked for before.
func (s *story) request(t *testing.T) {
	t.Helper()
	key, epoch := s.any(testcluster.Tenant+"/submission"), s.stated()
	i := len(s.ids)
	var sub *contract.Submission
	if i > 0 && s.rng.IntN(6) == 0 || i >= 12 {
		i = s.rng.IntN(i)
		sub = s.subs[i]
	} else {
		sub = s.Submission(s.contract, nil)
		sub.LastEpoch = 1 << 30
		id := sub.ExecutionID()
		s.ids, s.subs = append(s.ids, id), append(s.subs, sub)
		s.ref.rankings = append(s.ref.rankings, nil)
	}
	payload, err := sub.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	id := sub.ExecutionID()
	if _, exists := s.Fold.Execution(id); !exists {
		// Whom a state ranks is for package membership to say.
		if schedule, err := s.History.Current().Schedule(id, provenance.ScheduleRequest(s.terms)); err == nil {
			s.ref.rankings[i] = schedule.Ranking
		}
	}
	r := s.RequestRecord(sub)
	r.GetRequest().Epoch, r.GetRequest().Envelope = epoch, s.Envelope(contract.SubmissionType, payload, key)
	s.tell(t, r, happening{kind: "request", epoch: epoch, key: key, execution: i, members: len(s.nodesNow())})
}

// restate appends a derived record, late, again, or altered.
func (s *story) restate(t *testing.T) {
	t.Helper()
	at := s.rng.IntN(len(s.due))
	r := proto.CloneOf(s.due[at])
	h := happening{kind: "restate"}
	id := r.GetProvenance().GetExecutionId()
	if d := r.GetDivergence(); d != nil {
		id = d.GetExecutionId()
	}
	h.execution = slices.IndexFunc(s.ids, func(d digest.Digest) bool { return string(d[:]) == string(id) })
	if s.rng.IntN(3) == 0 {
		h.misfit = true
		if p := r.GetProvenance(); p != nil {
			p.CompletedAt++
		} else {
			r.GetDivergence().DivergedAt++
		}
	}
	s.tell(t, r, h)
}

// attest makes a node say something about an execution.
func (s *story) attest(t *testing.T) {
	t.Helper()
	i, id := s.pick()
	ex, ok := s.Fold.Execution(id)
	if !ok {
		return
	}
	node := ex.Schedule.Ranking[s.rng.IntN(len(ex.Schedule.Ranking))]
	if list := ex.Assigned(); s.rng.IntN(8) > 0 {
		node = list[s.rng.IntN(len(list))]
	}
	result := fmt.Sprint("result ", s.rng.IntN(5)/3+s.rng.IntN(2))
	h := happening{kind: "attest", execution: i, node: node, said: result, key: s.any(node + "/attestation"), epoch: s.stated()}
	st := s.Statement(id, node, testcluster.OK(result))
	if s.rng.IntN(10) == 0 {
		st.RequestCheckpoint.RootHash[0] ^= 1
		h.said += " on another checkpoint"
	}
	if s.rng.IntN(15) == 0 {
		st.Attempt++
		h.misfit = true
	}
	payload, err := st.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s.tell(t, s.Fill(&pb.Record{Body: &pb.Record_Attestation{Attestation: &pb.AttestationRecord{ExecutionId: id[:], Node: node, Epoch: h.epoch,
		Envelope: s.Envelope(provenance.AttestationType, payload, h.key)}}}), h)
}

// The fold against the reference, after every record of random histories: with
// records that are valid, void, late, early, out of turn and repeated, nodes that
// contradict themselves, keys that are rotated and removed between pin and
// attestation, cancellations that race completion and retirements that race
// requests.
func TestFoldAgainstReference(t *testing.T) { againstReference(t, 16) }

// againstReference goes through a number of random histories.
func againstReference(t *testing.T, histories uint64) {
	seen := map[provenance.Code]int{}
	for seed := range histories {
		s := newStory(t, seed)
		s.request(t)
		for range 90 {
			s.step(t)
		}
		for code, n := range s.seen {
			seen[code] += n
		}
		replica := provenance.NewFold(s.Name, s.History)
		for i, opening := range s.Audit.Openings {
			if _, _, err := replica.Read(int64(i), s.Audit.Entries[i], opening); err != nil {
				t.Fatal(err)
			}
		}
		if dump(replica) != dump(s.Fold) {
			t.Fatalf("seed %d: a replica differs", seed)
		}
	}
	for _, code := range []provenance.Code{"", provenance.CodeStaleEpoch, provenance.CodeEpochOrder, provenance.CodeRetirementInvalid,
		provenance.CodeContractRetired, provenance.CodeSubmissionInvalid, provenance.CodeExecutionKnown, provenance.CodeCancellationInvalid,
		provenance.CodeExecutionUnknown, provenance.CodeDecided, provenance.CodeAttempt, provenance.CodeNobodyNew, provenance.CodeRanksRemain,
		provenance.CodeNotAssigned, provenance.CodeAttestationInvalid, provenance.CodeAttestationDiffers, provenance.CodeRepeated,
		provenance.CodeNotDerived, provenance.CodeDiffers, provenance.CodeEligible,
		"state open", "state complete", "state diverged", "state cancelled", "state expired"} {
		if seen[code] == 0 {
			t.Errorf("no history came to %q", code)
		}
	}
}
