package sandbox_test

import (
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
)

// The smallest module that can be admitted is what the limits of a cluster must
// leave room for.
func TestSmallestModule(t *testing.T) {
	module := []byte("\x00asm\x01\x00\x00\x00" +
		"\x01\x04\x01\x60\x00\x00" + // one type: () -> ()
		"\x03\x02\x01\x00" + // one function of it
		"\x05\x03\x01\x00\x00" + // one memory without pages
		"\x07\x13\x02\x06_start\x00\x00\x06memory\x02\x00" +
		"\x0a\x04\x01\x02\x00\x0b") // its body: end
	if len(module) != contract.LeastModuleBytes {
		t.Errorf("%d bytes, want %d", len(module), contract.LeastModuleBytes)
	}
	if _, err := sandbox.Admit(module, nil, sandbox.DefaultLimits()); err != nil {
		t.Error(err)
	}
}

func TestOutcomeCarriesEveryField(t *testing.T) {
	gas := uint64(7)
	memory := [32]byte{9}
	got := sandbox.Outcome{Kind: sandbox.KindExit, ExitCode: 3, Gas: &gas, PeakPages: 4,
		Output: sandbox.DigestOf([]byte("out")), Diagnostics: sandbox.DigestOf([]byte("d")), Memory: &memory}.Attested()
	memoryDigest := digest.Digest(memory)
	want := contract.Outcome{Kind: contract.OutcomeExit, ExitCode: 3, Gas: &gas, PeakPages: 4,
		OutputDigest: digest.Of([]byte("out")), OutputLength: 3, DiagnosticsDigest: digest.Of([]byte("d")), DiagnosticsLength: 1,
		MemoryDigest: &memoryDigest}
	if got.ResultDigest() != want.ResultDigest() || got.Validate() != nil {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for kind := sandbox.KindOK; kind.Valid(); kind++ {
		if !contract.OutcomeKind(kind.String()).Valid() {
			t.Errorf("the sandbox's %q is no kind of outcome", kind)
		}
	}
}

// TestVersions pins which contracts this release gives a meaning, and that a
// job has everything of its contract.
func TestVersions(t *testing.T) {
	for v, want := range map[contract.Versions]bool{
		sandbox.Metered(): true,
		{HostInterface: 1, Rewriter: 1, CostTable: 1}: true,
		{HostInterface: 1}:                            true, // for development
		{HostInterface: 1, Rewriter: 1}:               false,
		{HostInterface: 1, CostTable: 1}:              false,
		{HostInterface: 1, Rewriter: 2, CostTable: 1}: false,
		{HostInterface: 2, Rewriter: 1, CostTable: 1}: false,
		{}: false,
	} {
		if err := sandbox.Supports(v); (err == nil) != want {
			t.Errorf("%+v: %v", v, err)
		}
	}
	c := &contract.Contract{
		Name: "c", Module: digest.Of([]byte("m")), Seed: digest.Of([]byte("s")), Environment: [][2]string{{"A", "b"}},
		Capabilities: []contract.Capability{contract.CapabilityArgs, contract.CapabilityStdio},
		Limits:       contract.Limits{DiagnosticsBytes: 1, Frames: 2, Gas: 3, InputBytes: 4, MemoryPages: 5, OutputBytes: 6},
		Versions:     sandbox.Metered(),
	}
	job := sandbox.JobOf(c, []byte("m"), []byte("in"))
	want := sandbox.Limits{DiagnosticsBytes: 1, Frames: 2, Gas: 3, InputBytes: 4, MemoryPages: 5, OutputBytes: 6}
	if job.Limits != want || job.ModuleDigest != c.Module || job.Args[0] != "c" || len(job.Capabilities) != 2 || len(job.Env) != 1 || job.Seed != c.Seed {
		t.Errorf("job is %+v", job)
	}
	if sandbox.Unmetered(c.Versions) {
		t.Error("a metered contract passes for an unmetered one")
	}
}
