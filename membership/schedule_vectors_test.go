package membership

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

func TestVectorsSchedule(t *testing.T) {
	f := foundingOf(t, testCluster)
	signers := []string{"alice", "bob", "carol", "node-0"}
	for i := range 12 {
		n := nodeOf(fmt.Sprint("node-", i+1))
		n.TrustLevel, n.Labels = uint64(i%3), map[string]string{"arch": []string{"amd64", "arm64"}[i%2]}
		if i == 5 {
			n.Keys[0].Uses = []Use{UseToken} // never eligible
		}
		if i%4 == 0 {
			n.Labels["zone"] = "eu-1"
		}
		f.Principals = append(f.Principals, n)
		signers = append(signers, n.ID)
	}
	payload, err := ProposeGenesis(testCluster, f)
	if err != nil {
		t.Fatal(err)
	}
	envelope := sign(t, payload, signers...)
	s, _, err := Genesis(envelope)
	if err != nil {
		t.Fatal(err)
	}

	type request struct {
		Nodes       uint64            `json:"nodes"`
		Step        uint64            `json:"step"`
		MaxAssigned uint64            `json:"max_assigned"`
		MinTrust    uint64            `json:"min_trust_level"`
		Labels      map[string]string `json:"node_labels"`
	}
	type rank struct {
		Node  string `json:"node"`
		Score string `json:"score"`
	}
	type schedule struct {
		ExecutionID digest.Digest  `json:"execution_id"`
		Request     request        `json:"request"`
		Eligible    []string       `json:"eligible"`
		TooFew      bool           `json:"too_few_eligible"`
		Ranking     []rank         `json:"ranking,omitempty"`
		Attempts    [][]string     `json:"attempts,omitempty"`
		Hash        *digest.Digest `json:"cluster_schedule_hash,omitempty"`
	}
	file := struct {
		About     string        `json:"about"`
		Genesis   string        `json:"genesis"` // envelope; keys are those of membership/chain.json and of the nodes
		Hash      digest.Digest `json:"membership_hash"`
		Schedules []schedule    `json:"schedules"`
	}{
		About: "Schedules at epoch 1 of the cluster that the genesis envelope begins, docs/formats/membership.md. " +
			"The ranking ends with the last node that any attempt assigns.",
		Genesis: string(envelope), Hash: s.MembershipHash(),
	}
	for i, r := range []request{
		{1, 0, 1, 0, nil},
		{3, 1, 5, 0, nil},
		{3, 2, 64, 0, nil},
		{2, 1, 4, 1, nil},
		{2, 3, 8, 0, map[string]string{"arch": "arm64"}},
		{1, 1, 3, 1, map[string]string{"arch": "amd64", "zone": "eu-1"}},
		{5, 0, 5, 2, map[string]string{"arch": "amd64"}},
		{12, 0, 12, 0, nil},
		{13, 0, 13, 0, nil},
		{1, 1, 2, 0, map[string]string{"arch": "riscv64"}},
	} {
		for j := range 2 {
			id := digest.Of([]byte(fmt.Sprintf("execution %d.%d", i, j)))
			v := schedule{ExecutionID: id, Request: r, Eligible: append([]string{}, s.Eligible(r.MinTrust, r.Labels)...)}
			sch, err := s.Schedule(id, ScheduleRequest(r))
			if errors.Is(err, ErrTooFewEligible) {
				v.TooFew = true
			} else if err != nil {
				t.Fatal(err)
			} else {
				for _, node := range sch.Ranking {
					score := refH("tallystick/v1/schedule-score", id[:], []byte(node))
					v.Ranking = append(v.Ranking, rank{node, hex.EncodeToString(score)})
				}
				for a := range sch.Attempts() {
					v.Attempts = append(v.Attempts, sch.Assigned(a))
				}
				hash := sch.Hash()
				v.Hash = &hash
			}
			file.Schedules = append(file.Schedules, v)
		}
	}
	golden(t, "schedule/schedules.json", file)
}
