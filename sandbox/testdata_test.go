package sandbox

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

var update = flag.Bool("update", false, "write the files of testdata/sandbox instead of comparing with them")

// testdataDir holds modules in binary form, for other implementations and as
// seeds of the fuzzer, and the outcomes of the probes.
const testdataDir = "../testdata/sandbox"

// golden compares content with a file of testdata.
func golden(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(testdataDir, name)
	if *update {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; make it with go test -update", err)
	}
	if string(want) != string(content) {
		t.Errorf("%s is\n%s\nwant\n%s", name, content, want)
	}
}

// TestModules holds the assembled modules to their files.
func TestModules(t *testing.T) {
	for name, module := range map[string][]byte{
		"ok":        printer(func(uint32) []byte { return nil }),
		"exit":      printer(func(exit uint32) []byte { return wasmtest.Call(exit, 7) }),
		"trap":      printer(func(uint32) []byte { return wasmtest.Unreachable }),
		"spin":      spinner(),
		"recursion": recursion(),
		"probe":     probe(),
	} {
		golden(t, name+".wasm", module)
	}
}

// probe is a command that asks for everything a guest could see of a machine
// and writes the raw answers: arguments, environment, all clocks before and
// after sleeping, random bytes, the status of its streams, its input, the errno
// of a file that does not exist, and fresh memory.
func probe() []byte {
	b := wasmtest.Command()
	imported := func(name, sig string) uint32 { return b.Import(wasmtest.WASI, name, sig) }
	argsGet, environGet := imported("args_get", "ii:i"), imported("environ_get", "ii:i")
	clock, random := imported("clock_time_get", "iIi:i"), imported("random_get", "ii:i")
	poll, fdstat := imported("poll_oneoff", "iiii:i"), imported("fd_fdstat_get", "ii:i")
	filestat, read := imported("fd_filestat_get", "ii:i"), imported("fd_read", "iiii:i")
	open, output := imported("path_open", "iiiiiIIii:i"), imported("fd_write", "iiii:i")
	readClock := func(id, at int32) []byte {
		return wasmtest.Cat(wasmtest.I32Const(id), wasmtest.I64Const(1), wasmtest.I32Const(at), wasmtest.U32([]byte{0x10}, clock), wasmtest.Drop)
	}
	store := func(at, v int32) []byte {
		return wasmtest.Cat(wasmtest.I32Const(at), wasmtest.I32Const(v), wasmtest.Op(0x36, 2, 0))
	}
	call := func(f uint32, args ...int32) []byte { return wasmtest.Cat(wasmtest.Call(f, args...), wasmtest.Drop) }
	// 0x400: a subscription to the monotonic clock, three seconds from now.
	b.Data(0x400+24, "\x00\x5e\xd0\xb2\x00\x00\x00\x00").Data(0x410, "\x01")
	b.Start("",
		call(argsGet, 0x1000, 0x1100), call(environGet, 0x1200, 0x1300),
		readClock(0, 0x1400), readClock(1, 0x1408), readClock(2, 0x1410), readClock(3, 0x1418),
		call(poll, 0x400, 0x1500, 1, 0x1600),
		readClock(0, 0x1420), readClock(1, 0x1428),
		call(random, 0x1700, 256),
		call(fdstat, 0, 0x1800), call(fdstat, 1, 0x1820), call(filestat, 2, 0x1840),
		store(0x100, 0x1900), store(0x104, 256), call(read, 0, 0x100, 1, 0x1a00),
		wasmtest.I32Const(0x1a04), // where the errno of path_open goes
		wasmtest.I32Const(3), wasmtest.I32Const(0), wasmtest.I32Const(0x1100), wasmtest.I32Const(5), wasmtest.I32Const(0),
		wasmtest.I64Const(-1), wasmtest.I64Const(-1), wasmtest.I32Const(0), wasmtest.I32Const(0x1a08),
		wasmtest.U32([]byte{0x10}, open), wasmtest.Op(0x36, 2, 0),
		wasmtest.I32Const(2), wasmtest.Op(0x40, 0, 0x1a), // two more pages, which are zero
		store(0x100, 0x1000), store(0x104, 0x1000), store(0x108, 0x20000), store(0x10c, 64),
		call(output, 1, 0x100, 2, 0x200))
	return b.Bytes()
}
