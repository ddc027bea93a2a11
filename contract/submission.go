package contract

import (
	"encoding/hex"
	"errors"

	"github.com/tallystick/tallystick/internal/digest"
)

// What the format bounds.
const (
	// MaxParents bounds the executions whose outputs one execution reads: each
	// brings a proof bundle that every node verifies.
	MaxParents = 8
	// A nonce of 16 random bytes never repeats by chance; 32 leave room for a
	// digest.
	minNonceBytes, maxNonceBytes = 16, 32
)

// A Submission is a tenant's signed request to apply a contract to an input.
type Submission struct {
	Cluster         string          `json:"cluster"`
	Contract        digest.Digest   `json:"contract"`   // hash of the contract
	Input           digest.Digest   `json:"input"`      // of the submission's own input
	LastEpoch       uint64          `json:"last_epoch"` // last epoch at which it may be pinned
	Nonce           Nonce           `json:"nonce"`
	Parents         []digest.Digest `json:"parents,omitempty"` // execution ids, in the order in which their outputs are read
	ProtocolVersion string          `json:"protocol_version"`
	Tenant          string          `json:"tenant"`
}

// A Nonce tells reruns of the same thing apart: 16 to 32 bytes. Its text form
// is lowercase hexadecimal.
type Nonce []byte

// MarshalText writes the text form.
func (n Nonce) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, n), nil }

// UnmarshalText reads the text form; upper case is refused.
func (n *Nonce) UnmarshalText(text []byte) error {
	b, err := hex.AppendDecode(nil, text)
	if err != nil || hex.EncodeToString(b) != string(text) {
		return errors.New("want an even number of lowercase hexadecimal characters")
	}
	*n = b
	return nil
}

// ParseSubmission reads a submission's payload and checks every rule of the
// format that needs neither key nor log. Errors are [*RefusalError].
func ParseSubmission(payload []byte) (*Submission, error) {
	return parse[Submission](payload)
}

// Marshal returns the canonical payload of a valid submission.
func (s *Submission) Marshal() ([]byte, error) { return marshal(s) }

// Validate checks the rules that [ParseSubmission] checks after the syntax.
func (s *Submission) Validate() error {
	if err := checkVersion(s.ProtocolVersion); err != nil {
		return err
	}
	if err := checkIdentifiers(s.Cluster, s.Tenant); err != nil {
		return err
	}
	if n := len(s.Nonce); n < minNonceBytes || n > maxNonceBytes {
		return refuse(RefusedValue, "nonce of %d bytes, want %d to %d", n, minNonceBytes, maxNonceBytes)
	}
	if s.LastEpoch < 1 || s.LastEpoch > maxInteger {
		return refuse(RefusedValue, "last_epoch is %d, epochs begin with 1", s.LastEpoch)
	}
	if len(s.Parents) > MaxParents {
		return refuse(RefusedParents, "%d parents, want at most %d", len(s.Parents), MaxParents)
	}
	seen := make(map[digest.Digest]bool, len(s.Parents))
	for _, p := range s.Parents {
		if seen[p] {
			return refuse(RefusedParents, "parent %s is listed twice", p)
		}
		seen[p] = true
	}
	return nil
}

// ExecutionID is the id of the execution that s asks for. It depends on nothing
// but what the tenant signed, so asking twice asks for the same execution.
func (s *Submission) ExecutionID() digest.Digest {
	return digest.New("tallystick/v1/execution-id").
		Text(s.ProtocolVersion).
		Text(s.Cluster).
		Text(s.Tenant).
		Digest(s.Contract).
		Digest(s.Input).
		Digests(s.Parents).
		Bytes(s.Nonce).
		Uint(s.LastEpoch).
		Sum()
}

func (s *Submission) scope() (cluster, tenant string) { return s.Cluster, s.Tenant }
func (s *Submission) payloadType() string             { return SubmissionType }
