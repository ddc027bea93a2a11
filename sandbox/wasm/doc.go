// Package wasm decodes WebAssembly modules for admission and for rewriting.
//
// It follows the WebAssembly Core Specification 2.0, chapter 5 (binary
// format), without SIMD, and knows later features only well enough to refuse
// them by name. Decoding checks form, index bounds and nesting; [Stack] and
// [Module.Validate] check the rest of what makes a module valid (chapter 3).
//
// Input is untrusted: every count is bounded by the bytes that remain and by a
// named limit before anything is allocated, and integers are read strictly.
// The package is pure; a Module refers to the bytes that it was decoded from
// and is safe for concurrent reading.
package wasm
