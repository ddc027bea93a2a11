package keyfile

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"filippo.io/mldsa"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/tallystick/tallystick/internal/edkey"
)

// PEM block types. Those of Ed25519 keys are sigstore's.
const (
	typePlain          = string(cryptoutils.PrivateKeyPEMType)
	typeEncrypted      = string(cryptoutils.EncryptedSigstorePrivateKeyPEMType)
	typeEncryptedPKCS8 = "ENCRYPTED PRIVATE KEY"
	typePublic         = string(cryptoutils.PublicKeyPEMType)
	typeSeed           = "TALLYSTICK ML-DSA-44 SEED"
	typeEncryptedSeed  = "ENCRYPTED TALLYSTICK ML-DSA-44 SEED"
)

// CreateEd25519 generates an Ed25519 key and writes it to a new file, encrypted
// if there is a passphrase.
func CreateEd25519(path string, pass Passphrase) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := WriteEd25519(path, key, pass); err != nil {
		return nil, err
	}
	return key, nil
}

// WriteEd25519 writes an Ed25519 key to a new file, encrypted if there is a
// passphrase.
func WriteEd25519(path string, key ed25519.PrivateKey, pass Passphrase) error {
	der, err := cryptoutils.MarshalPrivateKeyToDER(key)
	if err != nil {
		return fmt.Errorf("encoding Ed25519 key: %w", err)
	}
	return writePrivate(path, der, pass, typePlain, typeEncrypted)
}

// LoadEd25519 reads an Ed25519 key. A passphrase must be given if and only if
// the file is encrypted.
func LoadEd25519(path string, pass Passphrase) (ed25519.PrivateKey, error) {
	block, err := readBlock(path, pass != nil, []string{typePlain}, []string{typeEncrypted, typeEncryptedPKCS8})
	if err != nil {
		return nil, err
	}
	var secret cryptoutils.PassFunc
	if pass != nil {
		p, err := pass.get()
		if err != nil {
			return nil, err
		}
		secret = cryptoutils.StaticPasswordFunc(p)
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(pem.EncodeToMemory(block), secret)
	switch {
	case err != nil && block.Type == typeEncryptedPKCS8:
		return nil, fmt.Errorf("%w: wrong for %q, or the file is damaged, or encrypted in a way that is not known (openssl pkcs8 -topk8 -v2 aes-256-cbc makes one that is)",
			ErrPassphrase, path)
	case err != nil && pass != nil:
		return nil, fmt.Errorf("%w: wrong for %q, or the file is damaged", ErrPassphrase, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %q is not PKCS#8", ErrFormat, path)
	}
	key, ok := private.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: %q holds %s key, not an Ed25519 one", ErrFormat, path, algorithm(private))
	}
	return key, nil
}

// CreateMLDSA44 generates an ML-DSA-44 key and writes its seed to a new file,
// encrypted if there is a passphrase.
func CreateMLDSA44(path string, pass Passphrase) (*mldsa.PrivateKey, error) {
	key, err := mldsa.GenerateKey(mldsa.MLDSA44())
	if err != nil {
		return nil, err
	}
	if err := writePrivate(path, key.Bytes(), pass, typeSeed, typeEncryptedSeed); err != nil {
		return nil, err
	}
	return key, nil
}

// LoadMLDSA44 reads an ML-DSA-44 key. A passphrase must be given if and only if
// the file is encrypted.
func LoadMLDSA44(path string, pass Passphrase) (*mldsa.PrivateKey, error) {
	block, err := readBlock(path, pass != nil, []string{typeSeed}, []string{typeEncryptedSeed})
	if err != nil {
		return nil, err
	}
	seed := block.Bytes
	if pass != nil {
		p, err := pass.get()
		if err != nil {
			return nil, err
		}
		if seed, err = encrypted.Decrypt(seed, p); err != nil {
			return nil, fmt.Errorf("%w: wrong for %q, or the file is damaged", ErrPassphrase, path)
		}
	}
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed)
	if err != nil {
		return nil, fmt.Errorf("%w: %q holds a seed of %d bytes, not %d", ErrFormat, path, len(seed), mldsa.PrivateKeySize)
	}
	return key, nil
}

// WritePublic writes an Ed25519 public key to a new file that all may read.
func WritePublic(path string, key ed25519.PublicKey) error {
	text, err := cryptoutils.MarshalPublicKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("encoding public key: %w", err)
	}
	return create(path, text, 0o644)
}

// LoadPublic reads an Ed25519 public key, one that every verifier accepts.
func LoadPublic(path string) (ed25519.PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	defer f.Close()
	data, err := readBounded(f, path)
	if err != nil {
		return nil, err
	}
	if _, err := singleBlock(path, data, []string{typePublic}); err != nil {
		return nil, err
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %q is not a PKIX public key", ErrFormat, path)
	}
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: %q holds %s key, not an Ed25519 one", ErrFormat, path, algorithm(public))
	}
	if err := edkey.Check(key); err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrFormat, path, err)
	}
	return key, nil
}

// writePrivate writes key material in a block of the plain type, or encrypted in
// one of the other type.
func writePrivate(path string, material []byte, pass Passphrase, plainType, encryptedType string) error {
	block := &pem.Block{Type: plainType, Bytes: material}
	if pass != nil {
		p, err := pass.get()
		if err != nil {
			return err
		}
		sealed, err := encrypted.Encrypt(material, p)
		if err != nil {
			return fmt.Errorf("encrypting key: %w", err)
		}
		block = &pem.Block{Type: encryptedType, Bytes: sealed}
	}
	return create(path, pem.EncodeToMemory(block), 0o600)
}

// readBlock reads the one PEM block of a private key file and checks that its
// type is one of those expected with, or without, a passphrase.
func readBlock(path string, havePass bool, plain, sealed []string) (*pem.Block, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	block, err := singleBlock(path, data, slices.Concat(plain, sealed))
	if err != nil {
		return nil, err
	}
	switch isSealed := slices.Contains(sealed, block.Type); {
	case isSealed && !havePass:
		return nil, fmt.Errorf("%w: %q is encrypted (name the file that holds its passphrase)", ErrPassphrase, path)
	case !isSealed && havePass:
		return nil, fmt.Errorf("%w: %q is not encrypted, but a passphrase was given (leave it out)", ErrPassphrase, path)
	}
	return block, nil
}

// algorithm names what a key is for, with its article.
func algorithm(key any) string {
	switch key.(type) {
	case *rsa.PrivateKey, *rsa.PublicKey:
		return "an RSA"
	case *ecdsa.PrivateKey, *ecdsa.PublicKey:
		return "an ECDSA"
	case *ecdh.PrivateKey, *ecdh.PublicKey:
		return "a key agreement"
	}
	return "another"
}

// oneOf lists names to choose from.
func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	return strings.Join(quoted, " or ")
}

// singleBlock decodes a file that is exactly one PEM block without headers.
func singleBlock(path string, data []byte, types []string) (*pem.Block, error) {
	block, rest := pem.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || len(block.Headers) > 0 ||
		!bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("%w: %q should be one PEM block without headers", ErrFormat, path)
	}
	if !slices.Contains(types, block.Type) {
		return nil, fmt.Errorf("%w: %q is a PEM block of type %q: want %s", ErrFormat, path, block.Type, oneOf(types))
	}
	return block, nil
}
