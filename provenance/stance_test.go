package provenance_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/provenance"
)

// Every stance, in the order in which the attestations came.
func TestStances(t *testing.T) {
	checkpoint := func(st *provenance.Statement) { st.RequestCheckpoint.RootHash[0] ^= 1 }
	for _, test := range []struct {
		name  string
		play  func(s *scene)
		want  string
		nodes int // that are divergent
	}{
		{"open", func(s *scene) { s.Append(s.attestation(0, nil)) }, "[undecided]", 0},
		{"void while open", func(s *scene) {
			s.Append(s.attestation(0, nil))
			s.Append(s.attestation(0, outputs("b")))
		}, "[void void]", 1},
		{"cancelled", func(s *scene) {
			s.Append(s.attestation(0, nil))
			s.Append(s.cancellation(nil))
		}, "[undecided]", 0},
		{"complete", func(s *scene) {
			s.Append(s.attestation(2, outputs("b")))
			s.Append(s.attestation(0, nil))
			s.Append(s.attestation(1, nil))
		}, "[differs agrees agrees]", 1},
		{"another checkpoint", func(s *scene) {
			s.Append(s.attestation(2, checkpoint))
			s.Append(s.attestation(0, nil))
			s.Append(s.attestation(1, nil))
		}, "[checkpoint agrees agrees]", 1},
		{"late", func(s *scene) {
			s.Append(s.RescheduleRecord(s.id))
			s.derive(t)
			s.Append(s.attestation(2, nil))
			s.Append(s.attestation(3, outputs("b")))
			s.Append(s.attestation(0, outputs("b")))
		}, "[void agrees late differs void]", 2},
		{"diverged", func(s *scene) {
			s.Append(s.RescheduleRecord(s.id))
			s.Append(s.RescheduleRecord(s.id))
			for n := range 5 {
				s.Append(s.attestation(n, outputs(fmt.Sprint(n))))
			}
		}, "[disputed disputed disputed disputed disputed]", 5},
	} {
		s := newScene(t)
		test.play(s)
		ex := s.Execution(s.id)
		have := []provenance.Stance{}
		for _, a := range ex.Attestations {
			have = append(have, ex.Stance(a))
		}
		if fmt.Sprint(have) != test.want || len(ex.Divergence()) != test.nodes {
			t.Errorf("%s: stances %v, %d nodes divergent, want %s and %d", test.name, have, len(ex.Divergence()), test.want, test.nodes)
		}
	}
}

// Passed over is who was assigned before the last attempt began, and had not been
// heard when the execution was decided.
func TestPassedOver(t *testing.T) {
	for _, test := range []struct {
		name string
		play func(s *scene)
		want []int // ranks
	}{
		{"the first attempt", func(s *scene) { s.Append(s.attestation(1, nil)) }, nil},
		{"the second", func(s *scene) { s.Append(s.RescheduleRecord(s.id)) }, []int{0, 1, 2}},
		{"heard, before and after", func(s *scene) {
			s.Append(s.attestation(1, nil))
			s.Append(s.RescheduleRecord(s.id))
			s.Append(s.attestation(0, outputs("b")))
		}, []int{2}},
		{"heard when it was too late", func(s *scene) {
			s.Append(s.attestation(1, nil))
			s.Append(s.RescheduleRecord(s.id))
			s.Append(s.attestation(3, nil))
			s.Append(s.attestation(0, nil))
		}, []int{0, 2}},
	} {
		s := newScene(t)
		test.play(s)
		ex := s.Execution(s.id)
		var want []string
		for _, rank := range test.want {
			want = append(want, ex.Schedule.Ranking[rank])
		}
		if got := ex.PassedOver(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v of %v", test.name, got, want, ex.Schedule.Ranking)
		}
	}
}
