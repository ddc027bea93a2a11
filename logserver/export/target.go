package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tallystick/tallystick/verifier/tiles"
)

// Headers that objects are stored with, where the target can store any. A server
// of plain files sets its own: docs/runbooks/export-to-a-bucket.md.
const (
	contentText   = "text/plain; charset=utf-8"
	contentBinary = "application/octet-stream"
	cacheForever  = "public, max-age=31536000, immutable"
	cacheNever    = "no-cache"
)

// checkpointName is the one object that changes.
const checkpointName = "checkpoint"

// target is where a copy is kept. Readers see an object before or after a write,
// never between. Names are those of tlog-tiles.
type target interface {
	// read returns an object of at most limit bytes, or tiles.ErrNotFound.
	read(ctx context.Context, name string, limit int64) ([]byte, error)
	// write creates or replaces an object.
	write(ctx context.Context, name string, data []byte) error
	// flush returns when everything written is durable.
	flush(ctx context.Context) error
	close() error
}

// openTarget opens a directory, given as a path or a file URL, or a bucket whose
// driver is linked, given as the URL that gocloud.dev/blob knows it by.
func openTarget(ctx context.Context, place string) (target, error) {
	scheme, _, ok := strings.Cut(place, "://")
	if ok && scheme != "file" {
		if !blob.DefaultURLMux().ValidBucketScheme(scheme) {
			return nil, fmt.Errorf("no driver for %s:// is linked to open %q: logserver-cloud has those of s3, gs and azblob", scheme, place)
		}
		bucket, err := blob.OpenBucket(ctx, place)
		if err != nil {
			return nil, fmt.Errorf("opening bucket %q: %w", place, err)
		}
		if missing(ctx, bucket) {
			return nil, errors.Join(fmt.Errorf("bucket %q does not exist: create it first, or correct the URL", place), bucket.Close())
		}
		return &bucketTarget{bucket}, nil
	}
	if !ok {
		return openDir(place)
	}
	u, err := url.Parse(place)
	if err != nil || u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Fragment != "" || u.Path == "" {
		return nil, fmt.Errorf("%q is not a file URL of the form file:///path", place)
	}
	return openDir(filepath.FromSlash(u.Path))
}

// lookTimeout bounds how long a bucket is looked for.
const lookTimeout = 10 * time.Second

// missing reports whether a bucket is known not to exist. A service that cannot
// be reached, or does not say, may be back when there is something to write.
func missing(ctx context.Context, bucket *blob.Bucket) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	there, err := bucket.IsAccessible(ctx)
	return err == nil && !there
}

// bucketTarget is a bucket. Its service makes an object durable and visible in
// one step, when it has received all of it.
type bucketTarget struct{ bucket *blob.Bucket }

func (t *bucketTarget) read(ctx context.Context, name string, limit int64) ([]byte, error) {
	// Not a range: services answer one of an empty object with an error.
	r, err := t.bucket.NewReader(ctx, name, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, fmt.Errorf("%w: %w", tiles.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	err = errors.Join(err, r.Close())
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", name, limit)
	}
	return b, err
}

func (t *bucketTarget) write(ctx context.Context, name string, data []byte) error {
	options := &blob.WriterOptions{ContentType: contentBinary, CacheControl: cacheForever}
	if name == checkpointName {
		options = &blob.WriterOptions{ContentType: contentText, CacheControl: cacheNever}
	}
	// Not WriteAll, nor with an MD5: after an upload that failed Azure's driver
	// panics on that path.
	return t.bucket.Upload(ctx, name, bytes.NewReader(data), options)
}

func (t *bucketTarget) flush(context.Context) error { return nil }

func (t *bucketTarget) close() error { return t.bucket.Close() }
