package main

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// tooMuch is a machine that must not be given the job.
type tooMuch struct{}

func (tooMuch) Run(context.Context, sandbox.Job) (*sandbox.Result, error) {
	return nil, errors.New("the job ran")
}

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

// Modules run in workers that are confined as a node's are, in every mode.
func TestReplaysRunInWorkers(t *testing.T) {
	b := wasmtest.Command()
	b.Start("")
	module := b.Bytes()
	input := []byte("input")
	c := &contract.Contract{Tenant: "acme", Module: digest.Of(module), Versions: sandbox.Metered(),
		Limits: contract.Limits{Gas: 1000, Frames: 10, MemoryPages: 1, InputBytes: 10, OutputBytes: 10, DiagnosticsBytes: 10}}
	from := &blobs{given: map[digest.Digest][]byte{c.Module: module, digest.Of(input): input}}
	r := &rerun{contract: c, input: digest.Of(input)}
	node, err := sandbox.NewPool(sandbox.PoolConfig{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	var outcomes []string
	for _, interpreter := range []bool{false, true} {
		m, err := newMachine(interpreter, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if got, want := isolationOf(m), isolationOf(node); !reflect.DeepEqual(got, want) || !slices.Contains(got.Enforced, "process") {
			t.Errorf("interpreter %t: confined by %v, a node's by %v", interpreter, got, want)
		}
		found, err := r.run(t.Context(), m, from, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		outcomes = append(outcomes, found.outcome.ResultDigest().String())
	}
	if outcomes[0] != outcomes[1] {
		t.Errorf("result digests %v", outcomes)
	}
}
