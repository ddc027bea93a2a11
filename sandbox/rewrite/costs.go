package rewrite

// costs is the price of an instruction of each class, in gas. The numbers are
// version 1 of the cost table: another number is another version. They are
// rounded from measurements (costgen): one gas stands for about 0.3 ns of an
// addition, and no class is to take more than four times as long per gas as
// another. What a load may wait for memory is beyond any table.
var costs = [numClasses]uint16{
	classNone:         0,
	classSimple:       1,
	classMultiply:     2,
	classCount:        2,
	classDivide:       12,
	classRemainder:    16,
	classSelect:       2,
	classBranch:       1,
	classCondition:    3,
	classBranchTable:  8,
	classCall:         6,
	classCallIndirect: 12,
	classGlobal:       2,
	classLoad:         6,
	classStore:        4,
	classSign:         2,
	classCompare:      2,
	classFloat:        4,
	classFloatDivide:  8,
	classRoot:         12,
	classConvert:      3,
	classReinterpret:  2,
	classMemorySize:   1,
	classGrow:         300,
	classBulk:         40,
	classTableGet:     4,
	classTableSet:     6,
	classFuncRef:      300,
}

const (
	// costFunction is charged at the entry of a function.
	costFunction = 4
	// costLocal is charged at the entry of a function for each declared local;
	// parameters are in the call.
	costLocal = 1
	// costLoop is charged at the head of a loop that a branch goes back to, each
	// time.
	costLoop = 2
	// bytesShift is the binary logarithm of the bytes that cost 1 in a bulk
	// operation on memory, rounded down.
	bytesShift = 3
	// costEntry is charged for each entry of a bulk operation on a table, other
	// than growing.
	costEntry = 1
	// costGrowEntry is charged for each entry that table.grow asks for.
	costGrowEntry = 8
	// costPage is charged for each page that memory.grow adds.
	costPage = 32_768
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
