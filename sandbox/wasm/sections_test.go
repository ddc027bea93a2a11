package wasm_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

func TestWithoutCustom(t *testing.T) {
	plain := wasmtest.Command().Start("", wasmtest.Call(0)).Data(0, "data").Bytes()
	if got := wasm.WithoutCustom(plain); &got[0] != &plain[0] || len(got) != len(plain) {
		t.Error("a module without custom sections was copied")
	}
	custom := wasmtest.Section(nil, 0, append(wasmtest.Name(nil, "name"), 1, 2, 3))
	padded := []byte{0, 0x85, 0x80, 0, 4, 'n', 'a', 'm', 'e'} // its size is not in the shortest form
	for name, c := range map[string][]byte{"one": custom, "two": slices.Concat(custom, custom), "padded": padded} {
		full := slices.Clone(plain[:8])
		for _, section := range wasm.Sections(plain) {
			full = append(append(full, c...), section...)
		}
		full = append(full, c...)
		if _, err := wasm.Decode(full); err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(full)
		if got := wasm.WithoutCustom(full); !bytes.Equal(got, plain) {
			t.Errorf("%s: %x, want %x", name, got, plain)
		}
		if !bytes.Equal(full, before) {
			t.Errorf("%s: the module was changed", name)
		}
		for range wasm.Sections(full) { // may be left early
			break
		}
	}
}

// TestSectionsOfAnything takes what Decode does not.
func TestSectionsOfAnything(t *testing.T) {
	for _, module := range [][]byte{nil, {0}, make([]byte, 9), append([]byte(wasm.Header), 1, 0xff), append([]byte(wasm.Header), 0, 9, 1), append([]byte(wasm.Header), 0, 1, 0, 1),
		append([]byte(wasm.Header), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1)} {
		for id, section := range wasm.Sections(module) {
			if id != section[0] {
				t.Errorf("%x: section %d is %x", module, id, section)
			}
		}
		if got := wasm.WithoutCustom(module); !bytes.Equal(got, module) {
			t.Errorf("%x became %x", module, got)
		}
	}
}
