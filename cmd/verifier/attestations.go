package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/verifier"
)

// writeAttestations writes the attestations of a proven execution, and the keys
// that signed them, in the forms that in-toto's and sigstore's tools read.
func writeAttestations(dir string, r *verifier.Report) error {
	nodes := slices.Clone(r.Execution.Nodes)
	for _, d := range r.Execution.Dissent {
		nodes = append(nodes, d.Node)
	}
	seen := map[string]int{}
	for _, n := range nodes {
		envelope, err := withoutKeyID(n.Envelope)
		if err != nil {
			return err
		}
		key, err := x509.MarshalPKIXPublicKey(n.Key)
		if err != nil {
			return fmt.Errorf("key of %q: %w", n.ID, err)
		}
		name := n.ID
		if seen[n.ID]++; seen[n.ID] > 1 { // a node that attested twice
			name = fmt.Sprintf("%s-%d", n.ID, seen[n.ID])
		}
		for suffix, data := range map[string][]byte{
			".intoto.json": envelope,
			".pem":         pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key}),
		} {
			if err := writeFile(filepath.Join(dir, name+suffix), data); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutKeyID empties an envelope's keyid. It is a hint that the signature does
// not cover, and other tools compare it with fingerprints of their own making.
func withoutKeyID(envelope []byte) ([]byte, error) {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	for _, s := range e.Signatures {
		envelope = bytes.Replace(envelope, []byte(`"keyid":"`+s.KeyID+`"`), []byte(`"keyid":""`), 1)
	}
	return envelope, nil
}
