package main

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
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

// oneDigest checks that a command has one argument, which names a thing by a digest.
func oneDigest(thing, name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(1)(cmd, args); err != nil {
			return err
		}
		if _, err := digest.Parse(args[0]); err != nil {
			return wiring.Usage(cmd, fmt.Errorf("%s %q: %s has 64 lowercase hexadecimal characters", thing, args[0], name))
		}
		return nil
	}
}

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
