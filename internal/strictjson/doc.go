// Package strictjson reads and writes the JSON of signed payloads and
// envelopes by the rules of docs/formats/README.md, "Strict JSON".
//
// [Unmarshal] accepts exactly one reading of a text: UTF-8 without byte order
// mark, members of the given struct only, each once and spelled exactly,
// integers from 0 to 2^53 − 1 in minimal decimal, no null, no unpaired
// surrogate escape, at most [MaxDepth] levels, nothing after the value. White
// space between tokens and any legal escape are allowed on reading. [Marshal]
// writes the one canonical form.
//
// # Types
//
// Structs are described by json tags as in encoding/json; every exported field
// needs one, and embedded structs are not supported. A member whose tag has
// neither omitempty nor omitzero is required. One that has is left out when
// empty (zero, or of length 0), and an empty value in the input is an error,
// because optional members are never written empty; a pointer makes absent and
// empty distinct. Members may be structs, slices, arrays, pointers,
// map[string]T, strings, booleans and integers of any size, []byte (canonical
// standard base64 with padding), and types with MarshalText and UnmarshalText
// (a string). A type outside this set is reported as an error, [ErrType].
//
// # Trust
//
// Input is untrusted. Its size is bounded by the caller's maxBytes before
// anything is read, its depth by MaxDepth, so memory and time are linear in
// maxBytes. On an error the destination is unchanged.
package strictjson
