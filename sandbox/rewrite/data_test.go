package rewrite

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
	"github.com/tetratelabs/wazero"
)

// segments lists a module's data segments as "address:bytes".
func segments(t *testing.T, module []byte) string {
	t.Helper()
	m, err := wasm.Decode(module)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, d := range m.Datas {
		list = append(list, fmt.Sprintf("%d:%d", uint32(d.Offset.Value), len(d.Bytes)))
	}
	return strings.Join(list, " ")
}

func TestJoinedData(t *testing.T) {
	type at struct {
		offset int32
		length int
	}
	for name, test := range map[string]struct {
		segments []at
		want     string
	}{
		"none":                     {nil, ""},
		"one":                      {[]at{{8, 4}}, "8:4"},
		"adjacent":                 {[]at{{8, 4}, {12, 4}}, "8:8"},
		"gap of 63":                {[]at{{8, 4}, {75, 4}}, "8:71"},
		"gap of 64":                {[]at{{8, 4}, {76, 4}}, "8:4 76:4"},
		"three":                    {[]at{{8, 4}, {20, 4}, {40, 4}, {200, 1}, {210, 1}}, "8:36 200:11"},
		"overlap":                  {[]at{{8, 4}, {11, 4}}, "8:4 11:4"},
		"falling":                  {[]at{{20, 4}, {8, 4}}, "20:4 8:4"},
		"gap written before":       {[]at{{20, 4}, {8, 4}, {30, 4}}, "20:4 8:4 30:4"},
		"gap written at its start": {[]at{{10, 3}, {8, 4}, {30, 4}}, "10:3 8:4 30:4"},
		"gap written at its end":   {[]at{{29, 4}, {8, 4}, {30, 4}}, "29:4 8:4 30:4"},
		"gap written around":       {[]at{{0, 100}, {8, 4}, {30, 4}}, "0:100 8:4 30:4"},
		"gap between earlier ones": {[]at{{0, 8}, {134, 4}, {80, 4}, {100, 4}}, "0:8 134:4 80:24"},
		"no gap, written around":   {[]at{{0, 100}, {8, 4}, {12, 4}}, "0:100 8:8"},
		"empty one in the gap":     {[]at{{14, 0}, {200, 1}, {8, 4}, {20, 4}}, "14:0 200:1 8:16"},
		"empty one beyond a gap":   {[]at{{0, 100}, {8, 4}, {13, 0}}, "0:100 8:4 13:0"},
		"empty one at the end":     {[]at{{0, 100}, {8, 4}, {12, 0}}, "0:100 8:4"},
		"empty ones":               {[]at{{8, 0}, {8, 0}, {9, 0}, {9, 1}}, "8:2"},
		"end of memory":            {[]at{{65530, 2}, {65534, 2}}, "65530:6"},
		"beyond the memory":        {[]at{{65530, 2}, {65534, 3}}, "65530:2 65534:3"},
		"at 4 GiB":                 {[]at{{-4, 2}, {-2, 2}}, "4294967292:2 4294967294:2"},
	} {
		b := wasmtest.Command()
		for _, s := range test.segments {
			b.Data(s.offset, strings.Repeat("x", s.length))
		}
		r := rewritten(t, b.Bytes())
		if got := segments(t, r.Bytes); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
		if left := len(strings.Fields(test.want)); r.Segments != len(test.segments) || r.Joined != r.Segments-left {
			t.Errorf("%s: %d segments, %d joined", name, r.Segments, r.Joined)
		}
	}
	passive := wasmtest.Command().Data(0, "a").Data(1, "b").PassiveData("c")
	if got := segments(t, rewritten(t, passive.Bytes()).Bytes); got != "0:1 1:1 0:1" {
		t.Errorf("with a passive segment: %s", got)
	}
	counted := wasmtest.Command().Data(0, "a").Data(1, "b").DataCount()
	if got := segments(t, rewritten(t, counted.Bytes()).Bytes); got != "0:2" {
		t.Errorf("with a data count section: %s", got)
	}
}

// TestManySegments: beyond the bound nothing is joined.
func TestManySegments(t *testing.T) {
	for _, more := range []int32{-1, 0} {
		b := wasmtest.Command()
		for i := range maxJoining + more {
			b.Data(60000-i*10, "x")
		}
		b.Data(0, "y").Data(3, "y").Data(6, "y")
		want := 2
		if more == 0 {
			want = 0
		}
		if r := rewritten(t, b.Bytes()); r.Joined != want {
			t.Errorf("after %d segments: %d joined, want %d", maxJoining+more, r.Joined, want)
		}
	}
}

// TestMemoryAfterInstantiation: joining does not change what the memory holds,
// whatever the segments.
func TestMemoryAfterInstantiation(t *testing.T) {
	ctx := context.Background()
	e := newEngine(t, "interpreter", wazero.NewRuntimeConfigInterpreter())
	memory := func(module []byte) []byte {
		m, err := e.r.InstantiateWithConfig(ctx, module, wazero.NewModuleConfig().WithName(""))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close(ctx)
		b, _ := m.Memory().Read(0, 65536)
		return bytes.Clone(b)
	}
	r := rand.New(rand.NewPCG(1, 2))
	joined := 0
	for range 300 {
		b := wasmtest.Command()
		for at, i := r.IntN(300), 0; i < 12; i++ {
			length := r.IntN(30)
			b.Data(int32(at), strings.Repeat(string(rune('a'+i)), length))
			at += length + r.IntN(40)
			if r.IntN(4) == 0 {
				at = r.IntN(300)
			}
		}
		got := rewritten(t, b.Bytes())
		joined += got.Joined
		if !bytes.Equal(memory(b.Bytes()), memory(got.Bytes)) {
			t.Fatalf("%s became %s", segments(t, b.Bytes()), segments(t, got.Bytes))
		}
	}
	if joined < 1000 {
		t.Errorf("only %d were joined", joined)
	}
}
