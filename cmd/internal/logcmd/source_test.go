package logcmd

import (
	"bytes"
	"testing"

	"filippo.io/mldsa"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestKeyPolicy: the logs that are read may sign with either type of key that a
// policy may name for a log.
func TestKeyPolicy(t *testing.T) {
	private, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := checkpoint.NewMLDSACosigner("old.example/log", private)
	if err != nil {
		t.Fatal(err)
	}
	vkey := signer.Key().Vkey()
	policy, err := keyPolicy(vkey)
	if err != nil || len(policy.Logs()) != 1 || policy.Logs()[0].Vkey != vkey || !policy.QuorumNone() {
		t.Errorf("policy of an ML-DSA-44 key: %v", err)
	}
	if _, err := keyPolicy("old.example/log+nonsense"); err == nil {
		t.Error("nonsense is taken for a key")
	}
}
