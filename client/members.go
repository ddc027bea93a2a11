package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// ErrMembership says that what the control plane showed of the membership is
// not what the user's genesis and witnesses say. It is no reason to try again:
// another cluster answers, or one that lies.
var ErrMembership = errors.New("client: the membership shown is not the cluster's")

// changesPage is how many changes are asked for at a time.
const changesPage = 256

// MembershipTrust is what a user relies on for who the members are.
type MembershipTrust struct {
	Genesis []byte             // envelope of the first change, pinned
	Policy  *checkpoint.Policy // of the membership log
	// MaxAge is how old the cosignatures may be that make up the quorum; 0 means
	// checkpoint.DefaultMaxAge. An older view may hide that a key was revoked.
	MaxAge time.Duration
	Now    func() time.Time // nil means time.Now
}

// VerifyCheckpoint checks a membership checkpoint under the policy and for its
// age. One that is too old is checkpoint.ErrStale.
func (t MembershipTrust) VerifyCheckpoint(signed []byte) (*checkpoint.Verified, error) {
	now, maxAge := time.Now(), t.MaxAge
	if t.Now != nil {
		now = t.Now()
	}
	if maxAge == 0 {
		maxAge = checkpoint.DefaultMaxAge
	}
	verified, err := t.Policy.VerifyFresh(signed, now, maxAge)
	if err != nil {
		return nil, fmt.Errorf("membership checkpoint: %w", err)
	}
	return verified, nil
}

// Members fetches every change of the membership and replays it. What it
// returns is lawful from the pinned genesis on, and covered by a checkpoint that
// is fresh and cosigned, except that changes of the last moments may not be
// covered yet: they are lawful, but nobody but the control plane vouches that
// they are the ones.
func (c *Client) Members(ctx context.Context, trust MembershipTrust) (*membership.History, error) {
	root, err := c.Control.GetClusterRoot(ctx, connect.NewRequest(&pb.GetClusterRootRequest{}))
	if err != nil {
		return nil, err
	}
	verified, err := trust.VerifyCheckpoint(root.Msg.MembershipCheckpoint)
	if err != nil {
		return nil, err
	}
	h := membership.NewHistory()
	for {
		res, err := c.Membership.ListChanges(ctx, connect.NewRequest(&pb.ListChangesRequest{FromEpoch: h.Size() + 1, PageSize: changesPage}))
		if err != nil {
			return nil, err
		}
		for _, envelope := range res.Msg.Changes {
			if h.Size() == 0 && !bytes.Equal(envelope, trust.Genesis) {
				return nil, fmt.Errorf("%w: its genesis is another one: this is another cluster, or one that lies", ErrMembership)
			}
			if _, err := h.Append(envelope); err != nil {
				return nil, fmt.Errorf("%w: change %d: %w", ErrMembership, h.Size()+1, err)
			}
		}
		if h.Size() >= res.Msg.CurrentEpoch || len(res.Msg.Changes) == 0 {
			break
		}
	}
	size := uint64(verified.Checkpoint.Size)
	if size > h.Size() {
		return nil, fmt.Errorf("%w: changes are withheld: %d epochs are witnessed, %d were shown", ErrMembership, size, h.Size())
	}
	hash, err := h.Root(size)
	if err != nil {
		return nil, err
	}
	if hash != verified.Checkpoint.Root {
		return nil, fmt.Errorf("%w: the changes shown are not those that the witnesses cosigned", ErrMembership)
	}
	return h, nil
}
