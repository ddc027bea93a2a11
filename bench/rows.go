package main

// row is one line of the table: what is measured, against whom, and how good it
// has to be.
type row struct {
	name string
	unit string // of ours and peer
	peer string // who, "" if nobody
	// less says that less is better.
	less bool
	// relative says that floor and aim are of the ratio ours/peer; otherwise
	// they are in the row's unit.
	relative   bool
	floor, aim float64 // bounds if limited says so
	limited    limits
	// plainOnly rows do not exist for entries with openings.
	plainOnly bool
}

// limits says which of floor and aim a row has.
type limits int

const (
	both limits = iota
	aimOnly
	reported
)

// Units.
const (
	perSecond = "entries/s"
	requests  = "requests/s"
	proofs    = "proofs/s"
	micros    = "µs"
	millis    = "ms"
	bytesUnit = "bytes"
	mebibytes = "MiB"
)

// Names of rows, which groups refer to.
const (
	rowSingle        = "append, single"
	rowBatch         = "append, batches of 256, against Tessera"
	rowBatchPebble   = "append, batches of 256, against Pebble"
	rowBatchLarge    = "append, batches of 1024"
	rowDedup         = "append, single, deduplicated"
	rowDedupRatio    = "append, single, deduplicated, against Tessera without"
	rowLone          = "append, idle log, one caller, p50"
	rowAdd           = "POST /add, against Tessera"
	rowAddEmpty      = "POST /add, against an empty handler"
	rowAddBatch      = "POST /add-batch, 256 entries a message"
	rowAddStream     = "POST /add-stream, 256 entries a message"
	rowLatency50     = "POST /add at 20,000/s, p50"
	rowLatency99     = "POST /add at 20,000/s, p99"
	rowProof         = "POST /add with proof"
	rowProof99       = "POST /add with proof at 15,000/s, p99"
	rowTiles         = "full tiles over HTTP, against Tessera's files"
	rowTilesMemory   = "full tiles over HTTP, against a memory handler"
	rowInclusionHot  = "inclusion proof, hot, a core"
	rowInclusionCold = "inclusion proof, random of 10 M, a core"
	rowVerify        = "inclusion proof verification, a core"
	rowVerifyAllocs  = "inclusion proof verification, allocations"
	rowDisk          = "disk for an entry at 10 M"
	rowMemory        = "memory at 10 M under write load"
	rowStartClean    = "start at 10 M, clean, to serving reads"
	rowStartKilled   = "start at 10 M, after kill -9, to serving reads"
	rowSignClean     = "start at 10 M, clean, to the first signature"
	rowSignKilled    = "start at 10 M, after kill -9, to the first signature"
	rowGrown         = "append, single, at 10 M against 0.1 M"
	rowGrownBatch    = "append, batches of 256, at 10 M against 0.1 M"
	rowBytesLarge    = "bytes written for a byte of 64 KiB entries"
	rowBytesLone     = "bytes written for a lone append of 256 bytes"
)

// rows is the table, in the order in which it is printed.
var rows = []row{
	{name: rowSingle, unit: perSecond, peer: "Tessera, in process", relative: true, floor: 2.2, aim: 3.5},
	{name: rowBatch, unit: perSecond, peer: "Tessera, in process", relative: true, floor: 5, aim: 7},
	{name: rowBatchPebble, unit: perSecond, peer: "Pebble, Set batches", relative: true, floor: 0.60, aim: 0.85},
	{name: rowBatchLarge, unit: perSecond, limited: reported},
	{name: rowDedup, unit: perSecond, floor: 120_000, aim: 200_000, plainOnly: true},
	{name: rowDedupRatio, unit: perSecond, peer: "Tessera, in process", relative: true, floor: 1, limited: both, aim: 1, plainOnly: true},
	{name: rowLone, unit: micros, peer: "Pebble, one sync commit", less: true, relative: true, floor: 2, aim: 1.3},
	{name: rowAdd, unit: requests, peer: "Tessera's server", relative: true, floor: 1.4, aim: 1.7, plainOnly: true},
	{name: rowAddEmpty, unit: requests, peer: "empty net/http handler", relative: true, floor: 0.55, aim: 0.70, plainOnly: true},
	{name: rowAddBatch, unit: perSecond, floor: 300_000, aim: 450_000, plainOnly: true},
	{name: rowAddStream, unit: perSecond, floor: 300_000, aim: 450_000, plainOnly: true},
	{name: rowLatency50, unit: millis, peer: "Tessera's server at 12,000/s", less: true, floor: 2, aim: 1, plainOnly: true},
	{name: rowLatency99, unit: millis, peer: "Tessera's server at 12,000/s", less: true, floor: 20, aim: 10, plainOnly: true},
	{name: rowProof, unit: requests, floor: 15_000, aim: 30_000, plainOnly: true},
	{name: rowProof99, unit: millis, less: true, floor: 40, aim: 20, plainOnly: true},
	{name: rowTiles, unit: requests, peer: "http.FileServer", relative: true, floor: 1, aim: 1.4, plainOnly: true},
	{name: rowTilesMemory, unit: requests, peer: "memory handler", relative: true, aim: 0.80, limited: aimOnly, plainOnly: true},
	{name: rowInclusionHot, unit: proofs, floor: 50_000, aim: 200_000},
	{name: rowInclusionCold, unit: proofs, floor: 10_000, aim: 20_000},
	{name: rowVerify, unit: proofs, peer: "transparency-dev/merkle", relative: true, floor: 0.9, aim: 1.8, plainOnly: true},
	{name: rowVerifyAllocs, unit: "allocations", peer: "transparency-dev/merkle", less: true, floor: 0, aim: 0, plainOnly: true},
	{name: rowDisk, unit: bytesUnit, less: true, floor: 330, aim: 300},
	{name: rowMemory, unit: mebibytes, less: true, floor: 400, aim: 250},
	{name: rowStartClean, unit: millis, less: true, floor: 200, aim: 50},
	{name: rowStartKilled, unit: millis, less: true, floor: 2000, aim: 500},
	{name: rowSignClean, unit: millis, less: true, limited: reported},
	{name: rowSignKilled, unit: millis, less: true, limited: reported},
	{name: rowGrown, unit: perSecond, peer: "ourselves at 0.1 M", relative: true, floor: 0.85, aim: 0.95},
	{name: rowGrownBatch, unit: perSecond, peer: "ourselves at 0.1 M", relative: true, limited: reported},
	{name: rowBytesLarge, unit: bytesUnit, peer: "Pebble, a Set each", less: true, floor: 3, aim: 2, plainOnly: true},
	{name: rowBytesLone, unit: bytesUnit, peer: "Pebble, one sync commit", less: true, floor: 8192, aim: 4096},
}

// shape is what an entry consists of.
type shape struct {
	Entry, Opening int // bytes
	Dedup          bool
}

var (
	plain       = shape{Entry: 256}
	withOpening = shape{Entry: 32, Opening: 300, Dedup: true}
)

// stored is the number of bytes that a peer without openings and keys stores
// for such an entry.
func (s shape) stored() int { return s.Entry + s.Opening }
