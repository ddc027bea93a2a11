package contract

import (
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
)

// statement is what the four payload types have in common.
type statement[T any] interface {
	*T
	Validate() error
	// scope names the cluster and tenant that the payload claims.
	scope() (cluster, tenant string)
	// payloadType is the media type of its envelopes.
	payloadType() string
}

func (c *Contract) scope() (cluster, tenant string) { return c.Cluster, c.Tenant }
func (c *Contract) payloadType() string             { return ContractType }

// parse reads and validates one payload.
func parse[T any, P statement[T]](payload []byte) (*T, error) {
	v := new(T)
	if err := strictjson.Unmarshal(payload, v, dsse.MaxPayload); err != nil {
		// Another version may have other members: a reader that meets one says so.
		if version, ok := strictjson.Text(payload, "protocol_version", dsse.MaxPayload); ok && version != ProtocolVersion {
			return nil, checkVersion(version)
		}
		return nil, refuseCause(RefusedSyntax, err)
	}
	if err := P(v).Validate(); err != nil {
		return nil, err
	}
	return v, nil
}

// marshal returns the canonical form of a valid payload.
func marshal[T any, P statement[T]](v P) ([]byte, error) {
	if err := v.Validate(); err != nil {
		return nil, err
	}
	payload, err := strictjson.Marshal(v)
	if err != nil {
		return nil, refuseCause(RefusedSyntax, err)
	}
	if len(payload) > dsse.MaxPayload {
		return nil, refuse(RefusedSyntax, "payload of %d bytes, want at most %d", len(payload), dsse.MaxPayload)
	}
	return payload, nil
}

func checkVersion(version string) error {
	if version != ProtocolVersion {
		return refuse(RefusedVersion, "protocol version %.64q, this program knows %q", version, ProtocolVersion)
	}
	return nil
}

func checkIdentifiers(ids ...string) error {
	for _, id := range ids {
		if !ValidIdentifier(id) {
			return refuse(RefusedIdentifier, "%.80q is no identifier: want 1 to 63 of a-z, 0-9, '.', '_', '-', first and last a letter or digit", id)
		}
	}
	return nil
}

// ValidIdentifier reports whether s may name a cluster, a principal or a
// contract (docs/formats/README.md, "Conventions").
func ValidIdentifier(s string) bool {
	if len(s) < 1 || len(s) > 63 {
		return false
	}
	for i, c := range []byte(s) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		inner := c == '.' || c == '_' || c == '-'
		if !alphanumeric && (!inner || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return true
}

// within reports whether every byte of s is in lo to hi.
func within(s string, lo, hi byte) bool {
	for i := range len(s) {
		if s[i] < lo || s[i] > hi {
			return false
		}
	}
	return true
}
