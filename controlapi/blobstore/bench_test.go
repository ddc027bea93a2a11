package blobstore

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"
)

// BenchmarkPut stores small payloads from many goroutines, as submissions do.
func BenchmarkPut(b *testing.B) {
	s := openStore(b)
	var n atomic.Uint64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			data := binary.BigEndian.AppendUint64(make([]byte, 1000), n.Add(1))
			if _, err := s.Put(context.Background(), "acme", data); err != nil {
				b.Error(err)
			}
		}
	})
}
