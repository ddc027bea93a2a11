package dsse

import (
	"crypto/ed25519"

	"github.com/tallystick/tallystick/internal/edkey"
)

// CheckKey reports whether pub may sign statements: whether it is the canonical
// encoding of a point that is on the curve and not of small order. Errors wrap
// [ErrKey].
func CheckKey(pub ed25519.PublicKey) error { return edkey.Check(pub) }
