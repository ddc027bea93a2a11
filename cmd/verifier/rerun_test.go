package main

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
)

// tooMuch is a machine that must not be given the job.
type tooMuch struct{}

func (tooMuch) Run(context.Context, sandbox.Job) (*sandbox.Result, error) {
	return nil, errors.New("the job ran")
}
func (tooMuch) Close() error { return nil }

// The input is not joined beyond the contract's limit: what is behind is not read.
func TestInputIsJoinedUpToItsLimit(t *testing.T) {
	list := [][]byte{[]byte("module"), []byte("eight by"), []byte("tes each"), []byte("more")}
	var read []int
	from := &blobs{places: []func(context.Context, digest.Digest) ([]byte, error){func(_ context.Context, d digest.Digest) ([]byte, error) {
		n := slices.IndexFunc(list, func(b []byte) bool { return digest.Of(b) == d })
		read = append(read, n)
		return list[n], nil
	}}}
	r := &rerun{contract: &contract.Contract{Module: digest.Of(list[0]), Limits: contract.Limits{InputBytes: 15}, Versions: contract.Versions{HostInterface: 1}},
		input: digest.Of(list[3])}
	for _, b := range list[1:3] {
		r.parents = append(r.parents, parentOutput{output: digest.Of(b)})
	}
	_, err := r.run(t.Context(), tooMuch{}, from, 0)
	if code, _ := classify(err); code != exitNoOutcome || !slices.Equal(read, []int{0, 1, 2}) {
		t.Errorf("%v, exit code %d, read %v", err, code, read)
	}
	r.contract.Limits.InputBytes = 20 // all of it
	if _, err := r.run(t.Context(), tooMuch{}, from, 0); err == nil || !slices.Contains(read, 3) {
		t.Errorf("%v, read %v", err, read)
	}
}
