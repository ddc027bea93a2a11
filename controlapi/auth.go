package controlapi

import (
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/controlapi/token"
)

// maxRemembered bounds the verified tokens that are remembered: a client uses
// one for minutes, so this is the number of clients that are active at a time.
const maxRemembered = 4_096

// authenticator verifies bearer tokens. A token that verified is remembered by
// its digest, so that the signature of a busy client is checked once; that its
// key is still valid is asked every time.
type authenticator struct {
	cluster string
	members Members
	now     func() time.Time

	mu         sync.Mutex
	remembered map[[sha256.Size]byte]token.Token // guarded by mu
}

func newAuthenticator(cluster string, members Members, now func() time.Time) *authenticator {
	return &authenticator{
		cluster:    cluster,
		members:    members,
		now:        now,
		remembered: make(map[[sha256.Size]byte]token.Token),
	}
}

// caller is an authenticated principal.
type caller struct {
	id    string
	kind  string
	token token.Token
}

// authenticate names the principal of an Authorization header.
func (a *authenticator) authenticate(header string) (caller, error) {
	raw, ok := strings.CutPrefix(header, "Bearer ")
	if !ok || raw == "" {
		return caller{}, refuse(CodeTokenMissing, "no bearer token: send \"Authorization: Bearer …\"")
	}
	now := a.now()
	sum := sha256.Sum256([]byte(raw))
	verified, ok := a.recall(sum, now)
	if !ok {
		var err error
		if verified, err = token.Verify(raw, a.cluster, now, a.lookup); err != nil {
			return caller{}, tokenRefusal(err)
		}
		a.remember(sum, verified, now)
	}
	kind := a.members.Kind(verified.Principal)
	if kind == "" || !a.valid(verified) {
		return caller{}, tokenRefusal(token.ErrKey)
	}
	return caller{id: verified.Principal, kind: kind, token: verified}, nil
}

func (a *authenticator) lookup(keyID string) (token.Key, bool) {
	principal, public, ok := a.members.TokenKey(keyID)
	return token.Key{Principal: principal, Public: public}, ok
}

// valid reports whether the key that signed t is still its principal's. A key
// id is a hash of the key, so the key itself is the same.
func (a *authenticator) valid(t token.Token) bool {
	principal, _, ok := a.members.TokenKey(t.KeyID)
	return ok && principal == t.Principal
}

func (a *authenticator) recall(sum [sha256.Size]byte, now time.Time) (token.Token, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.remembered[sum]
	return t, ok && alive(t, now)
}

// alive holds a remembered token to both ends of its life, by the rules of
// token.Verify: a clock may have been set back since.
func alive(t token.Token, now time.Time) bool {
	return now.Before(t.Expires.Add(token.Skew)) && now.After(t.Expires.Add(-token.MaxLifetime-token.Skew))
}

func (a *authenticator) remember(sum [sha256.Size]byte, t token.Token, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.remembered) >= maxRemembered {
		for k, old := range a.remembered {
			if !alive(old, now) {
				delete(a.remembered, k)
			}
		}
	}
	if len(a.remembered) >= maxRemembered {
		clear(a.remembered)
	}
	a.remembered[sum] = t
}
