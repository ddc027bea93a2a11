package tiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// attempts bounds how often a resource is asked for.
	attempts = 4
	// firstPause is the time before the second attempt; it doubles each time.
	firstPause = 250 * time.Millisecond
	// maxPause bounds what a server's Retry-After can ask for.
	maxPause = 30 * time.Second
)

// HTTP returns a Fetch that reads from a monitoring prefix, an http or https
// URL, with a client whose timeout the caller sets. A server's errors and those
// of the network are tried again a few times, after a pause that the server may
// choose.
func HTTP(client *http.Client, prefix string) (Fetch, error) {
	return httpFetch(client, prefix, firstPause)
}

func httpFetch(client *http.Client, prefix string, pause time.Duration) (Fetch, error) {
	u, err := url.Parse(prefix)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not an http or https URL without query, fragment and user", prefix)
	}
	base := strings.TrimSuffix(u.String(), "/") + "/"
	return func(ctx context.Context, path string, limit int64) ([]byte, error) {
		wait := pause
		for attempt := 1; ; attempt++ {
			b, after, err := get(ctx, client, base+path, limit)
			if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, errFinal) || attempt == attempts || ctx.Err() != nil {
				return b, err
			}
			timer := time.NewTimer(min(max(wait, after), maxPause))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil, ctx.Err()
			}
			wait *= 2
		}
	}, nil
}

// errFinal marks an answer that another attempt would not change.
var errFinal = errors.New("refused")

// get makes one request. After is what the server asks to wait before the next.
func get(ctx context.Context, client *http.Client, target string, limit int64) (b []byte, after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errFinal, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone:
		return nil, 0, fmt.Errorf("%w: status %s", ErrNotFound, res.Status)
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500:
		seconds, _ := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16)
		return nil, time.Duration(seconds) * time.Second, fmt.Errorf("status %s", res.Status)
	case res.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("%w: status %s", errFinal, res.Status)
	}
	b, err = io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, 0, fmt.Errorf("%w: more than %d bytes", errFinal, limit)
	}
	return b, 0, err
}
