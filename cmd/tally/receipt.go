package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// checkReceipt holds the control plane to its answer: the receipt must bind the
// log that the user's genesis names to a record of exactly what the user
// signed. Log keys may have been rotated since the genesis; then the
// replayed membership says which ones count now.
func checkReceipt(ctx context.Context, p *profile, c *client.Client, r *pb.Receipt, envelope []byte) error {
	genesis, err := os.ReadFile(p.file(p.Genesis))
	if err != nil {
		return fmt.Errorf("reading the genesis: %w", err)
	}
	state, _, err := membership.Genesis(genesis)
	if err != nil {
		return fmt.Errorf("%q: %w", p.file(p.Genesis), err)
	}
	rec, err := client.VerifyReceipt(state.Logs().Audit, r)
	if errors.Is(err, client.ErrReceipt) {
		h, herr := history(ctx, p, c)
		if herr != nil {
			return errors.Join(err, herr)
		}
		rec, err = client.VerifyReceipt(h.Current().Logs().Audit, r)
	}
	if err != nil {
		return err
	}
	var recorded []byte
	switch {
	case rec.GetRequest() != nil:
		recorded = rec.GetRequest().Envelope
	case rec.GetContract() != nil:
		recorded = rec.GetContract().Envelope
	}
	// A duplicate's record holds the envelope of the first time, perhaps signed
	// with another key: what was signed must be the same.
	theirs, err := dsse.Parse(recorded)
	if err != nil {
		return fmt.Errorf("%w: %w", client.ErrReceipt, err)
	}
	ours, err := dsse.Parse(envelope)
	if err != nil {
		return err
	}
	if theirs.PayloadType != ours.PayloadType || !bytes.Equal(theirs.Payload, ours.Payload) {
		return fmt.Errorf("%w: its record holds something else than what you signed", client.ErrReceipt)
	}
	return nil
}
