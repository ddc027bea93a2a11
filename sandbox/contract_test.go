package sandbox_test

import (
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
)

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
