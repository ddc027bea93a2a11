package blobstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/tallystick/tallystick/internal/digest"
)

// DefaultMaxSize bounds a payload when Options do not, in bytes. It is above
// every default cluster limit on modules, inputs and outputs.
const DefaultMaxSize = 64 << 20

// The outcomes a caller can tell apart with errors.Is. Any other error is an
// I/O error.
var (
	// ErrNotFound: the owner has no such payload, or it was erased.
	ErrNotFound = errors.New("no such payload")
	// ErrTooLarge: the payload is over the store's bound.
	ErrTooLarge = errors.New("payload too large")
	// ErrOwner: the owner is not an identifier.
	ErrOwner = errors.New("malformed owner")
	// ErrCorrupt: the payload's key is there, so it was never erased, but the
	// payload is missing, was altered, or belongs elsewhere.
	ErrCorrupt = errors.New("payload is missing or altered")
)

// ownerForm is the form of identifiers (docs/formats/README.md). It has no
// separator, does not begin or end with a dot, and is at most 63 characters.
var ownerForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// stripes is the number of locks that payloads share. Operations take
// milliseconds, so a few times the number of cores is plenty.
const stripes = 64

// Options say where a Store keeps its files.
type Options struct {
	Dir     string // payloads; created if need be
	KeyDir  string // their keys; created if need be
	MaxSize int64  // of a payload in bytes; 0 means DefaultMaxSize
}

// Store is an open blob store.
type Store struct {
	opts   Options
	bucket *blob.Bucket // payloads, sealed, under <owner>/<digest>
	// locks[i] guards key and payload of every name in stripe i: writers for
	// Put and Erase, readers for Get and Has.
	locks [stripes]sync.RWMutex
	// owners holds the ids whose directories exist and have been synced.
	owners sync.Map
}

// Open opens the store and creates its directories if they are not there.
func Open(o Options) (*Store, error) {
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	for _, dir := range []string{o.Dir, o.KeyDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("creating %q: %w", dir, err)
		}
		if err := syncPath(filepath.Dir(dir)); err != nil {
			return nil, err
		}
	}
	bucket, err := fileblob.OpenBucket(o.Dir, &fileblob.Options{
		NoTempDir: true, // a rename across file systems would fail
		Metadata:  fileblob.MetadataDontWrite,
	})
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", o.Dir, err)
	}
	return &Store{opts: o, bucket: bucket}, nil
}

// Close releases the store. Operations under way may fail.
func (s *Store) Close() error { return s.bucket.Close() }

// Put stores a payload of 0 to MaxSize bytes and returns its digest. When it
// returns nil the payload survives a power cut. Putting it again is no error.
func (s *Store) Put(ctx context.Context, owner string, data []byte) (digest.Digest, error) {
	if int64(len(data)) > s.opts.MaxSize {
		return digest.Digest{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(data), s.opts.MaxSize)
	}
	n, err := s.name(owner, digest.Of(data))
	if err != nil {
		return digest.Digest{}, err
	}
	if err := s.prepare(owner); err != nil {
		return digest.Digest{}, err
	}
	lock := s.lock(n)
	lock.Lock()
	defer lock.Unlock()

	switch _, err := s.open(ctx, n); {
	case err == nil:
		// What an earlier Put stored is used again, but synced again too: that Put
		// may have failed, or died, before its own sync.
		return n.digest, errors.Join(syncFile(s.payloadPath(n)), syncFile(s.keyPath(n)))
	case errors.Is(err, ErrCorrupt):
		// Its key opens nothing: it must be gone before there is a new payload.
		if err := removeKey(s.keyPath(n)); err != nil {
			return digest.Digest{}, err
		}
	case !errors.Is(err, ErrNotFound):
		return digest.Digest{}, err
	}
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	sealed, err := seal(key, n, data)
	if err != nil {
		return digest.Digest{}, err
	}
	// The payload is durable before its key gets its name: a key without its
	// payload would be a fault, a payload without its key is as good as none.
	if err := s.bucket.WriteAll(ctx, n.String(), sealed, nil); err != nil {
		return digest.Digest{}, fmt.Errorf("writing payload %v: %w", n, err)
	}
	if err := syncFile(s.payloadPath(n)); err != nil {
		return digest.Digest{}, err
	}
	return n.digest, writeKey(s.keyPath(n), key)
}

// Get returns a payload. ErrNotFound says that it was never put, or erased.
func (s *Store) Get(ctx context.Context, owner string, d digest.Digest) ([]byte, error) {
	n, err := s.name(owner, d)
	if err != nil {
		return nil, err
	}
	lock := s.lock(n)
	lock.RLock()
	defer lock.RUnlock()
	return s.open(ctx, n)
}

// Size returns the length of a payload in bytes. It does not open the payload,
// which may turn out to be corrupt.
func (s *Store) Size(ctx context.Context, owner string, d digest.Digest) (int64, error) {
	n, err := s.name(owner, d)
	if err != nil {
		return 0, err
	}
	lock := s.lock(n)
	lock.RLock()
	defer lock.RUnlock()
	if _, err := readKey(s.keyPath(n)); err != nil {
		return 0, err
	}
	size, err := s.sealedSize(ctx, n)
	return size - overhead, err
}

// Erase destroys the payload's key. When it returns nil nobody can read the
// payload any more, from any copy, and the caller may say so in a record. The
// payload is removed too, but nothing depends on that. Erasing what is not
// there is no error.
func (s *Store) Erase(ctx context.Context, owner string, d digest.Digest) error {
	n, err := s.name(owner, d)
	if err != nil {
		return err
	}
	lock := s.lock(n)
	lock.Lock()
	defer lock.Unlock()
	if err := removeKey(s.keyPath(n)); err != nil {
		return err
	}
	if err := s.bucket.Delete(ctx, n.String()); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("removing payload %v, whose key is destroyed: %w", n, err)
	}
	return nil
}

// name names one payload; it has the form of a path below either directory.
type name struct {
	owner  string
	digest digest.Digest
}

func (n name) String() string { return n.owner + "/" + n.digest.String() }

func (s *Store) name(owner string, d digest.Digest) (name, error) {
	if !ownerForm.MatchString(owner) {
		return name{}, fmt.Errorf("%w: %.80q is not an identifier", ErrOwner, owner)
	}
	return name{owner, d}, nil
}

func (s *Store) lock(n name) *sync.RWMutex { return &s.locks[n.digest[0]%stripes] }

func (s *Store) keyPath(n name) string {
	return filepath.Join(s.opts.KeyDir, n.owner, n.digest.String())
}

func (s *Store) payloadPath(n name) string {
	return filepath.Join(s.opts.Dir, n.owner, n.digest.String())
}

// prepare makes the owner's directories durable, once.
func (s *Store) prepare(owner string) error {
	if _, done := s.owners.Load(owner); done {
		return nil
	}
	for _, dir := range []string{s.opts.Dir, s.opts.KeyDir} {
		if err := os.MkdirAll(filepath.Join(dir, owner), 0o700); err != nil {
			return fmt.Errorf("creating the directory of owner %q: %w", owner, err)
		}
		if err := syncPath(dir); err != nil {
			return err
		}
	}
	s.owners.Store(owner, true)
	return nil
}

// open reads and decrypts a payload; the caller holds its lock.
func (s *Store) open(ctx context.Context, n name) ([]byte, error) {
	key, err := readKey(s.keyPath(n))
	if err != nil {
		return nil, err
	}
	if _, err := s.sealedSize(ctx, n); err != nil {
		return nil, err
	}
	sealed, err := s.bucket.ReadAll(ctx, n.String())
	if err != nil {
		return nil, fmt.Errorf("reading payload %v: %w", n, err)
	}
	return unseal(key, n, sealed)
}

// sealedSize returns the length of a stored payload, whose key is there.
func (s *Store) sealedSize(ctx context.Context, n name) (int64, error) {
	attributes, err := s.bucket.Attributes(ctx, n.String())
	if gcerrors.Code(err) == gcerrors.NotFound {
		return 0, fmt.Errorf("%w: %v has a key but no payload", ErrCorrupt, n)
	}
	if err != nil {
		return 0, fmt.Errorf("reading payload %v: %w", n, err)
	}
	// A bound set lower since must not hide what was stored under the higher.
	if attributes.Size < overhead || attributes.Size > max(s.opts.MaxSize, DefaultMaxSize)+overhead {
		return 0, fmt.Errorf("%w: %v has %d bytes", ErrCorrupt, n, attributes.Size)
	}
	return attributes.Size, nil
}
