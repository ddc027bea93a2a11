package contract

// What the formats bound, whatever a cluster allows.
const (
	// MaxAssigned bounds the nodes of one execution: an agreement of more than
	// half of 64 is beyond what a cluster needs, and proof bundles hold an
	// attestation for each.
	MaxAssigned = 64
	// MaxArgumentBytes bounds argv and environment together, so that a contract
	// stays far below the payload limit of an envelope.
	MaxArgumentBytes = 16_384
	// MaxMemoryPages is the address space of a 32-bit WebAssembly memory in
	// pages of 64 KiB.
	MaxMemoryPages = 65_536
	// LeastModuleBytes is the size of the smallest module that can be admitted: an
	// exported memory and an exported _start that does nothing.
	LeastModuleBytes = 50
	// maxInteger is the largest integer of strict JSON, 2^53 − 1.
	maxInteger = 1<<53 - 1
)

// ClusterLimits is the most that a contract may ask for in a cluster: the
// member "limits" of the membership state (docs/formats/membership.md). Every
// figure is at least what the smallest contract needs, 1 but for ModuleBytes,
// and at most 2^53 − 1: no cluster can have limits that no contract meets. A change replaces them as a whole,
// and contracts are held to the limits of the epoch that they meet.
type ClusterLimits struct {
	ArgumentBytes    uint64 `json:"argument_bytes"`    // argv and environment together, at most MaxArgumentBytes
	DiagnosticsBytes uint64 `json:"diagnostics_bytes"` // kept of standard error
	Frames           uint64 `json:"frames"`            // calls nested in each other
	Gas              uint64 `json:"gas"`               // units of the cost table
	InputBytes       uint64 `json:"input_bytes"`       // standard input, the parents' outputs included
	MaxAssigned      uint64 `json:"max_assigned"`      // nodes of one execution, at most MaxAssigned
	MemoryPages      uint64 `json:"memory_pages"`      // 64 KiB each, at most MaxMemoryPages
	ModuleBytes      uint64 `json:"module_bytes"`      // the WebAssembly binary, at least LeastModuleBytes
	OutputBytes      uint64 `json:"output_bytes"`      // standard output
}

// DefaultClusterLimits is the most that one ordinary node can serve: a contract
// at these limits takes less than a minute of a processor, in 256 MiB of memory.
func DefaultClusterLimits() ClusterLimits {
	return ClusterLimits{
		ArgumentBytes:    MaxArgumentBytes,
		DiagnosticsBytes: 64 << 10,
		Frames:           1_000,
		Gas:              20_000_000_000,
		InputBytes:       16 << 20,
		MaxAssigned:      MaxAssigned,
		MemoryPages:      4_096,
		ModuleBytes:      16 << 20,
		OutputBytes:      16 << 20,
	}
}

// Validate reports the first figure that is out of its range; a membership
// change with such limits is not lawful. The error is a [*RefusalError] with
// code [RefusedLimits].
func (l ClusterLimits) Validate() error {
	for _, f := range []struct {
		name            string
		value, min, max uint64
	}{
		{"argument_bytes", l.ArgumentBytes, 1, MaxArgumentBytes},
		{"diagnostics_bytes", l.DiagnosticsBytes, 1, maxInteger},
		{"frames", l.Frames, 1, maxInteger},
		{"gas", l.Gas, 1, maxInteger},
		{"input_bytes", l.InputBytes, 1, maxInteger},
		{"max_assigned", l.MaxAssigned, 1, MaxAssigned},
		{"memory_pages", l.MemoryPages, 1, MaxMemoryPages},
		{"module_bytes", l.ModuleBytes, LeastModuleBytes, maxInteger},
		{"output_bytes", l.OutputBytes, 1, maxInteger},
	} {
		if f.value < f.min || f.value > f.max {
			return refuse(RefusedLimits, "cluster limit %q is %d, want %d to %d", f.name, f.value, f.min, f.max)
		}
	}
	return nil
}
