package loadgen

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
)

const (
	runSize    = 16
	headerSize = runSize + 8 // the run and the entry's number
)

// appendEntry appends the entry of a number: the run, the number, and bytes that
// do not compress.
func (l *Load) appendEntry(b []byte, number int64) []byte {
	b = append(b, l.run[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(number))
	fill := rand.NewPCG(binary.BigEndian.Uint64(l.run[:]), uint64(number))
	rest := l.options.EntrySize - headerSize
	for ; rest >= 8; rest -= 8 {
		b = binary.LittleEndian.AppendUint64(b, fill.Uint64())
	}
	for last := fill.Uint64(); rest > 0; rest-- {
		b, last = append(b, byte(last)), last>>8
	}
	return b
}

// numberOf returns the number of an entry of this run, and whether it is one,
// whole and unaltered. Scratch is used and returned.
func (l *Load) numberOf(entry, scratch []byte) (number int64, ours, whole bool, _ []byte) {
	if len(entry) < headerSize || !bytes.Equal(entry[:runSize], l.run[:]) {
		return 0, false, false, scratch
	}
	number = int64(binary.BigEndian.Uint64(entry[runSize:]))
	scratch = l.appendEntry(scratch[:0], number)
	return number, true, bytes.Equal(entry, scratch), scratch
}

// What became of an entry. Values from 0 on are the index that was answered.
const (
	notSent = -1 - iota
	refused // the log said that it did not take it
	unknown // nobody knows
)

// claims holds what became of each entry, by its number, in blocks that are made
// when they are needed. An entry is set by one worker, once.
type claims struct {
	mu     sync.RWMutex
	blocks []*[claimBlock]int64
}

const claimBlock = 1 << 16

func (c *claims) set(number, value int64) {
	n := int(number / claimBlock)
	c.mu.RLock()
	if n >= len(c.blocks) {
		c.mu.RUnlock()
		c.grow(n)
		c.mu.RLock()
	}
	block := c.blocks[n]
	c.mu.RUnlock()
	block[number%claimBlock] = value
}

func (c *claims) grow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.blocks) <= n {
		block := new([claimBlock]int64)
		for i := range block {
			block[i] = notSent
		}
		c.blocks = append(c.blocks, block)
	}
}

func (c *claims) get(number int64) int64 {
	if n := number / claimBlock; number >= 0 && n < int64(len(c.blocks)) {
		return c.blocks[n][number%claimBlock]
	}
	return notSent
}
