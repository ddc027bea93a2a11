package client

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// shown is a control plane that says of the membership what it is told to.
type shown struct {
	tallystickv1connect.ControlClient
	tallystickv1connect.MembershipClient
	checkpoint []byte
	changes    [][]byte
	err        error
}

func (s *shown) GetClusterRoot(context.Context, *connect.Request[pb.GetClusterRootRequest]) (*connect.Response[pb.GetClusterRootResponse], error) {
	return connect.NewResponse(&pb.GetClusterRootResponse{MembershipCheckpoint: s.checkpoint}), s.err
}

func (s *shown) ListChanges(_ context.Context, r *connect.Request[pb.ListChangesRequest]) (*connect.Response[pb.ListChangesResponse], error) {
	first := min(int(r.Msg.FromEpoch)-1, len(s.changes))
	last := min(first+2, len(s.changes)) // a page of two
	return connect.NewResponse(&pb.ListChangesResponse{Changes: s.changes[first:last], CurrentEpoch: uint64(len(s.changes))}), s.err
}

// TestMembers: a view of the membership is believed when it is lawful from the
// pinned genesis, cosigned, and fresh by the user's own clock; else there is
// none.
func TestMembers(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	for _, quorum := range []uint64{2, 3, 2} {
		c.Change(membership.SetNodeQuorum{Quorum: quorum})
	}
	size := c.Membership.Size()
	signed := c.Membership.Signed(size)
	verified, err := c.MembershipPolicy.Verify(signed)
	if err != nil {
		t.Fatal(err)
	}
	asOf, ok := c.MembershipPolicy.AsOf(verified)
	if !ok {
		t.Fatal("the policy has no quorum")
	}
	other := testcluster.New(t, testcluster.Options{Name: "other"})
	damaged := slices.Clone(c.Membership.Entries)
	damaged[1] = bytes.Replace(damaged[1], []byte(`"payload":"`), []byte(`"payload":"A`), 1)

	for name, tt := range map[string]struct {
		edit func(s *shown, m *MembershipTrust)
		want error
	}{
		"fresh":          {func(*shown, *MembershipTrust) {}, nil},
		"at the limit":   {func(_ *shown, m *MembershipTrust) { m.Now = at(asOf.Add(time.Minute)) }, nil},
		"just past it":   {func(_ *shown, m *MembershipTrust) { m.Now = at(asOf.Add(time.Minute + time.Second)) }, checkpoint.ErrStale},
		"of the future":  {func(_ *shown, m *MembershipTrust) { m.Now = at(asOf.Add(-2 * time.Minute)) }, checkpoint.ErrStale},
		"by default":     {func(_ *shown, m *MembershipTrust) { m.MaxAge, m.Now = 0, at(asOf.Add(14*time.Minute)) }, nil},
		"past the usual": {func(_ *shown, m *MembershipTrust) { m.MaxAge, m.Now = 0, at(asOf.Add(16*time.Minute)) }, checkpoint.ErrStale},
		"by this clock":  {func(_ *shown, m *MembershipTrust) { m.Now = nil }, checkpoint.ErrStale},
		"not cosigned": {func(s *shown, _ *MembershipTrust) {
			s.checkpoint = c.Membership.Sign(c.Membership.Checkpoint(size), 1)
		}, checkpoint.ErrQuorum},
		"nothing published":     {func(s *shown, _ *MembershipTrust) { s.checkpoint = nil }, checkpoint.ErrMalformed},
		"another genesis":       {func(s *shown, _ *MembershipTrust) { s.changes = other.Membership.Entries }, ErrMembership},
		"an unlawful change":    {func(s *shown, _ *MembershipTrust) { s.changes = damaged }, ErrMembership},
		"a change left out":     {func(s *shown, _ *MembershipTrust) { s.changes = slices.Delete(slices.Clone(s.changes), 1, 2) }, ErrMembership},
		"the last one withheld": {func(s *shown, _ *MembershipTrust) { s.changes = s.changes[:size-1] }, ErrMembership},
		"all withheld":          {func(s *shown, _ *MembershipTrust) { s.changes = nil }, ErrMembership},
		"not those witnessed": {func(s *shown, _ *MembershipTrust) {
			forked := c.Membership.Checkpoint(size)
			forked.Root[0] ^= 1
			s.checkpoint = c.Membership.Sign(forked, 3)
		}, ErrMembership},
		"one not witnessed yet": {func(s *shown, _ *MembershipTrust) { s.checkpoint = c.Membership.Signed(size - 1) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := &shown{checkpoint: signed, changes: c.Membership.Entries}
			trust := MembershipTrust{Genesis: c.Genesis, Policy: c.MembershipPolicy, MaxAge: time.Minute, Now: at(asOf)}
			tt.edit(s, &trust)
			h, err := (&Client{Control: s, Membership: s}).Members(t.Context(), trust)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err == nil && int64(h.Size()) != size {
				t.Errorf("%d epochs, want %d", h.Size(), size)
			}
		})
	}

	away := &shown{err: connect.NewError(connect.CodeUnavailable, nil)}
	if _, err := (&Client{Control: away, Membership: away}).Members(t.Context(), MembershipTrust{}); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a control plane that is away: %v", err)
	}
}

func at(t time.Time) func() time.Time { return func() time.Time { return t } }
