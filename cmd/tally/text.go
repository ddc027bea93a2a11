package main

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// policy reads one of the profile's policy files.
func (p *profile) policy(name string) (*checkpoint.Policy, error) {
	text, err := os.ReadFile(p.file(name))
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	policy, err := checkpoint.ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", p.file(name), err)
	}
	return policy, nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func digestOf(data []byte) string { return digest.Of(data).String() }

// submittedID is the execution id that a signed submission asks for.
func submittedID(envelope []byte) (digest.Digest, error) {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return digest.Digest{}, err
	}
	s, err := contract.ParseSubmission(e.Payload)
	if err != nil {
		return digest.Digest{}, err
	}
	return s.ExecutionID(), nil
}
