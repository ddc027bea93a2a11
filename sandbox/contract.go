package sandbox

import (
	"fmt"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
)

// Metered returns the versions of a contract whose module runs metered, as all
// but development wants.
func Metered() contract.Versions {
	return contract.Versions{HostInterface: HostInterface, Rewriter: Rewriter, CostTable: CostTable}
}

// Supports reports whether this release gives a contract of these versions the
// meaning that they name; if not, which ones it has.
func Supports(v contract.Versions) error {
	if v != Metered() && (v.HostInterface != HostInterface || !Unmetered(v)) {
		return fmt.Errorf("host_interface %d, rewriter %d, cost_table %d; this release has %d, %d, %d, and for development %d, 0, 0",
			v.HostInterface, v.Rewriter, v.CostTable, HostInterface, Rewriter, CostTable, HostInterface)
	}
	return nil
}

// Unmetered reports whether a contract of these versions runs its module as it
// is. Such a run has no bound but the clock, and its outcome is not the same on
// every machine: it is for development, and a node that others rely on refuses
// it.
func Unmetered(v contract.Versions) bool { return v.Rewriter == 0 && v.CostTable == 0 }

// LimitsOf returns the limits of a contract. What a contract may ask for fits
// the types; what this package takes is less, and checked with the job.
func LimitsOf(c *contract.Contract) Limits {
	return Limits{
		Gas:              c.Limits.Gas,
		Frames:           c.Limits.Frames,
		MemoryPages:      uint32(c.Limits.MemoryPages),
		InputBytes:       int64(c.Limits.InputBytes),
		OutputBytes:      int64(c.Limits.OutputBytes),
		DiagnosticsBytes: int64(c.Limits.DiagnosticsBytes),
	}
}

// CapabilitiesOf returns the names of what a contract grants.
func CapabilitiesOf(c *contract.Contract) []string {
	names := make([]string, len(c.Capabilities))
	for i, name := range c.Capabilities {
		names[i] = string(name)
	}
	return names
}

// JobOf returns the job that a contract makes of its module and an input. The
// caller has checked that this release [Supports] the contract's versions.
func JobOf(c *contract.Contract, module, input []byte) Job {
	return Job{
		Tenant: c.Tenant,
		Module: module, ModuleDigest: c.Module, Input: input,
		Args: c.Args(), Env: c.Environment, Seed: c.Seed,
		Capabilities: CapabilitiesOf(c), Limits: LimitsOf(c),
	}
}

// Attested returns the outcome in the form that nodes attest and verifiers
// compare (docs/formats/execution.md, "Outcome and result digest").
func (o Outcome) Attested() contract.Outcome {
	out := contract.Outcome{
		Kind:              contract.OutcomeKind(o.Kind.String()),
		ExitCode:          uint64(o.ExitCode),
		Gas:               o.Gas,
		PeakPages:         uint64(o.PeakPages),
		OutputLength:      uint64(o.Output.Length),
		OutputDigest:      o.Output.SHA256,
		DiagnosticsLength: uint64(o.Diagnostics.Length),
		DiagnosticsDigest: o.Diagnostics.SHA256,
	}
	if o.Memory != nil {
		d := digest.Digest(*o.Memory)
		out.MemoryDigest = &d
	}
	return out
}
