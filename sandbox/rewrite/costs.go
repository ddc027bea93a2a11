package rewrite

// costs is the price of an instruction of each class, in gas. The numbers are
// version 1 of the cost table: another number is another version.
var costs = [numClasses]uint8{
	classNone:         0,
	classSimple:       1,
	classSelect:       1,
	classBranch:       1,
	classBranchTable:  3,
	classCall:         3,
	classCallIndirect: 5,
	classGlobal:       2,
	classLoad:         2,
	classStore:        2,
	classMultiply:     1,
	classDivide:       12,
	classCount:        1,
	classFloat:        1,
	classFloatArith:   3,
	classFloatDivide:  12,
	classConvert:      2,
	classTable:        2,
	classReference:    1,
	classMemorySize:   2,
	classMemoryGrow:   100,
	classBulk:         4,
	classDrop:         4,
}

const (
	// costFunction is charged at the entry of a function.
	costFunction = 3
	// localsPerGas is the number of declared locals that cost 1 at the entry of
	// their function, the last ones rounded up.
	localsPerGas = 8
	// bytesShift is the binary logarithm of the bytes that cost 1 in a bulk
	// operation on memory, rounded down.
	bytesShift = 3
	// costEntry is charged for each entry of a bulk operation on a table.
	costEntry = 1
	// costPage is charged for each page that memory.grow adds.
	costPage = 8192
)

// What the host charges for a call of one of its functions, besides the call
// instruction, by subtracting it from the gas global.
const (
	// HostCallCost is charged for each call.
	HostCallCost = 100
	// HostBytesPerGas is the number of bytes that a host function moves into or
	// out of the memory for 1, rounded down.
	HostBytesPerGas = 8
)
