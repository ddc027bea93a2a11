package membership

// An independent, naive reading of docs/formats/membership.md: everything is
// recomputed from plain maps, nothing is shared with the package but the types
// that the comparison needs.

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"sort"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

// refH is H of docs/formats/README.md over fields that are bytes already.
func refH(domain string, fields ...[]byte) []byte {
	var b bytes.Buffer
	for _, f := range append([][]byte{[]byte(domain)}, fields...) {
		binary.Write(&b, binary.BigEndian, uint32(len(f)))
		b.Write(f)
	}
	sum := sha256.Sum256(b.Bytes())
	return sum[:]
}

func refUint(n uint64) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint64(b, n)
	return b
}

// refJSON writes canonical JSON: encoding/json sorts the names of maps.
func refJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// refTree is MTH of RFC 6962, section 2.1.
func refTree(leaves [][]byte) []byte {
	switch len(leaves) {
	case 0:
		sum := sha256.Sum256(nil)
		return sum[:]
	case 1:
		sum := sha256.Sum256(append([]byte{0}, leaves[0]...))
		return sum[:]
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	b := append([]byte{1}, refTree(leaves[:k])...)
	sum := sha256.Sum256(append(b, refTree(leaves[k:])...))
	return sum[:]
}

// refPath is PATH of RFC 6962, section 2.1.1.
func refPath(m int, leaves [][]byte) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	if m < k {
		return append(refPath(m, leaves[:k]), refTree(leaves[k:]))
	}
	return append(refPath(m-k, leaves[k:]), refTree(leaves[:k]))
}

// A refState is a state as nested maps, as its JSON would be read.
type refState struct {
	cluster           string
	principals        map[string]map[string]any
	threshold, quorum uint64
	limits, logs      any
	version           string
}

func refPrincipal(p Principal) map[string]any {
	type entry struct {
		raw []byte
		m   map[string]any
	}
	var keys []entry
	for _, k := range p.Keys {
		var uses []string
		for _, u := range k.Uses {
			uses = append(uses, string(u))
		}
		sort.Strings(uses)
		keys = append(keys, entry{k.PublicKey, map[string]any{
			"algorithm": "ed25519", "public_key": base64.StdEncoding.EncodeToString(k.PublicKey), "uses": uses,
		}})
	}
	sort.Slice(keys, func(i, j int) bool { return bytes.Compare(keys[i].raw, keys[j].raw) < 0 })
	var list []any
	for _, e := range keys {
		list = append(list, e.m)
	}
	m := map[string]any{"id": p.ID, "kind": string(p.Kind), "keys": list}
	if p.Name != "" {
		m["name"] = p.Name
	}
	if p.TrustLevel != 0 {
		m["trust_level"] = p.TrustLevel
	}
	if len(p.Labels) != 0 {
		m["labels"] = p.Labels
	}
	return m
}

func (r *refState) leaves() (ids []string, leaves [][]byte) {
	for id := range r.principals {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	for _, id := range ids {
		leaves = append(leaves, refJSON(r.principals[id]))
	}
	return ids, leaves
}

func (r *refState) membershipHash() []byte {
	_, leaves := r.leaves()
	return refTree(leaves)
}

func (r *refState) identityHash() []byte {
	return refH("tallystick/v1/cluster-identity",
		[]byte(r.cluster), r.membershipHash(), refUint(uint64(len(r.principals))), refUint(r.threshold), refUint(r.quorum),
		refJSON(r.limits), refJSON(r.logs), []byte(r.version))
}

func refLimits(s *State) any {
	l := s.Limits()
	return map[string]any{
		"argument_bytes": l.ArgumentBytes, "diagnostics_bytes": l.DiagnosticsBytes, "frames": l.Frames, "gas": l.Gas,
		"input_bytes": l.InputBytes, "max_assigned": l.MaxAssigned, "memory_pages": l.MemoryPages,
		"module_bytes": l.ModuleBytes, "output_bytes": l.OutputBytes,
	}
}

func refLogs(l Logs) any {
	one := func(l Log) any {
		m := map[string]any{"keys": l.Keys, "origin": l.Origin}
		if len(l.ReceiptKeys) > 0 {
			m["receipt_keys"] = l.ReceiptKeys
		}
		return m
	}
	return map[string]any{"audit": one(l.Audit), "membership": one(l.Membership)}
}

// refOf reads everything out of a state through its accessors.
func refOf(s *State) *refState {
	r := &refState{
		cluster: s.Cluster(), principals: map[string]map[string]any{}, threshold: s.AdminThreshold(), quorum: s.NodeQuorum(),
		limits: refLimits(s), logs: refLogs(s.Logs()), version: s.ProtocolVersion(),
	}
	for p := range s.Principals() {
		r.principals[p.ID] = refPrincipal(p)
	}
	return r
}

// checkState is the oracle: hashes, counts, indexes and proofs of s are those
// of the reference.
func checkState(t *testing.T, s *State) {
	t.Helper()
	r := refOf(s)
	if uint64(len(r.principals)) != s.Count() {
		t.Fatalf("epoch %d: %d principals, count is %d", s.Epoch(), len(r.principals), s.Count())
	}
	if want := hex.EncodeToString(r.membershipHash()); s.MembershipHash().String() != want {
		t.Fatalf("epoch %d: membership hash %s, want %s", s.Epoch(), s.MembershipHash(), want)
	}
	if want := hex.EncodeToString(r.identityHash()); s.IdentityHash().String() != want {
		t.Fatalf("epoch %d: cluster identity hash %s, want %s", s.Epoch(), s.IdentityHash(), want)
	}
	var nodes, changers uint64
	keys := 0
	for p := range s.Principals() {
		if p.Kind == KindNode {
			nodes++
		}
		if p.Kind == KindAdmin && len(p.KeysFor(UseChange)) > 0 {
			changers++
		}
		for _, k := range p.Keys {
			keys++
			if h, ok := s.KeyHolder(k.ID()); !ok || h.ID != p.ID {
				t.Fatalf("epoch %d: key %s of %q is found at %q", s.Epoch(), k.ID(), p.ID, h.ID)
			}
		}
	}
	if nodes != s.nodes || changers != s.changers || keys != s.keys.len() || uint64(len(s.Nodes())) != nodes {
		t.Fatalf("epoch %d: %d nodes, %d admins, %d keys; kept are %d, %d, %d",
			s.Epoch(), nodes, changers, keys, s.nodes, s.changers, s.keys.len())
	}
	ids, leaves := r.leaves()
	for i, id := range ids {
		leaf, err := s.ProveMember(id)
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Index != uint64(i) || !bytes.Equal(leaf.Data, leaves[i]) || !equalHashes(leaf.Proof, refPath(i, leaves)) {
			t.Fatalf("epoch %d: proof of %q differs from the reference", s.Epoch(), id)
		}
		if _, err := CheckMember(s.MembershipHash(), s.Count(), id, leaf); err != nil {
			t.Fatal(err)
		}
	}
}

func equalHashes(a, b [][]byte) bool {
	return bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil)) && len(a) == len(b)
}

// refRanking ranks all eligible nodes by sorting the texts of their scores.
func refRanking(s *State, execution digest.Digest, req ScheduleRequest) []string {
	var rows []string
	for p := range s.Principals() {
		ok := p.Kind == KindNode && p.TrustLevel >= req.MinTrust && len(p.KeysFor(UseAttestation)) > 0
		for k, v := range req.Labels {
			ok = ok && p.Labels[k] == v
		}
		if ok {
			rows = append(rows, hex.EncodeToString(refH("tallystick/v1/schedule-score", execution[:], []byte(p.ID)))+" "+p.ID)
		}
	}
	sort.Strings(rows)
	for i, row := range rows {
		_, rows[i], _ = strings.Cut(row, " ")
	}
	return rows
}

func refScheduleHash(s *State, execution digest.Digest, assigned []string) []byte {
	hash := s.MembershipHash()
	fields := [][]byte{execution[:], hash[:], refUint(uint64(len(assigned)))}
	for _, id := range assigned {
		fields = append(fields, []byte(id))
	}
	return refH("tallystick/v1/schedule", fields...)
}
