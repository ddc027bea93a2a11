package controlapi

import (
	"context"
	"sync"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// errReplaced ends the older of two streams of one node.
var errReplaced = refuse(CodeReplaced, "the node opened another stream: run one process with this node's key")

// Bounds of what a node says about itself. Everybody who lists nodes gets it.
const (
	maxInfoText  = 128 // bytes of one text
	maxIsolation = 32  // entries
)

// sessions are the nodes that hold an assignment stream. It is safe for
// concurrent use.
type sessions struct {
	mu     sync.Mutex
	byNode map[string]*session // guarded by mu
}

// session is one stream. It is immutable.
type session struct {
	info *pb.NodeInfo // what the node says: not trusted
	end  context.CancelCauseFunc
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

// describe adds to each node whether it is connected and what it says of itself.
func (s *sessions) describe(nodes []*pb.ClusterNode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range nodes {
		if found := s.byNode[n.Id]; found != nil {
			n.Connected, n.Info = true, found.info
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

var errInfo = refuse(CodeMalformed, "info: at most %d entries of isolation, and texts of at most %d bytes: shorten it", maxIsolation, maxInfoText)
