package checkpoint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// FutureTolerance is how far ahead of the reader's clock a cosignature may be
// and still count as fresh.
const FutureTolerance = 60 * time.Second

// Policy says which checkpoints are acceptable: signed by one of its logs and
// cosigned by a quorum of its witnesses (c2sp.org/tlog-policy). It does not
// change after ParsePolicy.
type Policy struct {
	logs      []LogKey
	witnesses []Witness
	groups    []group // each after the groups it has as members
	quorum    string  // name of a witness or group, or quorumNone
}

// quorumNone is the predefined name that asks for no cosignature.
const quorumNone = "none"

// LogKey is a log line of a policy.
type LogKey struct {
	Vkey   string // verifier key, as written
	Origin string // the key name, which is the log's origin line
	URL    string // how to reach the log, or ""; the application knows what kind
	Key    *Key   // the parsed Vkey
}

// Witness is a witness line of a policy.
type Witness struct {
	Name string // its name within the policy
	Vkey string // verifier key, as written
	URL  string // usually the submission prefix of c2sp.org/tlog-witness, or ""
	Key  *Key   // the parsed Vkey
}

// group is satisfied when at least k of its members are.
type group struct {
	name    string
	k       int      // 1 ≤ k ≤ len(members)
	members []string // names of witnesses and earlier groups
}

// Logs returns the policy's logs in file order.
func (p *Policy) Logs() []LogKey { return slices.Clone(p.logs) }

// Witnesses returns the policy's witnesses in file order, including those that
// the quorum does not need.
func (p *Policy) Witnesses() []Witness { return slices.Clone(p.witnesses) }

// QuorumNone reports whether the policy asks for no cosignature at all.
func (p *Policy) QuorumNone() bool { return p.quorum == quorumNone }

// Origin returns the one origin that the policy accepts checkpoints of. A policy
// without logs, or with logs of several origins, is ErrManyOrigins: it cannot
// say which log's statements it is about.
func (p *Policy) Origin() (string, error) {
	if len(p.logs) == 0 {
		return "", fmt.Errorf("%w: it has no log line", ErrManyOrigins)
	}
	for _, l := range p.logs {
		if l.Origin != p.logs[0].Origin {
			return "", fmt.Errorf("%w: it names %q and %q", ErrManyOrigins, p.logs[0].Origin, l.Origin)
		}
	}
	return p.logs[0].Origin, nil
}

// LogKeys returns the keys of the logs with the given origin, in the form that
// Open takes; none if the policy does not know the origin.
func (p *Policy) LogKeys(origin string) []note.Verifier {
	var keys []note.Verifier
	for _, l := range p.logs {
		if l.Origin == origin {
			keys = append(keys, l.Key)
		}
	}
	return keys
}

// WitnessKeys returns the keys of all witnesses, in the form that
// AddCosignatures takes.
func (p *Policy) WitnessKeys() []note.Verifier {
	keys := make([]note.Verifier, len(p.witnesses))
	for i, w := range p.witnesses {
		keys[i] = w.Key
	}
	return keys
}

// CouldSatisfy reports whether cosignatures of exactly the named witnesses
// would satisfy the quorum. A log asks it about the witnesses that keep silent:
// as long as they alone could satisfy the policy, another history may have been
// witnessed.
func (p *Policy) CouldSatisfy(names map[string]bool) bool {
	if p.QuorumNone() {
		return true
	}
	done := make(map[string]bool, len(p.witnesses)+len(p.groups))
	for _, w := range p.witnesses {
		done[w.Name] = names[w.Name]
	}
	for _, g := range p.groups {
		n := 0
		for _, member := range g.members {
			if done[member] {
				n++
			}
		}
		done[g.name] = n >= g.k
	}
	return done[p.quorum]
}

// SameQuorum reports whether another policy asks for the same: a quorum of the same
// name over the same groups, of the same witnesses at the same URLs, in the same
// order. The two differ in log lines at most.
func (p *Policy) SameQuorum(other *Policy) bool {
	sameWitness := func(a, b Witness) bool { return a.Name == b.Name && a.Vkey == b.Vkey && a.URL == b.URL }
	sameGroup := func(a, b group) bool { return a.name == b.name && a.k == b.k && slices.Equal(a.members, b.members) }
	return p.quorum == other.quorum && slices.EqualFunc(p.witnesses, other.witnesses, sameWitness) &&
		slices.EqualFunc(p.groups, other.groups, sameGroup)
}

// Cosignature is a valid cosignature by a witness of the policy.
type Cosignature struct {
	Witness   string // name of the witness in the policy
	Timestamp int64  // when the witness signed, by its clock, in POSIX seconds
}

// Verified is a checkpoint that satisfies a policy.
type Verified struct {
	Checkpoint Checkpoint
	// Cosignatures has one entry for each witness that was counted, in policy
	// order, with its latest timestamp.
	Cosignatures []Cosignature
}

// Verify checks a signed checkpoint against the policy. The origin must be that
// of one of the logs (ErrOrigin), at least one key of that log must have signed
// (ErrLogSignature), and the cosignatures must satisfy the quorum (ErrQuorum).
// Every signature that names a key of the policy must verify (ErrLogSignature,
// ErrCosignature); those by other keys are ignored. However often and under
// whatever timestamps a witness signed, it counts once. Extension lines are
// ErrExtension.
func (p *Policy) Verify(signed []byte) (*Verified, error) {
	return p.verify(signed, func(int64) bool { return true })
}

// VerifyFresh is Verify counting only cosignatures whose timestamp t satisfies
// now − maxAge ≤ t ≤ now + FutureTolerance. If the others would have made up a
// quorum the error is ErrStale. A policy without a quorum has nothing that could
// be stale.
func (p *Policy) VerifyFresh(signed []byte, now time.Time, maxAge time.Duration) (*Verified, error) {
	oldest, newest := now.Add(-maxAge), now.Add(FutureTolerance).Unix()
	first := oldest.Unix()
	if oldest.Nanosecond() > 0 {
		first++ // timestamps are whole seconds
	}
	return p.verify(signed, func(t int64) bool { return first <= t && t <= newest })
}

// Bounds of how old the cosignatures of a membership checkpoint may be for
// those who act on it now.
const (
	// DefaultMaxAge is three refresh rounds of the membership log.
	DefaultMaxAge = 15 * time.Minute
	// MinMaxAge leaves room for whole seconds and clocks that differ.
	MinMaxAge = 10 * time.Second
	// MaxMaxAge bounds for how long a revoked key may go on being believed.
	MaxMaxAge = 24 * time.Hour
)

// CheckMaxAge reports why an age is no useful bound of freshness, nil if it is.
func CheckMaxAge(d time.Duration) error {
	if d < MinMaxAge || d > MaxMaxAge {
		return fmt.Errorf("a maximum age of %v: take %v to %v, and at least twice the interval at which the log refreshes its cosignatures", d, MinMaxAge, MaxMaxAge)
	}
	return nil
}

// AsOf returns the latest time for which a quorum vouches: the policy would
// still be satisfied counting only cosignatures of then and later. It reports
// false under a policy without a quorum.
func (p *Policy) AsOf(v *Verified) (time.Time, bool) {
	if p.QuorumNone() {
		return time.Time{}, false
	}
	latest := slices.SortedFunc(slices.Values(v.Cosignatures), func(a, b Cosignature) int { return cmp.Compare(b.Timestamp, a.Timestamp) })
	names := make(map[string]bool, len(latest))
	for _, c := range latest {
		if names[c.Witness] = true; p.CouldSatisfy(names) {
			return time.Unix(c.Timestamp, 0), true
		}
	}
	return time.Time{}, false
}

func (p *Policy) verify(signed []byte, fresh func(timestamp int64) bool) (*Verified, error) {
	n, err := ParseNote(signed)
	if err != nil {
		return nil, err
	}
	c, err := Parse(n.Text)
	if err != nil {
		return nil, err
	}
	if err := p.checkLog(n, c.Origin); err != nil {
		return nil, err
	}
	latest, err := p.cosignatures(n)
	if err != nil {
		return nil, err
	}
	v := &Verified{Checkpoint: c}
	valid, counted := map[string]bool{}, map[string]bool{}
	var stale []string
	for _, w := range p.witnesses {
		t, ok := latest[w.Name]
		if !ok {
			continue
		}
		valid[w.Name] = true
		if !fresh(t) {
			stale = append(stale, w.Name)
			continue
		}
		counted[w.Name] = true
		v.Cosignatures = append(v.Cosignatures, Cosignature{Witness: w.Name, Timestamp: t})
	}
	if p.CouldSatisfy(counted) {
		return v, nil
	}
	short := &QuorumError{Quorum: p.quorum}
	for _, c := range v.Cosignatures {
		short.Have = append(short.Have, c.Witness)
	}
	if p.CouldSatisfy(valid) {
		short.Stale = stale
	}
	return nil, short
}

// checkLog finds the origin among the policy's logs and a signature by one of
// its keys.
func (p *Policy) checkLog(n *Note, origin string) error {
	keys := p.LogKeys(origin)
	if len(keys) == 0 {
		return fmt.Errorf("%w: %q is of no log of the policy, which has %s", ErrOrigin, origin, p.originList())
	}
	good, err := n.Verified(keys)
	if err != nil {
		return err
	}
	if len(good) == 0 {
		return fmt.Errorf("%w: none by a key that the policy has for %q", ErrLogSignature, origin)
	}
	return nil
}

// cosignatures verifies all signatures by witness keys and returns the latest
// timestamp by witness name.
func (p *Policy) cosignatures(n *Note) (map[string]int64, error) {
	good, err := n.verified(p.WitnessKeys())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCosignature, err)
	}
	latest := map[string]int64{}
	for _, sig := range good {
		t, _ := cosignatureTimestamp(sig.Bytes)
		for _, w := range p.witnesses {
			if w.Key.name == sig.Name && w.Key.id == sig.KeyID {
				latest[w.Name] = max(latest[w.Name], t)
			}
		}
	}
	return latest, nil
}

// originList names the policy's origins for an error message.
func (p *Policy) originList() string {
	const shown = 3
	var origins []string
	for _, l := range p.logs {
		if q := fmt.Sprintf("%q", l.Origin); !slices.Contains(origins, q) {
			origins = append(origins, q)
		}
	}
	switch {
	case len(origins) == 0:
		return "no log"
	case len(origins) > shown:
		return fmt.Sprintf("%s and %d more", strings.Join(origins[:shown], ", "), len(origins)-shown)
	}
	return strings.Join(origins, ", ")
}
