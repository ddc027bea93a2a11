package contract

import (
	"crypto"
	"crypto/ed25519"
	"errors"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
)

// An Authority says whose statements count: those made for Cluster and signed
// by one of the keys that Keys returns for the tenant that they name. Keys is
// called with an identifier that is well formed and otherwise untrusted; it
// returns nil for a tenant that does not exist. It decides the epoch and the key
// use (contract or submission).
type Authority struct {
	Cluster string
	Keys    func(tenant string) []ed25519.PublicKey
}

// Signed is a statement whose envelope was verified.
type Signed[T any] struct {
	Value   *T
	Payload []byte            // as signed
	Hash    digest.Digest     // SHA-256 of Payload: the contract hash of a contract
	Key     ed25519.PublicKey // the one key that signed
}

// OpenContract reads and verifies a contract's envelope. Errors of the four
// Open functions are [*RefusalError].
func OpenContract(envelope []byte, a Authority) (*Signed[Contract], error) {
	return open[Contract](envelope, a)
}

// OpenRetirement reads and verifies a retirement's envelope.
func OpenRetirement(envelope []byte, a Authority) (*Signed[Retirement], error) {
	return open[Retirement](envelope, a)
}

// OpenSubmission reads and verifies a submission's envelope.
func OpenSubmission(envelope []byte, a Authority) (*Signed[Submission], error) {
	return open[Submission](envelope, a)
}

// OpenCancellation reads and verifies a cancellation's envelope.
func OpenCancellation(envelope []byte, a Authority) (*Signed[Cancellation], error) {
	return open[Cancellation](envelope, a)
}

func open[T any, P statement[T]](envelope []byte, a Authority) (*Signed[T], error) {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return nil, refuseCause(RefusedEnvelope, err)
	}
	var v *T
	if want := P(v).payloadType(); e.PayloadType != want {
		return nil, refuse(RefusedEnvelope, "payload type %q, want %q", e.PayloadType, want)
	}
	if v, err = parse[T, P](e.Payload); err != nil {
		return nil, err
	}
	cluster, tenant := P(v).scope()
	if cluster != a.Cluster {
		return nil, refuse(RefusedCluster, "made for cluster %q, this is %q", cluster, a.Cluster)
	}
	if n := len(e.Signatures); n != 1 {
		return nil, refuse(RefusedSigner, "%d signatures, want one", n)
	}
	signed, err := e.VerifyWith(e.PayloadType, a.Keys(tenant))
	switch {
	case errors.Is(err, dsse.ErrBadSignature):
		return nil, refuseCause(RefusedSignature, err)
	case err != nil:
		return nil, &RefusalError{Code: RefusedSigner, Detail: "tenant \"" + tenant + "\": " + err.Error(), Cause: err}
	}
	return &Signed[T]{Value: v, Payload: e.Payload, Hash: digest.Of(e.Payload), Key: signed[0]}, nil
}

// Sign returns the canonical envelope of a valid statement, signed by key, and
// the statement's hash. v is a *Contract, *Retirement, *Submission or
// *Cancellation; key is an Ed25519 key, here or in a key service.
func Sign[T any, P statement[T]](v P, key crypto.Signer) (envelope []byte, hash digest.Digest, err error) {
	payload, err := marshal[T](v)
	if err != nil {
		return nil, digest.Digest{}, err
	}
	signer, err := dsse.NewSigner(key)
	if err != nil {
		return nil, digest.Digest{}, refuseCause(RefusedSigner, err)
	}
	e, err := dsse.Sign(v.payloadType(), payload, signer)
	if err != nil {
		return nil, digest.Digest{}, refuseCause(RefusedSigner, err)
	}
	if envelope, err = e.Marshal(); err != nil {
		return nil, digest.Digest{}, refuseCause(RefusedEnvelope, err)
	}
	return envelope, digest.Of(payload), nil
}
