package membership

import (
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
)

// The principals' worst place for an insertion is the front: all move.
func BenchmarkApplyAdd100k(b *testing.B) {
	s := largeState(b, 99_000)
	envelope := proposeSigned(b, s, AddPrincipal{nodeOf("aaa")}, "aaa")
	for b.Loop() {
		if _, _, err := s.Apply(envelope); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApplyUpdate100k(b *testing.B) {
	s := largeState(b, 99_000)
	envelope := proposeSigned(b, s, UpdatePrincipal{ID: "node-050001", TrustLevel: 2})
	for b.Loop() {
		if _, _, err := s.Apply(envelope); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProveMember100k(b *testing.B) {
	s := largeState(b, 99_000)
	for b.Loop() {
		if _, err := s.ProveMember("node-050001"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckMember100k(b *testing.B) {
	s := largeState(b, 99_000)
	leaf, err := s.ProveMember("node-050001")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := CheckMember(s.MembershipHash(), s.Count(), "node-050001", leaf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSchedule1000(b *testing.B) {
	s := largeState(b, 1000)
	req := ScheduleRequest{Nodes: 3, Step: 2, MaxAssigned: contract.MaxAssigned, MinTrust: 1, Labels: map[string]string{"arch": "amd64"}}
	var id digest.Digest
	for b.Loop() {
		id[0]++
		id[1] += id[0]
		sch, err := s.Schedule(id, req)
		if err != nil {
			b.Fatal(err)
		}
		sch.Hash()
	}
}

// Both ways of computing a score.
func BenchmarkScore(b *testing.B) {
	b.Cleanup(func() { stateIsDigest = true })
	for _, short := range []bool{true, false} {
		b.Run(map[bool]string{true: "state", false: "sum"}[short], func(b *testing.B) {
			stateIsDigest = short
			s := newScorer(digest.Of(nil))
			for b.Loop() {
				s.compute("node-000500")
			}
		})
	}
}
