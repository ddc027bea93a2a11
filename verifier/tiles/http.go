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
	// patience bounds the pauses for one resource that the server asked for. A
	// server that says when to come back limits how often it is asked and is not
	// down: such answers are no attempts.
	patience = 10 * time.Minute
)

// HTTP returns a Fetch that reads from a monitoring prefix, an http or https
// URL, with a client whose timeout the caller sets. A server's errors and those
// of the network are tried again a few times. One that says when to come back
// (Retry-After) is asked again then, for up to ten minutes in all; the context
// bounds both.
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
		wait, asked := pause, time.Duration(0)
		for attempt := 1; ; {
			b, after, err := get(ctx, client, base+path, limit)
			if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, errFinal) || ctx.Err() != nil {
				return b, err
			}
			rest := min(max(wait, after), maxPause)
			switch {
			case after > 0 && asked < patience:
				asked += rest
			case attempt == attempts:
				return b, err
			default:
				attempt++
				wait *= 2
			}
			timer := time.NewTimer(rest)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil, ctx.Err()
			}
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
		return nil, retryAfter(res.Header.Get("Retry-After"), time.Now()), fmt.Errorf("status %s", res.Status)
	case res.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("%w: status %s", errFinal, res.Status)
	}
	b, err = io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, 0, fmt.Errorf("%w: more than %d bytes", errFinal, limit)
	}
	return b, 0, err
}

// retryAfter reads a Retry-After header, of seconds or with a date (RFC 9110
// section 10.2.3); 0 means that it says nothing, or nothing ahead.
func retryAfter(v string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(v, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return max(0, date.Sub(now))
}
