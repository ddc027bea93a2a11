package rewrite

import (
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/sandbox/wasm"
)

// CostText is the cost table as text, one line for each cost: the name of what
// is charged and the number. Instructions have their opcode in hexadecimal as
// name, those that begin with 0xfc four digits.
func CostText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tallystick costs %d\n", CostTable)
	for op := range wasm.Opcode(len(classOf)) {
		if wasm.Known(op) {
			fmt.Fprintf(&b, "0x%02x %d\n", uint16(op), cost(op))
		}
	}
	for i := range prefixedClassOf {
		fmt.Fprintf(&b, "0xfc%02x %d\n", i, cost(0xfc00+wasm.Opcode(i)))
	}
	for _, line := range []struct {
		name string
		n    int
	}{
		{"function", costFunction}, {"local", costLocal}, {"loop", costLoop}, {"bytes_per_gas", 1 << bytesShift},
		{"entry", costEntry}, {"grow_entry", costGrowEntry}, {"page", costPage}, {"host_call", HostCallCost}, {"host_bytes_per_gas", HostBytesPerGas},
	} {
		fmt.Fprintf(&b, "%s %d\n", line.name, line.n)
	}
	return b.String()
}
