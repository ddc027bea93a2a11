package wholelog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
	"github.com/tallystick/tallystick/verifier/wholelog"
)

// world makes a cluster at epoch 2 with two executions, one of them complete.
func world(t *testing.T) *testcluster.Cluster {
	t.Helper()
	c := testcluster.New(t, testcluster.Options{})
	contract := c.Register(nil)
	c.Run(c.Submit(contract, []byte("one")), testcluster.OK("output"))
	c.AddNode("node-4")
	c.Submit(contract, []byte("two"))
	return c
}

// fetch serves a log at a size.
func fetch(l *testcluster.Log, size int64) tiles.Fetch {
	return func(_ context.Context, path string, _ int64) ([]byte, error) {
		if path == "checkpoint" {
			return l.Signed(size), nil
		}
		data, ok := l.Tile(path)
		if !ok {
			return nil, fmt.Errorf("%w: %q", tiles.ErrNotFound, path)
		}
		return data, nil
	}
}

// source reads a log at a size as its readers do.
func source(t *testing.T, l *testcluster.Log, policy *checkpoint.Policy, size int64) *tiles.Source {
	t.Helper()
	s, err := tiles.OpenSource(t.Context(), fetch(l, size), policy, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// audit reads the audit log of a cluster.
func audit(t *testing.T, c *testcluster.Cluster) *tiles.Source {
	t.Helper()
	return source(t, c.Audit, c.AuditPolicy, c.Audit.Size())
}

// from returns the elements of a list in turn, and then end.
func from[T any](list []T, end error) func() (T, error) {
	return func() (first T, err error) {
		if len(list) == 0 {
			return first, end
		}
		first, list = list[0], list[1:]
		return first, nil
	}
}

// all are the elements of a list, and then err if there is one.
func all[T any](list []T, err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, x := range list {
			if !yield(x, nil) {
				return
			}
		}
		var none T
		if err != nil {
			yield(none, err)
		}
	}
}

// read is the log that the entries of a cluster make.
func read(t *testing.T, c *testcluster.Cluster) *wholelog.Log {
	t.Helper()
	log, err := wholelog.Read(wholelog.Opened(t.Context(), audit(t, c), from(c.Audit.Openings, io.EOF)), c.History, nil)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// What is read of a log is what its writer has, at every size that it had.
func TestRead(t *testing.T) {
	c := world(t)
	var seen []int64
	log, err := wholelog.Read(wholelog.Opened(t.Context(), audit(t, c), from(c.Audit.Openings, io.EOF)), c.History, func(index int64) { seen = append(seen, index) })
	if err != nil {
		t.Fatal(err)
	}
	if log.Tree != c.Audit.Checkpoint(c.Audit.Size()).Tree() || len(log.Voids) != 0 || len(log.VoidCounts) != 0 || log.VoidCounts == nil {
		t.Errorf("read %+v, voids %v %v", log.Tree, log.Voids, log.VoidCounts)
	}
	for i, index := range seen {
		if index != int64(i) {
			t.Fatalf("progress %v", seen)
		}
	}
	if int64(len(seen)) != c.Audit.Size() {
		t.Errorf("progress %v, %d entries", seen, c.Audit.Size())
	}
	executions := 0
	for ex := range log.Fold.Executions() {
		executions++
		if want := c.Execution(ex.ID); ex.State != want.State || ex.ChainHead() != want.ChainHead() {
			t.Errorf("%s is %s, want %s", ex.ID, ex.State, want.State)
		}
	}
	if executions != 2 {
		t.Errorf("%d executions", executions)
	}
	for size := range c.Audit.Size() + 1 {
		root, err := log.Root(size)
		if want := c.Audit.Checkpoint(size).Root; err != nil || root != want {
			t.Errorf("root at %d: %v, %v, want %v", size, root, err, want)
		}
	}
	for _, size := range []int64{-1, c.Audit.Size() + 1} {
		if root, err := log.Root(size); !errors.Is(err, wholelog.ErrSize) {
			t.Errorf("root at %d: %v, %v", size, root, err)
		}
	}
}

// A log without entries is one.
func TestReadNothing(t *testing.T) {
	log, err := wholelog.Read(all[wholelog.Entry](nil, nil), world(t).History, nil)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := log.Root(0); err != nil || log.Tree != (tlog.Tree{Hash: root}) {
		t.Errorf("%+v, root %v, %v", log.Tree, root, err)
	}
}

// A log is read as far as there are openings.
func TestReadAsFarAsOpened(t *testing.T) {
	c := world(t)
	early := c.Audit.Size() - 2
	log, err := wholelog.Read(wholelog.Opened(t.Context(), audit(t, c), from(c.Audit.Openings[:early], io.EOF)), c.History, nil)
	if err != nil || log.Tree != c.Audit.Checkpoint(early).Tree() {
		t.Errorf("%+v, %v", log, err)
	}
}

// Void records are counted by code, and listed up to a bound.
func TestVoids(t *testing.T) {
	c := world(t)
	first := c.Audit.Size()
	const more = 2
	for range wholelog.MaxVoids + more {
		c.Append(&pb.Record{Cluster: "another", Body: &pb.Record_Operation{Operation: &pb.OperationRecord{Code: "ok"}}})
	}
	opening, err := record.NewOpening([record.SaltSize]byte{1}, []byte("no record"))
	if err != nil {
		t.Fatal(err)
	}
	entry := opening.Entry()
	c.Audit.Append(entry[:], opening.Bytes())
	log := read(t, c)
	if len(log.Voids) != wholelog.MaxVoids || log.VoidCounts[provenance.CodeOtherCluster] != wholelog.MaxVoids+more || log.VoidCounts[provenance.CodeNoRecord] != 1 {
		t.Errorf("%d listed, counted %v", len(log.Voids), log.VoidCounts)
	}
	if v := log.Voids[0]; v.Index != first || v.Kind != record.KindOperation || v.Code != provenance.CodeOtherCluster || !strings.Contains(v.Detail, "another") {
		t.Errorf("the first is %+v", v)
	}
}

// Whatever is wrong has its error, and then nothing is known of the log.
func TestReadRefuses(t *testing.T) {
	c := world(t)
	behind := membership.NewHistory()
	if _, err := behind.Append(c.Genesis); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	swapped := slices.Clone(c.Audit.Openings)
	swapped[1] = swapped[2]
	for name, test := range map[string]struct {
		next    func() ([]byte, error)
		members *membership.History
		want    error
	}{
		"another opening":   {from(swapped, io.EOF), c.History, provenance.ErrOpening},
		"no opening":        {from([][]byte{nil}, io.EOF), c.History, provenance.ErrOpening},
		"an old membership": {from(c.Audit.Openings, io.EOF), behind, wholelog.ErrMembershipBehind},
		"a broken file":     {from(c.Audit.Openings[:1], broken), c.History, broken},
	} {
		log, err := wholelog.Read(wholelog.Opened(t.Context(), audit(t, c), test.next), test.members, nil)
		if log != nil || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v, want %v", name, log, err, test.want)
		}
	}
}

// What reading a log fails with comes back, and nothing of the log is used after it.
func TestSourceFails(t *testing.T) {
	c := world(t)
	broken := errors.New("broken")
	s, err := tiles.OpenSource(t.Context(), func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if strings.Contains(path, "entries") {
			return nil, broken
		}
		return fetch(c.Audit, c.Audit.Size())(ctx, path, limit)
	}, c.AuditPolicy, 0)
	if err != nil {
		t.Fatal(err)
	}
	if log, err := wholelog.Read(wholelog.Opened(t.Context(), s, from(c.Audit.Openings, io.EOF)), c.History, nil); log != nil || !errors.Is(err, broken) {
		t.Errorf("%v, %v", log, err)
	}
	if members, err := wholelog.Membership(wholelog.Entries(t.Context(), s), c.Genesis); members != nil || !errors.Is(err, broken) {
		t.Errorf("%v, %v", members, err)
	}
}

// Iterations end where their reader wants them to.
func TestIterationsEnd(t *testing.T) {
	c := world(t)
	s := audit(t, c)
	n := 0
	for entry, err := range wholelog.Entries(t.Context(), s) {
		if err != nil || !bytes.Equal(entry, c.Audit.Entries[n]) {
			t.Fatalf("entry %d: %x, %v", n, entry, err)
		}
		if n++; n == 2 {
			break
		}
	}
	for entry, err := range wholelog.Opened(t.Context(), s, from(c.Audit.Openings, io.EOF)) {
		if err != nil || !bytes.Equal(entry.Opening, c.Audit.Openings[0]) {
			t.Fatalf("%x, %v", entry.Opening, err)
		}
		n++
		break
	}
	if n != 3 {
		t.Errorf("%d entries", n)
	}
}

// A file of openings must be of the log, and of the tree that it had.
func TestCheckOpenings(t *testing.T) {
	c := world(t)
	size := c.Audit.Size()
	s := source(t, c.Audit, c.AuditPolicy, size-1)
	for name, test := range map[string]struct {
		origin string
		tree   tlog.Tree
		want   error
	}{
		"now":          {c.Audit.Origin, c.Audit.Checkpoint(size - 1).Tree(), nil},
		"before":       {c.Audit.Origin, c.Audit.Checkpoint(3).Tree(), nil},
		"later":        {c.Audit.Origin, c.Audit.Checkpoint(size).Tree(), nil},
		"another log":  {c.Membership.Origin, c.Audit.Checkpoint(3).Tree(), wholelog.ErrOtherLog},
		"another tree": {c.Audit.Origin, tlog.Tree{N: 3, Hash: c.Audit.Checkpoint(4).Root}, wholelog.ErrOtherTree},
	} {
		openings, err := provenance.NewOpeningReader(bytes.NewReader(provenance.FormatOpenings(test.origin, test.tree)))
		if err != nil {
			t.Fatal(err)
		}
		if err := wholelog.CheckOpenings(t.Context(), s, openings); !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// A membership log begins with the pinned genesis and holds lawful changes.
func TestMembership(t *testing.T) {
	c := world(t)
	changes := c.Membership.Entries
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		changes [][]byte
		end     error
		genesis []byte
		want    error
	}{
		"all":              {changes, nil, c.Genesis, nil},
		"another genesis":  {changes, nil, changes[1], wholelog.ErrGenesis},
		"not from genesis": {changes[1:], nil, c.Genesis, wholelog.ErrGenesis},
		"one twice":        {append(changes[:2:2], changes[1]), nil, c.Genesis, wholelog.ErrChange},
		"no change":        {append(changes[:1:1], []byte("{}")), nil, c.Genesis, wholelog.ErrChange},
		"nothing":          {nil, nil, c.Genesis, wholelog.ErrNoMembership},
		"broken":           {changes[:1], broken, c.Genesis, broken},
	} {
		members, err := wholelog.Membership(all(test.changes, test.end), test.genesis)
		if !errors.Is(err, test.want) || (members == nil) == (err == nil) || test.want == nil && err != nil {
			t.Errorf("%s: %v, %v, want %v", name, members, err, test.want)
		}
		if err == nil && members.Current().MembershipHash() != c.History.Current().MembershipHash() {
			t.Errorf("%s: another membership", name)
		}
	}
	s := source(t, c.Membership, c.MembershipPolicy, c.Membership.Size())
	if members, err := wholelog.Membership(wholelog.Entries(t.Context(), s), c.Genesis); err != nil || members.Size() != c.History.Size() {
		t.Errorf("from the log: %v, %v", members, err)
	}
}
