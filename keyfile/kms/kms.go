// Package kms signs with an Ed25519 key that is kept in a key management service
// and named by a URI, such as example://region/key.
//
// The service is reached as github.com/sigstore/sigstore does: by a provider that
// is linked into the program, or else by an executable sigstore-kms-<scheme> in
// PATH, which is run for each signature (its cliplugin protocol). So the default
// programs link no cloud's software.
//
// # Trust
//
// The service, and with a plugin the executable and PATH, are trusted to sign
// what they are given and nothing else; whoever controls them can sign in the
// key owner's name. What they answer is not trusted: each signature is verified
// before it is used. The URI is not a secret and must not contain one, since the
// command line of a plugin, which has it, can be seen by other users of the
// machine. Credentials are the plugin's affair.
//
// # Concurrency
//
// The methods of [Key] are safe for concurrent use. One signature is made at a
// time. One that takes longer than its time is given up, and a plugin's process
// killed; should the call not end by that, the next ones are given up too.
package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// The ways in which a key can be refused.
var (
	// ErrURI: the URI names no service that this program can reach.
	ErrURI = errors.New("no key management service")
	// ErrKind: the key cannot make the signatures of c2sp.org/signed-note.
	ErrKind = errors.New("key is not an Ed25519 key")
	// ErrUnavailable: the service did not answer, or not in time. Trying again
	// later may help.
	ErrUnavailable = errors.New("key management service is not available")
	// ErrSignature: the service answered with what is not the key's signature.
	ErrSignature = errors.New("key management service signed wrongly")
)

// DefaultTimeout bounds one call when nothing is said: well above what services
// need, and below what a log's round may take.
const DefaultTimeout = 5 * time.Second

// maxURI bounds a URI, in bytes.
const maxURI = 1024

// Key is the private key behind a URI. It is a crypto.Signer for Ed25519.
type Key struct {
	uri     string
	timeout time.Duration
	public  ed25519.PublicKey
	service kms.SignerVerifier
	// turn holds a token while a call is under way, also one that was given up.
	turn chan struct{}
}

// CheckURI reports whether the text has the form of a KMS URI: a scheme, and
// what the service knows the key by.
func CheckURI(uri string) error {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok || rest == "" || len(uri) > maxURI || scheme == "" || strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%w: %q is not of the form scheme://key", ErrURI, uri)
	}
	for _, r := range rest {
		if r <= ' ' || r == 0x7f {
			return fmt.Errorf("%w: %q has spaces or control characters", ErrURI, uri)
		}
	}
	return nil
}

// Open returns the key behind a URI. A public key that is known already is taken
// as it is, so that a program can start while the service is away; nil asks the
// service for it, and for a first signature, and refuses a key of another kind.
// Timeout bounds each call, 0 means DefaultTimeout.
func Open(uri string, public ed25519.PublicKey, timeout time.Duration) (*Key, error) {
	if err := CheckURI(uri); err != nil {
		return nil, err
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	// Without a deadline: a plugin would keep it for all later calls. Without a
	// hash: Ed25519 signs the message itself.
	service, err := kms.Get(context.Background(), uri, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("%w: %w (an executable sigstore-kms-%s must be in PATH)", ErrURI, err, uri[:strings.Index(uri, "://")])
	}
	k := &Key{uri: uri, timeout: timeout, public: public, service: service, turn: make(chan struct{}, 1)}
	if public == nil {
		if err := k.probe(); err != nil {
			return nil, fmt.Errorf("key %q: %w", uri, err)
		}
	}
	return k, nil
}

// Public returns the public key, an ed25519.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// URI returns the name of the key.
func (k *Key) URI() string { return k.uri }

// probe finds out which key it is, and whether it signs as it should.
func (k *Key) probe() error {
	public, err := call(k, func(ctx context.Context) (crypto.PublicKey, error) {
		return k.service.PublicKey(options.WithContext(ctx))
	})
	if err != nil {
		return err
	}
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("%w, which a log needs: it is a %s key", ErrKind, strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", public), "*"), ".PublicKey"))
	}
	k.public = key
	// A message that nobody else can want signed.
	message := append([]byte("tallystick tries this key: "), make([]byte, 32)...)
	rand.Read(message[len(message)-32:])
	_, err = k.Sign(nil, message, crypto.Hash(0))
	return err
}

// Sign has a message signed. Only Ed25519 without a hash is possible.
func (k *Key) Sign(_ io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	if o.HashFunc() != crypto.Hash(0) {
		return nil, fmt.Errorf("%w: Ed25519 signs messages and not hashes of them", ErrKind)
	}
	sig, err := call(k, func(ctx context.Context) ([]byte, error) {
		return k.service.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
	})
	switch {
	case err != nil:
		return nil, err
	case ed25519.Verify(k.public, message, sig):
		return sig, nil
	case prehashed(k.public, message, sig):
		return nil, fmt.Errorf("%w: the service makes Ed25519ph signatures, which no reader of checkpoints accepts", ErrKind)
	}
	return nil, fmt.Errorf("%w: what it returned does not verify with the key", ErrSignature)
}

// prehashed reports whether a signature is one of Ed25519ph.
func prehashed(public ed25519.PublicKey, message, sig []byte) bool {
	h := crypto.SHA512.New()
	h.Write(message)
	return ed25519.VerifyWithOptions(public, h.Sum(nil), sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
}

// call makes one call within the key's time. The service may not notice that its
// time is over, so nothing waits for it.
func call[T any](k *Key, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(context.Background(), k.timeout)
	defer cancel() // what was given up is told so
	var none T
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("%w: an earlier call has not ended", ErrUnavailable)
	}
	answered := make(chan answer, 1)
	go func() {
		value, err := f(ctx)
		<-k.turn
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return none, fmt.Errorf("%w: %w", ErrUnavailable, a.err)
		}
		return a.value, nil
	case <-ctx.Done():
		return none, fmt.Errorf("%w: no answer after %v", ErrUnavailable, k.timeout)
	}
}
