package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
)

// maxBlob bounds a payload: the largest module and the largest input that the
// sandbox takes are both as large.
const maxBlob = max(sandbox.MaxModuleBytes, sandbox.MaxInputBytes)

// errNoBlob says that a payload is at none of the places.
var errNoBlob = errors.New("no blob")

// blobs finds payloads by their digests. What a place holds is suspect: bytes
// with another digest are an error. It is safe for concurrent use.
type blobs struct {
	given  map[digest.Digest][]byte // by --blob
	places []func(ctx context.Context, d digest.Digest) ([]byte, error)
}

// openBlobs reads the files and looks at what the places are: folders, or URLs
// below which payloads are found by their digests in hexadecimal.
func openBlobs(files, places []string) (*blobs, error) {
	b := &blobs{given: map[digest.Digest][]byte{digest.Of(nil): nil}}
	for _, name := range files {
		data, err := readFile("blob", name, int64(maxBlob))
		if err != nil {
			return nil, err
		}
		b.given[digest.Of(data)] = data
	}
	client := &http.Client{Timeout: requestTimeout}
	for _, place := range places {
		if u, err := url.Parse(place); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			b.places = append(b.places, func(ctx context.Context, d digest.Digest) ([]byte, error) {
				return fetchBlob(ctx, client, u.JoinPath(d.String()).String())
			})
			continue
		}
		info, err := os.Stat(place)
		if err != nil || !info.IsDir() {
			return nil, fail(exitFailed, "name a folder, or an http or https URL, that has payloads by their digests", "%q is no place of blobs", place)
		}
		b.places = append(b.places, func(_ context.Context, d digest.Digest) ([]byte, error) {
			data, err := readFile("blob", filepath.Join(place, d.String()), int64(maxBlob))
			if errors.Is(err, os.ErrNotExist) {
				return nil, errNoBlob
			}
			return data, err
		})
	}
	return b, nil
}

// get returns a payload, errNoBlob if it is nowhere.
func (b *blobs) get(ctx context.Context, d digest.Digest) ([]byte, error) {
	if data, ok := b.given[d]; ok {
		return data, nil
	}
	for _, place := range b.places {
		data, err := place(ctx, d)
		if errors.Is(err, errNoBlob) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if have := digest.Of(data); have != d {
			return nil, fmt.Errorf("the blob found under %s has digest %s", d, have)
		}
		return data, nil
	}
	return nil, errNoBlob
}

func fetchBlob(ctx context.Context, client *http.Client, target string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, errNoBlob
	default:
		return nil, fmt.Errorf("%q: status %s", target, res.Status)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, int64(maxBlob)+1))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", target, err)
	}
	if len(data) > maxBlob {
		return nil, fmt.Errorf("%q has more than %d bytes", target, maxBlob)
	}
	return data, nil
}
