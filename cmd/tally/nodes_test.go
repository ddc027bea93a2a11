package main

import (
	"strings"
	"testing"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// What nodes say of themselves is shown, and what is wrong in words.
func TestPrintNodes(t *testing.T) {
	isolation := []string{"process", "process_group", "empty_directory", "parent_death", "no_new_privileges", "no_core_dumps", "no_file_writes",
		"open_files", "filesystem", "system_calls", "cpu_time", "address_space", "memory_watched", "memory"}
	var out strings.Builder
	printNodes(&out, &pb.ListClusterNodesResponse{Epoch: 3, NodeQuorum: 2, Nodes: []*pb.ClusterNode{
		{Id: "node-1", Connected: true, Info: &pb.NodeInfo{Capacity: 4, Engine: "wazero", Architecture: "amd64", Isolation: isolation},
			Status: &pb.NodeStatus{Running: 2, Queued: 3, Waiting: 1, Checkpoints: []*pb.SeenCheckpoint{{Origin: "c/audit", Size: 17}, {Origin: "c/membership", Size: 3}}}},
		{Id: "node-2", Connected: true, Info: &pb.NodeInfo{Capacity: 4, Engine: "wazero", Architecture: "amd64", Isolation: isolation}, Status: &pb.NodeStatus{Problems: []string{"fork", "of_a_later_release"}}},
		{Id: "node-3", Connected: true, Info: &pb.NodeInfo{Engine: "wazero", Architecture: "arm64"}, Status: &pb.NodeStatus{Draining: true}},
		{Id: "node-4", Labels: map[string]string{"b": "2", "a": "1"}},
	}})
	for _, want := range []string{"2 of 4, 4 wait", "node-1, node-2: wazero on amd64, confined by process, ", "node-3: wazero on arm64, confined by nothing\n", "audit:17,membership:3", "NOT WELL", "draining", "away", "a=1,b=2",
		"node-2 is not well: fork: it was shown two histories", "node-2 is not well: of_a_later_release\n", "epoch 3, quorum 2 of 4 nodes"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	for line := range strings.Lines(out.String()) {
		if len(line) > 100 && !strings.Contains(line, "is not well") {
			t.Errorf("a line of %d columns: %q", len(line), line)
		}
	}
}
