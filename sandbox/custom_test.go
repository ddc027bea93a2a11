//go:build unix

package sandbox

import (
	"slices"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestCustomSectionsMeanNothing puts custom sections that no engine can read, or
// that it reads and takes for names and for debugging, into modules: they are
// admitted and do what they do without.
func TestCustomSectionsMeanNothing(t *testing.T) {
	custom := func(name string, content ...byte) []byte {
		return wasmtest.Section(nil, 0, append(wasmtest.Name(nil, name), content...))
	}
	names := custom("name", 0, 2, 1, 'm') // the module's name
	plain := printer(func(uint32) []byte { return wasmtest.Unreachable })
	p := testPool(t, PoolConfig{})
	for name, c := range map[string][]byte{
		"names cut short": custom("name", 1, 200),
		"names":           names,
		"names twice":     slices.Concat(names, names),
		"nothing":         custom(""),
		"debugging": slices.Concat(custom(".debug_info", 1, 2, 3), custom(".debug_line", 0xff), custom(".debug_str"),
			custom(".debug_abbrev", 7, 7), custom(".debug_ranges", 1)),
		"the section of an outline": custom(outlineSectionName, 1),
	} {
		for place, module := range map[string][]byte{
			"at the end":   slices.Concat(plain, c),
			"at the start": slices.Concat(plain[:8], c, plain[8:]),
		} {
			for _, gas := range []uint64{0, 1_000_000} {
				want, job := metered(newJob(plain), gas, min(gas, 100)), metered(newJob(module), gas, min(gas, 100))
				a := runModes(t, want, EngineConfig{}, EngineConfig{Interpreter: true})
				b := runModes(t, job, EngineConfig{}, EngineConfig{Interpreter: true})
				if a.Outcome.String() != b.Outcome.String() || a.Outcome.Kind != KindTrap {
					t.Errorf("%s %s: outcome is\n%v\nwant\n%v", name, place, b.Outcome, a.Outcome)
				}
				if _, err := p.Admit(t.Context(), module, allCapabilities, job.Limits); err != nil {
					t.Errorf("%s %s, gas %d: %v", name, place, gas, err)
				}
			}
		}
	}
}
