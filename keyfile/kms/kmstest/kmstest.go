// Package kmstest is a key management service for tests: a plugin executable that
// speaks sigstore's protocol and keeps its keys in files. A test binary becomes
// the plugin when it is run under the name sigstore-kms-<scheme>.
package kmstest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

// Main is the plugin. A key's name is DIR/KIND: what the service does is decided
// by the kind and by files in the directory. Kinds are ed25519, ed25519ph, ecdsa,
// rsa, and liar, which signs with another key. A file "down" makes every call
// fail, and one "stuck" makes it never end.
func Main() {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		_ = handler.WriteErrorResponse(os.Stdout, err)
		return
	}
	dir, kind := filepath.Split(args.InitOptions.KeyResourceID)
	if _, err := os.Stat(filepath.Join(dir, "stuck")); err == nil {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, os.Interrupt)
		<-asked
	}
	if _, err := os.Stat(filepath.Join(dir, "down")); err == nil {
		_ = handler.WriteErrorResponse(os.Stdout, errors.New("the service is down"))
		return
	}
	_, _ = handler.Dispatch(os.Stdout, os.Stdin, args, service{kind: kind, seed: sha256.Sum256([]byte(args.InitOptions.KeyResourceID))})
}

// service is a key; it is derived from its name.
type service struct {
	kind string
	seed [32]byte
}

func (s service) key() (crypto.Signer, error) {
	switch s.kind {
	case "ed25519", "ed25519ph", "liar":
		return ed25519.NewKeyFromSeed(s.seed[:]), nil
	case "ecdsa":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return nil, fmt.Errorf("no key of the kind %q", s.kind)
}

func (s service) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	return key.Public(), nil
}

func (s service) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	text, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	switch s.kind {
	case "ed25519ph":
		digest := sha512.Sum512(text)
		return ed25519.NewKeyFromSeed(s.seed[:]).Sign(nil, digest[:], crypto.SHA512)
	case "liar":
		s.seed[0] ^= 1
	}
	return ed25519.Sign(ed25519.NewKeyFromSeed(s.seed[:]), text), nil
}

func (s service) VerifySignature(io.Reader, io.Reader, ...signature.VerifyOption) error {
	return errors.New("verifying is not for a service")
}

func (s service) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, errors.New("keys are made elsewhere")
}

func (s service) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("no crypto.Signer")
}

func (s service) SupportedAlgorithms() []string { return []string{s.kind} }

func (s service) DefaultAlgorithm() string { return s.kind }
