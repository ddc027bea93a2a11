package token

import (
	"crypto"
	"net/http"
	"sync"
	"time"
)

// renewAfter is the age at which a Source makes a new token: half of its life,
// so that a token in flight never expires on the way.
const renewAfter = Lifetime / 2

// A Source hands out tokens of one principal for one cluster and renews them
// in time. Fill the exported fields before the first use and leave them alone
// afterwards. It is safe for concurrent use.
type Source struct {
	Principal string
	Cluster   string
	Key       crypto.Signer    // Ed25519, with use "token"
	Now       func() time.Time // nil means time.Now

	mu     sync.Mutex
	token  string    // guarded by mu
	issued time.Time // guarded by mu
}

// Token returns a token with at least half of its life left.
func (s *Source) Token() (string, error) {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := now()
	// A clock that was set back counts as an old token.
	if age := at.Sub(s.issued); s.token != "" && age >= 0 && age < renewAfter {
		return s.token, nil
	}
	t, err := New(s.Principal, s.Cluster, s.Key, at)
	if err != nil {
		return "", err
	}
	s.token, s.issued = t, at
	return t, nil
}

// A Transport adds a source's token to every request, whatever protocol it
// carries. It must only be used with the address of the control plane that the
// token is meant for: it cannot know where a redirect would lead, so the client
// that holds it should refuse redirects.
type Transport struct {
	Source *Source
	Base   http.RoundTripper // nil means http.DefaultTransport
}

// RoundTrip sends a copy of r that carries the token.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	bearer, err := t.Source.Token()
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+bearer)
	return base.RoundTrip(r)
}
