package controlapi

import (
	"context"
	"sync"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// errReplaced ends the older of two streams of one node.
var errReplaced = refuse(CodeReplaced, "the node opened another stream: run one process with this node's key")

// Bounds of what a node says about itself. Everybody who lists nodes gets it.
const (
	maxInfoText  = 128 // bytes of one text
	maxIsolation = 32  // entries
	maxProblems  = 16  // codes
	maxSeen      = 4   // checkpoints: there are two logs
	maxWorking   = 32  // executions
)

// sessions are the nodes that hold an assignment stream. It is safe for
// concurrent use.
type sessions struct {
	mu     sync.Mutex
	byNode map[string]*session // guarded by mu
}

// session is one stream. The messages are immutable.
type session struct {
	info   *pb.NodeInfo   // what the node says: not trusted
	status *pb.NodeStatus // guarded by sessions.mu: what it said last, nil before; not trusted
	end    context.CancelCauseFunc
}

func newSessions() *sessions { return &sessions{byNode: make(map[string]*session)} }

// open registers a stream and ends the one that the node had before.
func (s *sessions) open(node string, info *pb.NodeInfo, end context.CancelCauseFunc) *session {
	mine := &session{info: info, end: end}
	s.mu.Lock()
	before := s.byNode[node]
	s.byNode[node] = mine
	s.mu.Unlock()
	if before != nil {
		before.end(errReplaced)
	}
	return mine
}

// close forgets a stream, unless another has taken its place.
func (s *sessions) close(node string, mine *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byNode[node] == mine {
		delete(s.byNode, node)
	}
}

// report keeps what a node that holds a stream says of itself.
func (s *sessions) report(node string, status *pb.NodeStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.byNode[node]; found != nil {
		found.status = status
	}
}

// describe adds to each node whether it is connected and what it says of itself.
func (s *sessions) describe(nodes []*pb.ClusterNode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range nodes {
		if found := s.byNode[n.Id]; found != nil {
			n.Connected, n.Info, n.Status = true, found.info, found.status
		}
	}
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byNode)
}

// checkInfo bounds what a node says about itself.
func checkInfo(info *pb.NodeInfo) error {
	texts := append([]string{info.GetSoftwareVersion(), info.GetArchitecture(), info.GetEngine()}, info.GetIsolation()...)
	if len(info.GetIsolation()) > maxIsolation {
		return errInfo
	}
	for _, t := range texts {
		if len(t) > maxInfoText {
			return errInfo
		}
	}
	return nil
}

// checkStatus bounds what a node reports. Everybody who lists nodes gets it.
func checkStatus(status *pb.NodeStatus) error {
	if len(status.GetCheckpoints()) > maxSeen || len(status.GetProblems()) > maxProblems || len(status.GetWorking()) > maxWorking {
		return errStatus
	}
	for _, c := range status.GetCheckpoints() {
		if len(c.GetOrigin()) > maxInfoText || len(c.GetRootHash()) != digest.Size {
			return errStatus
		}
	}
	for _, code := range status.GetProblems() {
		if !orchestrator.IsNodeCode(code) {
			return errStatus
		}
	}
	return nil
}

var errStatus = refuse(CodeMalformed, "status: at most %d checkpoints with an origin of at most %d bytes and a root hash, %d problems that are codes of a to z and _, and %d executions: shorten it",
	maxSeen, maxInfoText, maxProblems, maxWorking)

var errInfo = refuse(CodeMalformed, "info: at most %d entries of isolation, and texts of at most %d bytes: shorten it", maxIsolation, maxInfoText)
