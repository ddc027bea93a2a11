package membership

import (
	"iter"
	"slices"
	"sort"
)

// maxChunk bounds a chunk of a sorted list. A change copies one chunk and the
// list of chunks, so it is near the square root of MaxPrincipals.
const maxChunk = 256

// keyed values are ordered by sortKey, byte by byte.
type keyed interface{ sortKey() string }

// sorted is an immutable list of values in ascending order, each key once.
// Every operation returns a new list that shares what it did not touch, so
// that thousands of epochs cost little more than one. The zero value is empty.
type sorted[T keyed] struct {
	chunks [][]T // none empty, none longer than maxChunk; never written after creation
	n      int
}

func (s sorted[T]) len() int { return s.n }

// locate returns the chunk and the offset in it where key is or belongs.
func (s sorted[T]) locate(key string) (chunk, offset int, found bool) {
	// The last chunk that does not begin after key.
	chunk = max(0, sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i][0].sortKey() > key })-1)
	if chunk == len(s.chunks) {
		return chunk, 0, false
	}
	c := s.chunks[chunk]
	offset = sort.Search(len(c), func(i int) bool { return c[i].sortKey() >= key })
	return chunk, offset, offset < len(c) && c[offset].sortKey() == key
}

// get returns the value with this key.
func (s sorted[T]) get(key string) (T, bool) {
	chunk, offset, found := s.locate(key)
	if !found {
		var none T
		return none, false
	}
	return s.chunks[chunk][offset], true
}

// rank returns how many values come before key, and whether key itself is there.
func (s sorted[T]) rank(key string) (int, bool) {
	chunk, offset, found := s.locate(key)
	n := offset
	for _, c := range s.chunks[:chunk] {
		n += len(c)
	}
	return n, found
}

// at returns value i, 0 ≤ i < len.
func (s sorted[T]) at(i int) T {
	chunk := 0
	for ; i >= len(s.chunks[chunk]); chunk++ {
		i -= len(s.chunks[chunk])
	}
	return s.chunks[chunk][i]
}

// from iterates over the values from index i on.
func (s sorted[T]) from(i int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, c := range s.chunks {
			if i >= len(c) {
				i -= len(c)
				continue
			}
			for _, v := range c[i:] {
				if !yield(v) {
					return
				}
			}
			i = 0
		}
	}
}

// with returns the list with v in it, in place of a value with the same key.
func (s sorted[T]) with(v T) sorted[T] {
	chunk, offset, found := s.locate(v.sortKey())
	if chunk == len(s.chunks) {
		return sorted[T]{chunks: [][]T{{v}}, n: 1}
	}
	old := s.chunks[chunk]
	if found {
		c := slices.Clone(old)
		c[offset] = v
		return sorted[T]{chunks: splice(s.chunks, chunk, chunk+1, c), n: s.n}
	}
	c := make([]T, 0, len(old)+1)
	c = append(append(append(c, old[:offset]...), v), old[offset:]...)
	if len(c) <= maxChunk {
		return sorted[T]{chunks: splice(s.chunks, chunk, chunk+1, c), n: s.n + 1}
	}
	half := len(c) / 2
	return sorted[T]{chunks: splice(s.chunks, chunk, chunk+1, slices.Clip(c[:half]), c[half:]), n: s.n + 1}
}

// without returns the list without the value with this key.
func (s sorted[T]) without(key string) sorted[T] {
	chunk, offset, found := s.locate(key)
	if !found {
		return s
	}
	old := s.chunks[chunk]
	if len(old) == 1 {
		return sorted[T]{chunks: splice(s.chunks, chunk, chunk+1), n: s.n - 1}
	}
	c := make([]T, 0, len(old)-1)
	c = append(append(c, old[:offset]...), old[offset+1:]...)
	// Join small neighbours, so that removals never leave many small chunks.
	lo, hi := chunk, chunk+1
	if hi < len(s.chunks) && len(c)+len(s.chunks[hi]) <= maxChunk/2 {
		c = append(c, s.chunks[hi]...)
		hi++
	}
	if lo > 0 && len(c)+len(s.chunks[lo-1]) <= maxChunk/2 {
		lo--
		c = slices.Concat(s.chunks[lo], c)
	}
	return sorted[T]{chunks: splice(s.chunks, lo, hi, c), n: s.n - 1}
}

// splice returns a new list: list with the elements lo to hi (exclusive)
// replaced.
func splice[T any](list [][]T, lo, hi int, replacement ...[]T) [][]T {
	return slices.Concat(list[:lo], replacement, list[hi:])
}
