package rewrite

import "testing"

// BenchmarkRewrite rewrites a module of 150 KB that a compiler made.
func BenchmarkRewrite(b *testing.B) {
	module := guests(b)["guest-rust.wasm"]
	b.SetBytes(int64(len(module)))
	for b.Loop() {
		if _, err := Rewrite(module, Config{}); err != nil {
			b.Fatal(err)
		}
	}
}
