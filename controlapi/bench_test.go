package controlapi

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/token"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// BenchmarkSubmit is the cost of the edge itself: client, HTTP, token, quotas
// and codec around a core that does nothing.
func BenchmarkSubmit(b *testing.B) {
	w := newWorld(b, nil)
	client := rpc.NewControlClient(&http.Client{Transport: &token.Transport{
		Source: &token.Source{Principal: "alice", Cluster: testCluster, Key: keyOf("alice")},
		Base:   &http.Transport{MaxIdleConnsPerHost: 64},
	}}, w.url)
	var n atomic.Int64
	b.SetParallelism(16)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			_, err := client.SubmitExecutionRequest(b.Context(), connect.NewRequest(&pb.SubmitExecutionRequestRequest{
				Submission: strconv.AppendInt(nil, n.Add(1), 10),
			}))
			if err != nil {
				b.Error(err)
			}
		}
	})
}
