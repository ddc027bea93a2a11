package contract

import "github.com/tallystick/tallystick/internal/digest"

// A Retirement withdraws a contract: no request is admitted for it any more.
type Retirement struct {
	Cluster         string        `json:"cluster"`
	Contract        digest.Digest `json:"contract"` // hash of the contract
	ProtocolVersion string        `json:"protocol_version"`
	Tenant          string        `json:"tenant"`
}

// ParseRetirement reads a retirement's payload. Errors are [*RefusalError].
func ParseRetirement(payload []byte) (*Retirement, error) {
	return parse[Retirement](payload)
}

// Marshal returns the canonical payload of a valid retirement.
func (r *Retirement) Marshal() ([]byte, error) { return marshal(r) }

// Validate checks the rules that [ParseRetirement] checks after the syntax.
func (r *Retirement) Validate() error {
	if err := checkVersion(r.ProtocolVersion); err != nil {
		return err
	}
	return checkIdentifiers(r.Cluster, r.Tenant)
}

func (r *Retirement) scope() (cluster, tenant string) { return r.Cluster, r.Tenant }
func (r *Retirement) payloadType() string             { return RetirementType }

// A Cancellation ends an open execution at its tenant's wish.
type Cancellation struct {
	Cluster         string        `json:"cluster"`
	Execution       digest.Digest `json:"execution"` // execution id
	ProtocolVersion string        `json:"protocol_version"`
	Tenant          string        `json:"tenant"`
}

// ParseCancellation reads a cancellation's payload. Errors are [*RefusalError].
func ParseCancellation(payload []byte) (*Cancellation, error) {
	return parse[Cancellation](payload)
}

// Marshal returns the canonical payload of a valid cancellation.
func (c *Cancellation) Marshal() ([]byte, error) { return marshal(c) }

// Validate checks the rules that [ParseCancellation] checks after the syntax.
func (c *Cancellation) Validate() error {
	if err := checkVersion(c.ProtocolVersion); err != nil {
		return err
	}
	return checkIdentifiers(c.Cluster, c.Tenant)
}

func (c *Cancellation) scope() (cluster, tenant string) { return c.Cluster, c.Tenant }
func (c *Cancellation) payloadType() string             { return CancellationType }
