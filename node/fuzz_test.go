package node

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// FuzzVerify: whatever a control plane sends, the node neither panics nor
// believes it, unless it is about the one execution that the log holds.
func FuzzVerify(f *testing.F) {
	w := newWorld(f, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	n := w.node(name)
	honest := w.assignment(id)
	for _, change := range []func(a *pb.Assignment){
		func(*pb.Assignment) {},
		func(a *pb.Assignment) { a.Epochs = nil },
		func(a *pb.Assignment) { a.RequestCheckpoint = a.MembershipCheckpoint },
		func(a *pb.Assignment) { a.Reschedules = []*pb.ProvenRecord{a.Request} },
	} {
		a := proto.CloneOf(honest)
		change(a)
		data, err := proto.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &pb.Assignment{}
		if proto.Unmarshal(data, a) != nil {
			return
		}
		task, err := n.verify(t.Context(), a)
		var refusal *RefusalError
		switch {
		case err == nil && task.execution.ID != id:
			t.Fatalf("believed in execution %s", task.execution.ID)
		case err != nil && !errors.As(err, &refusal) && !errors.Is(err, ErrUnavailable):
			t.Fatalf("error outside the set: %v", err)
		}
	})
}

// FuzzEntries: an entry bundle is read within its bounds, or refused.
func FuzzEntries(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x02bc"), uint8(0), uint8(2))
	f.Add([]byte("\xff\xffa"), uint8(0), uint8(1))
	f.Add([]byte{0}, uint8(3), uint8(4))
	f.Fuzz(func(t *testing.T, data []byte, start, end uint8) {
		if start >= end {
			return
		}
		source := &treeSource{get: func(membership.LogName, string) ([]byte, error) { return data, nil }}
		tiles := &logTiles{ctx: t.Context(), source: source, log: membership.LogMembership, cache: newTileCache()}
		list, err := tiles.entries(int64(start), int64(end))
		if err != nil {
			return
		}
		total := 0
		for _, e := range list {
			total += 2 + len(e)
		}
		if len(list) != int(end-start) || total > len(data) {
			t.Fatalf("%d entries with %d bytes from %d", len(list), total, len(data))
		}
	})
}
