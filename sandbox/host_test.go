package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// TestInterfaceIsPreview1 compares the table with the engine's own WASI
// preview 1: same functions, same signatures.
func TestInterfaceIsPreview1(t *testing.T) {
	r := wazero.NewRuntime(t.Context())
	defer r.Close(context.Background())
	m, err := wasi_snapshot_preview1.NewBuilder(r).Compile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	theirs := m.ExportedFunctions()
	for _, f := range Capabilities() {
		def := theirs[f.Name]
		if def == nil {
			t.Errorf("%s is not in WASI preview 1", f.Name)
			continue
		}
		var params []string
		for _, p := range def.ParamTypes() {
			params = append(params, api.ValueTypeName(p))
		}
		want := "(" + strings.Join(params, ", ") + ")"
		if len(def.ResultTypes()) == 1 {
			want += " i32"
		}
		if f.Signature != want || f.Module != wasi_snapshot_preview1.ModuleName {
			t.Errorf("%s.%s has signature %s, want %s", f.Module, f.Name, f.Signature, want)
		}
	}
	for name := range theirs {
		if hostFuncByName[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestEngineVersion(t *testing.T) {
	b, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/tetratelabs/wazero " + engineVersion; !bytes.Contains(b, []byte(want)) {
		t.Errorf("go.mod does not say %q", want)
	}
}

// A hostTest calls host functions directly, with 4 KiB of memory.
type hostTest struct {
	t   *testing.T
	g   *guest
	mem []byte
}

func newHostTest(t *testing.T) *hostTest {
	job := newJob(nil)
	return &hostTest{t, newGuest(t.Context(), &job), make([]byte, 4096)}
}

// call calls a function and checks its errno.
func (h *hostTest) call(want errno, name string, arguments ...uint64) {
	h.t.Helper()
	f := hostFuncByName[name]
	a := make(args, max(len(arguments), len(f.params)))
	copy(a, arguments)
	if got := f.call(h.g, h.mem, a); got != want {
		h.t.Errorf("%s%v answers errno %d, want %d", name, arguments, got, want)
	}
}

func (h *hostTest) u32(at int) uint32 { return binary.LittleEndian.Uint32(h.mem[at:]) }
func (h *hostTest) u64(at int) uint64 { return binary.LittleEndian.Uint64(h.mem[at:]) }

// put writes 32-bit words to memory.
func (h *hostTest) put(at int, words ...uint32) {
	for i, w := range words {
		binary.LittleEndian.PutUint32(h.mem[at+4*i:], w)
	}
}

func TestArguments(t *testing.T) {
	h := newHostTest(t)
	h.call(success, "args_sizes_get", 0, 4)
	if h.u32(0) != 2 || h.u32(4) != 10 {
		t.Errorf("sizes are %d and %d", h.u32(0), h.u32(4))
	}
	h.call(success, "args_get", 0, 100)
	if h.u32(0) != 100 || h.u32(4) != 106 || string(h.mem[100:110]) != "guest\x00one\x00" {
		t.Errorf("arguments at %d and %d: %q", h.u32(0), h.u32(4), h.mem[100:110])
	}
	h.call(success, "environ_sizes_get", 0, 4)
	if h.u32(0) != 1 || h.u32(4) != 10 {
		t.Errorf("sizes are %d and %d", h.u32(0), h.u32(4))
	}
	h.call(success, "environ_get", 0, 100)
	if string(h.mem[100:110]) != "KEY=value\x00" {
		t.Errorf("environment is %q", h.mem[100:110])
	}
	h.call(errFault, "args_get", 4090, 100)
	h.call(errFault, "args_get", 0, 4090)
	h.call(errFault, "args_sizes_get", 4094, 0)
	h.call(errFault, "args_sizes_get", 0, 4094)
}

func TestReadAndWrite(t *testing.T) {
	h := newHostTest(t)
	h.put(0, 100, 3, 200, 100) // two buffers
	h.call(success, "fd_read", 0, 0, 2, 50)
	if string(h.mem[100:103])+string(h.mem[200:202]) != "input" || h.u32(50) != 5 {
		t.Errorf("read %d bytes: %q %q", h.u32(50), h.mem[100:103], h.mem[200:202])
	}
	h.call(success, "fd_read", 0, 0, 2, 50)
	if h.u32(50) != 0 {
		t.Errorf("read %d bytes at the end", h.u32(50))
	}
	h.put(8, 200, 2)
	h.call(success, "fd_write", 1, 0, 2, 50)
	if string(h.g.output) != "input" || h.u32(50) != 5 {
		t.Errorf("wrote %q, count %d", h.g.output, h.u32(50))
	}
	for range 3 {
		h.call(success, "fd_write", 2, 0, 2, 50)
	}
	if string(h.g.diag) != "inputinp" || h.u32(50) != 5 {
		t.Errorf("diagnostics %q, count %d", h.g.diag, h.u32(50))
	}

	before := string(h.g.output)
	h.call(errBadFD, "fd_read", 1, 0, 2, 50)
	h.call(errBadFD, "fd_read", 3, 0, 2, 50)
	h.call(errBadFD, "fd_write", 0, 0, 2, 50)
	h.call(errBadFD, "fd_write", 9, 0, 2, 50)
	h.call(errFault, "fd_write", 1, 4090, 1, 50)
	h.call(errFault, "fd_write", 1, 0, 2, 4094)
	h.call(errFault, "fd_read", 0, 0, 2, 4094)
	h.call(errInvalid, "fd_write", 1, 4090, maxIovecs+1, 50) // the number comes before the list's pointer
	h.call(errFault, "fd_write", 1, 0, maxIovecs+1, 4094)    // and after the count's
	h.put(8, 4000, 97)                                       // the second buffer is one byte too long
	h.call(errFault, "fd_write", 1, 0, 2, 50)
	h.call(errFault, "fd_read", 0, 0, 2, 50)
	if string(h.g.output) != before {
		t.Errorf("a refused write left %q", h.g.output)
	}
}

func TestWriteOfTooManyBytes(t *testing.T) {
	h := newHostTest(t)
	h.mem = make([]byte, 4<<20)
	for i := range uint32(maxIovecs) {
		h.put(int(8*i), 8192, 4<<20-8192)
	}
	h.call(errInvalid, "fd_write", 1, 0, maxIovecs, 8188)
}

func TestClosedStreams(t *testing.T) {
	h := newHostTest(t)
	h.put(0, 100, 3)
	for fd := range uint64(3) {
		h.call(success, "fd_fdstat_get", fd, 200)
		h.call(success, "fd_close", fd)
		h.call(errBadFD, "fd_close", fd)
		h.call(errBadFD, "fd_fdstat_get", fd, 200)
	}
	h.call(errBadFD, "fd_read", 0, 0, 1, 50)
	h.call(errBadFD, "fd_write", 1, 0, 1, 50)
	h.call(errBadFD, "fd_write", 2, 0, 1, 50)
	h.call(errBadFD, "fd_close", 3)
}

func TestStreamStatus(t *testing.T) {
	h := newHostTest(t)
	h.call(success, "fd_fdstat_set_flags", 1, 4)
	h.call(errInvalid, "fd_fdstat_set_flags", 1, 0x20)
	h.call(errBadFD, "fd_fdstat_set_flags", 3, 0)
	h.call(success, "fd_fdstat_get", 1, 0)
	if h.mem[0] != 0 || h.mem[2] != 4 || h.u64(8) != rightWrite|rightPoll {
		t.Errorf("fdstat is %x", h.mem[:24])
	}
	h.call(success, "fd_fdstat_get", 0, 0)
	if h.u64(8) != rightRead|rightPoll {
		t.Errorf("rights of standard input are %#x", h.u64(8))
	}
	h.call(errFault, "fd_fdstat_get", 0, 4080)
	h.call(success, "fd_filestat_get", 0, 0)
	h.call(errFault, "fd_filestat_get", 0, 4080)
	h.call(errBadFD, "fd_filestat_get", 3, 0)
}

// TestNoFiles checks that everything about files, directories and sockets
// answers an error and touches nothing.
func TestNoFiles(t *testing.T) {
	wants := map[string]errno{
		"fd_advise": errSeekPipe, "fd_allocate": errSeekPipe, "fd_seek": errSeekPipe, "fd_tell": errSeekPipe,
		"fd_pread": errSeekPipe, "fd_pwrite": errSeekPipe, "fd_datasync": errInvalid, "fd_sync": errInvalid,
		"fd_filestat_set_size": errInvalid, "fd_filestat_set_times": errInvalid, "fd_readdir": errNotDir,
		"fd_fdstat_set_rights": errNotCapable, "fd_renumber": errNotSupported,
	}
	for i := range hostFuncs {
		name := hostFuncs[i].name
		want, ok := wants[name]
		switch {
		case strings.HasPrefix(name, "path_"):
			want, ok = errNotDir, true
		case strings.HasPrefix(name, "sock_"):
			want, ok = errNotSock, true
		case strings.HasPrefix(name, "fd_prestat"):
			want, ok = errBadFD, true
		}
		if !ok {
			continue
		}
		h := newHostTest(t)
		h.call(want, name, 1, 1, 1)
		h.call(errBadFD, name, 3, 3, 3)
		if !bytes.Equal(h.mem, make([]byte, 4096)) {
			t.Errorf("%s wrote to memory", name)
		}
	}
	newHostTest(t).call(errNoSys, "proc_raise", 9)
	newHostTest(t).call(success, "sched_yield")
}

func TestClock(t *testing.T) {
	h := newHostTest(t)
	h.call(success, "clock_res_get", 0, 0)
	if h.u64(0) != ClockStep {
		t.Errorf("resolution is %d", h.u64(0))
	}
	for i := range uint64(4) {
		h.call(success, "clock_time_get", i, 1, 0)
		if want := clockBase(uint32(i)) + (i+1)*ClockStep; h.u64(0) != want {
			t.Errorf("clock %d reads %d, want %d", i, h.u64(0), want)
		}
	}
	h.call(errInvalid, "clock_time_get", 4, 1, 0)
	h.call(errInvalid, "clock_res_get", 4, 0)
	h.call(errFault, "clock_time_get", 0, 1, 4092)
	h.call(errFault, "clock_res_get", 0, 4092)
	h.call(errInvalid, "clock_time_get", 4, 1, 4092) // the id comes first
	h.call(success, "clock_time_get", 1, 1, 0)
	if h.u64(0) != 5*ClockStep {
		t.Errorf("after readings that failed the clock reads %d, want %d", h.u64(0), 5*ClockStep)
	}
}

// subscribe writes a subscription; a is the clock's id or the descriptor.
func (h *hostTest) subscribe(i int, kind byte, a uint32, timeout uint64, flags uint16) {
	b := h.mem[i*subscriptionSize:][:subscriptionSize]
	clear(b)
	binary.LittleEndian.PutUint64(b, uint64(100+i))
	b[8] = kind
	binary.LittleEndian.PutUint32(b[16:], a)
	binary.LittleEndian.PutUint64(b[24:], timeout)
	binary.LittleEndian.PutUint16(b[40:], flags)
}

// events returns user data and errno of each event.
func (h *hostTest) events() (list [][2]uint64) {
	for i := range int(h.u32(3000)) {
		at := 2000 + i*eventSize
		list = append(list, [2]uint64{h.u64(at), uint64(binary.LittleEndian.Uint16(h.mem[at+8:]))})
	}
	return list
}

func TestPoll(t *testing.T) {
	h := newHostTest(t)
	poll := func(n uint64, want ...[2]uint64) {
		t.Helper()
		h.call(success, "poll_oneoff", 0, 2000, n, 3000)
		if got := h.events(); !slices.Equal(got, want) {
			t.Errorf("events are %v, want %v", got, want)
		}
	}
	// The earlier of two clocks is reached, at no cost.
	h.subscribe(0, eventClock, 1, 5e9, 0)
	h.subscribe(1, eventClock, 0, 3e9, 0)
	poll(2, [2]uint64{101, 0})
	if h.g.elapsed != 3e9 {
		t.Errorf("clock is at %d", h.g.elapsed)
	}
	// Absolute deadlines, of the real time and of the monotonic clock; one passed.
	h.subscribe(0, eventClock, 0, ClockOrigin+4e9, clockAbsolute)
	h.subscribe(1, eventClock, 1, 4e9, clockAbsolute)
	poll(2, [2]uint64{100, 0}, [2]uint64{101, 0})
	h.subscribe(0, eventClock, 0, 5, clockAbsolute)
	poll(1, [2]uint64{100, 0})
	if h.g.elapsed != 4e9 {
		t.Errorf("clock is at %d", h.g.elapsed)
	}
	// A stream is ready before any clock; a bad descriptor or clock is an event.
	h.subscribe(0, eventClock, 0, 1, 0)
	h.subscribe(1, eventFDRead, 0, 0, 0)
	h.subscribe(2, eventFDWrite, 7, 0, 0)
	h.subscribe(3, eventClock, 9, 0, 0)
	poll(4, [2]uint64{101, 0}, [2]uint64{102, uint64(errBadFD)}, [2]uint64{103, uint64(errInvalid)})
	if h.u64(2016) != 5 || h.mem[2024] != 0 {
		t.Errorf("standard input has %d bytes, flags %d", h.u64(2016), h.mem[2024])
	}
	h.g.input = nil
	h.subscribe(0, eventFDRead, 0, 0, 0)
	poll(1, [2]uint64{100, 0})
	if h.u64(2016) != 0 || h.mem[2024] != eventHangup {
		t.Errorf("standard input has %d bytes, flags %d", h.u64(2016), h.mem[2024])
	}
	// Sums saturate.
	for range 3 {
		h.subscribe(0, eventClock, 1, 1<<64-1, 0)
		poll(1, [2]uint64{100, 0})
	}
	if h.g.elapsed != clockEnd {
		t.Errorf("clock is at %d", h.g.elapsed)
	}

	h.call(errInvalid, "poll_oneoff", 0, 2000, 0, 3000)
	h.call(errInvalid, "poll_oneoff", 0, 2000, maxSubscriptions+1, 4094) // the number comes first
	h.call(errFault, "poll_oneoff", 4090, 2000, 1, 3000)
	h.call(errFault, "poll_oneoff", 0, 4090, 1, 3000)
	h.call(errFault, "poll_oneoff", 0, 2000, 1, 4094)
	h.subscribe(0, 3, 0, 0, 0)
	h.call(errInvalid, "poll_oneoff", 0, 2000, 1, 3000)
}

// TestRandomStream pins the first bytes of a stream, which are part of host
// interface version 1, and checks that seed and input both matter.
func TestRandomStream(t *testing.T) {
	h := newHostTest(t)
	h.call(success, "random_get", 0, 16)
	h.call(success, "random_get", 16, 16)
	const want = "d3eea8616af980d11855da38272f4780ba37bdd4ed35840e6977a0a8b4a40e98"
	if got := hex.EncodeToString(h.mem[:32]); got != want {
		t.Errorf("stream begins with %s, want %s", got, want)
	}
	for name, change := range map[string]func(*Job){
		"seed":  func(j *Job) { j.Seed[0]++ },
		"input": func(j *Job) { j.Input = []byte("other") },
	} {
		job := newJob(nil)
		change(&job)
		other := &hostTest{t, newGuest(t.Context(), &job), make([]byte, 4096)}
		other.call(success, "random_get", 0, 32)
		if bytes.Equal(other.mem[:32], h.mem[:32]) {
			t.Errorf("another %s has the same stream", name)
		}
	}
	h.call(errFault, "random_get", 4090, 16)
}
