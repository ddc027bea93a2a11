package contract

import (
	"slices"

	"github.com/tallystick/tallystick/internal/digest"
)

// Payload types of the envelopes (docs/formats/README.md, "Envelopes").
const (
	ContractType     = "application/vnd.tallystick.contract.v1+json"
	RetirementType   = "application/vnd.tallystick.retirement.v1+json"
	SubmissionType   = "application/vnd.tallystick.submission.v1+json"
	CancellationType = "application/vnd.tallystick.cancellation.v1+json"
)

// ProtocolVersion is the version of every payload that this package accepts.
const ProtocolVersion = "1.0"

// What the format bounds.
const (
	// MaxTrustLevel is the highest trust level that a node can have.
	MaxTrustLevel = 1_000
	// MaxLabels and MaxLabelChars bound node labels as membership does.
	MaxLabels     = 16
	MaxLabelChars = 63
	// maxVersionChars bounds a contract's own version.
	maxVersionChars = 63
)

// A Contract is a tenant's signed statement of what may run. Fields are in the
// order of the canonical form; those with omitempty are absent when zero.
type Contract struct {
	Agreement       uint64            `json:"agreement"`               // attestations that must agree
	Argv            []string          `json:"argv,omitempty"`          // absent: the name alone, see Args
	Capabilities    []Capability      `json:"capabilities"`            // ascending
	Cluster         string            `json:"cluster"`                 // the only cluster it is valid in
	Environment     [][2]string       `json:"environment,omitempty"`   // name and value, in the order the module sees
	ExpiresEpoch    uint64            `json:"expires_epoch,omitempty"` // last epoch at which a request may be pinned
	Limits          Limits            `json:"limits"`
	MaxAssigned     uint64            `json:"max_assigned"`              // nodes asked at most
	MinTrustLevel   uint64            `json:"min_trust_level,omitempty"` // of a node to be eligible
	Module          digest.Digest     `json:"module"`                    // of the WebAssembly binary
	Name            string            `json:"name"`
	NodeLabels      map[string]string `json:"node_labels,omitempty"` // that a node must have to be eligible
	Nodes           uint64            `json:"nodes"`                 // nodes asked by attempt 0
	ProtocolVersion string            `json:"protocol_version"`
	Seed            digest.Digest     `json:"seed"` // of the module's randomness
	Step            uint64            `json:"step"` // nodes that each further attempt adds
	Tenant          string            `json:"tenant"`
	Version         string            `json:"version"` // the tenant's own, for people
	Versions        Versions          `json:"versions"`
}

// Limits bounds a run. They are part of what the outcome depends on.
type Limits struct {
	DiagnosticsBytes uint64 `json:"diagnostics_bytes"` // kept of standard error
	Frames           uint64 `json:"frames,omitempty"`  // calls nested in each other; with rewriter ≥ 1
	Gas              uint64 `json:"gas,omitempty"`     // units of the cost table; with rewriter ≥ 1
	InputBytes       uint64 `json:"input_bytes"`       // standard input, the parents' outputs included
	MemoryPages      uint64 `json:"memory_pages"`      // 64 KiB each
	OutputBytes      uint64 `json:"output_bytes"`      // standard output
}

// Versions pins what gives a module its meaning. Which ones exist is for the
// sandbox to say.
type Versions struct {
	CostTable     uint64 `json:"cost_table"`     // 0 with rewriter 0
	HostInterface uint64 `json:"host_interface"` // from 1
	Rewriter      uint64 `json:"rewriter"`       // 0: unmetered, for development
}

// ParseContract reads a contract's payload and checks every rule of the format
// that needs neither key nor cluster. Errors are [*RefusalError].
func ParseContract(payload []byte) (*Contract, error) {
	return parse[Contract](payload)
}

// Marshal returns the canonical payload of a valid contract.
func (c *Contract) Marshal() ([]byte, error) { return marshal(c) }

// Args returns what the module sees as its arguments; the first is the
// program's name.
func (c *Contract) Args() []string {
	if len(c.Argv) == 0 {
		return []string{c.Name}
	}
	return c.Argv
}

// Validate checks the rules that [ParseContract] checks after the syntax.
func (c *Contract) Validate() error {
	for _, check := range []func() error{
		func() error { return checkVersion(c.ProtocolVersion) },
		func() error { return checkIdentifiers(c.Cluster, c.Tenant, c.Name) },
		c.checkValues,
		c.checkScheduling,
		func() error { return checkCapabilities(c.Capabilities) },
		c.checkArguments,
		c.checkMetering,
		c.checkLimits,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Contract) checkValues() error {
	if n := len(c.Version); n < 1 || n > maxVersionChars || !within(c.Version, '!', '~') {
		return refuse(RefusedValue, "version %q, want 1 to %d printable ASCII characters without space", c.Version, maxVersionChars)
	}
	if c.MinTrustLevel > MaxTrustLevel {
		return refuse(RefusedValue, "min_trust_level is %d, want at most %d", c.MinTrustLevel, MaxTrustLevel)
	}
	if len(c.NodeLabels) > MaxLabels {
		return refuse(RefusedValue, "%d node labels, want at most %d", len(c.NodeLabels), MaxLabels)
	}
	for key, value := range c.NodeLabels {
		for _, s := range []string{key, value} {
			if n := len(s); n < 1 || n > MaxLabelChars || !within(s, ' ', '~') {
				return refuse(RefusedValue, "node label key or value %.80q, want 1 to %d printable ASCII characters", s, MaxLabelChars)
			}
		}
	}
	return nil
}

func (c *Contract) checkScheduling() error {
	switch {
	case c.Agreement < 1 || c.Agreement > c.Nodes || c.Nodes > c.MaxAssigned || c.MaxAssigned > MaxAssigned:
		return refuse(RefusedScheduling, "agreement %d, nodes %d, max_assigned %d: want 1 <= agreement <= nodes <= max_assigned <= %d",
			c.Agreement, c.Nodes, c.MaxAssigned, MaxAssigned)
	case 2*c.Agreement <= c.Nodes:
		return refuse(RefusedScheduling, "agreement %d is not more than half of %d nodes", c.Agreement, c.Nodes)
	case c.Step < 1 && c.MaxAssigned != c.Nodes:
		return refuse(RefusedScheduling, "step is 0 though max_assigned %d is above nodes %d", c.MaxAssigned, c.Nodes)
	}
	return nil
}

func (c *Contract) checkMetering() error {
	v, l := c.Versions, c.Limits
	switch {
	case v.HostInterface < 1:
		return refuse(RefusedMetering, "host_interface is 0, the first is 1")
	case v.Rewriter == 0 && (l.Gas != 0 || l.Frames != 0 || v.CostTable != 0):
		return refuse(RefusedMetering, "gas, frames and cost_table need a rewriter; with rewriter 0 leave gas and frames out and set cost_table to 0")
	case v.Rewriter > 0 && (l.Gas == 0 || l.Frames == 0):
		return refuse(RefusedMetering, "gas and frames are required with rewriter %d", v.Rewriter)
	}
	return nil
}

func (c *Contract) checkLimits() error {
	// A limit that no cluster can grant is refused here, so that Within alone
	// depends on the cluster.
	most := ClusterLimits{
		ArgumentBytes: MaxArgumentBytes, DiagnosticsBytes: maxInteger, Frames: maxInteger, Gas: maxInteger, InputBytes: maxInteger,
		MaxAssigned: MaxAssigned, MemoryPages: MaxMemoryPages, ModuleBytes: maxInteger, OutputBytes: maxInteger,
	}
	l := c.Limits
	if l.DiagnosticsBytes < 1 || l.InputBytes < 1 || l.MemoryPages < 1 || l.OutputBytes < 1 {
		return refuse(RefusedLimits, "a limit is 0, want at least 1")
	}
	return c.Within(most)
}

// Within reports the first limit of c that is above the cluster's, which are
// those of the epoch at which the contract is registered or requested.
func (c *Contract) Within(most ClusterLimits) error {
	l := c.Limits
	for _, f := range []struct {
		name      string
		have, max uint64
	}{
		{"argument_bytes", c.argumentBytes(), most.ArgumentBytes},
		{"diagnostics_bytes", l.DiagnosticsBytes, most.DiagnosticsBytes},
		{"frames", l.Frames, most.Frames},
		{"gas", l.Gas, most.Gas},
		{"input_bytes", l.InputBytes, most.InputBytes},
		{"max_assigned", c.MaxAssigned, most.MaxAssigned},
		{"memory_pages", l.MemoryPages, most.MemoryPages},
		{"output_bytes", l.OutputBytes, most.OutputBytes},
	} {
		if f.have > f.max {
			return refuse(RefusedLimits, "%s is %d, at most %d may be asked for", f.name, f.have, f.max)
		}
	}
	return nil
}

// CheckModule reports whether module is the one that c names and no larger than
// the cluster allows. Errors have code [RefusedModule] or [RefusedLimits].
func (c *Contract) CheckModule(module []byte, most ClusterLimits) error {
	if n := uint64(len(module)); n > most.ModuleBytes {
		return refuse(RefusedLimits, "module has %d bytes, at most %d are allowed", n, most.ModuleBytes)
	}
	if d := digest.Of(module); d != c.Module {
		return refuse(RefusedModule, "module has digest %s, the contract names %s", d, c.Module)
	}
	return nil
}

// A Capability is the name of a group of host functions that a contract grants.
type Capability string

// The capabilities; every contract grants stdio.
const (
	CapabilityArgs   Capability = "args"   // arguments and environment
	CapabilityClock  Capability = "clock"  // the logical clock
	CapabilityRandom Capability = "random" // randomness from seed and input
	CapabilityStdio  Capability = "stdio"  // standard input, output and error
)

// Valid reports whether c is one of the capabilities above.
func (c Capability) Valid() bool {
	switch c {
	case CapabilityArgs, CapabilityClock, CapabilityRandom, CapabilityStdio:
		return true
	}
	return false
}

func checkCapabilities(list []Capability) error {
	for i, c := range list {
		if !c.Valid() {
			return refuse(RefusedCapabilities, "unknown capability %q", c)
		}
		if i > 0 && list[i-1] >= c {
			return refuse(RefusedCapabilities, "%q after %q: capabilities are ascending and without repeats", c, list[i-1])
		}
	}
	if !slices.Contains(list, CapabilityStdio) {
		return refuse(RefusedCapabilities, "capability %q is missing; every contract grants it", CapabilityStdio)
	}
	return nil
}
