package tiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Dir returns a Fetch that reads a static tlog-tiles tree below a directory.
func Dir(dir string) Fetch {
	return func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		local, err := filepath.Localize(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		f, err := os.Open(filepath.Join(dir, local))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, limit+1))
		if err == nil && int64(len(b)) > limit {
			err = fmt.Errorf("more than %d bytes", limit)
		}
		return b, err
	}
}

// Locate returns a Fetch for a place as people write it: a monitoring prefix
// (http:// or https://), which client reads, a file:// URL, or the path of a
// directory.
func Locate(client *http.Client, place string) (Fetch, error) {
	dir := place
	if scheme, _, ok := strings.Cut(place, "://"); ok {
		if scheme != "file" {
			return HTTP(client, place)
		}
		u, err := url.Parse(place)
		if err != nil || u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%q is not a file URL of the form file:///path", place)
		}
		dir = filepath.FromSlash(u.Path)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%q is not a directory with a tlog-tiles tree", dir)
	}
	return Dir(dir), nil
}
