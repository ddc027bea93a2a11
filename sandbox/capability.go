package sandbox

import "strings"

// HostInterface is the version of the host interface: the functions below,
// their semantics, and their grouping. It is part of a contract.
const HostInterface = 1

// wasiModule is the only module that guests may import from.
const wasiModule = "wasi_snapshot_preview1"

// A capability is the index of its name in capNames.
type capability uint8

const (
	capArgs   capability = iota // arguments and environment
	capClock                    // the logical clock and waiting on it
	capRandom                   // seeded randomness
	capStdio                    // always granted
)

// capNames is in ascending order, as contracts list them.
var capNames = [...]string{capArgs: "args", capClock: "clock", capRandom: "random", capStdio: "stdio"}

// A HostFunction is one function of the host interface.
type HostFunction struct {
	Module, Name string
	Signature    string // as in "(i32, i64) i32"
	Capability   string // the capability that grants it
}

// Capabilities returns the whole host interface in a fixed order. Version 1:
//
//   - stdio (always granted): standard streams and the end of the program,
//     that is fd_*, sched_yield, proc_exit and proc_raise; and, because there
//     are no files and sockets, path_* and sock_*, which answer that no such
//     descriptor exists, so that programs linked against them still start.
//   - args: args_* and environ_*.
//   - clock: clock_* and poll_oneoff.
//   - random: random_get.
//
// A command built by Go imports functions of all four.
func Capabilities() []HostFunction {
	list := make([]HostFunction, len(hostFuncs))
	for i, f := range hostFuncs {
		list[i] = HostFunction{wasiModule, f.name, f.signature(), capNames[f.cap]}
	}
	return list
}

// A hostFunc is one row of the host interface. Params has a letter for each
// parameter: i for i32, I for i64. Every function but proc_exit returns one
// errno.
type hostFunc struct {
	name   string
	params string
	cap    capability
	call   func(g *guest, mem []byte, a args) errno
}

func (f *hostFunc) returns() bool { return f.name != "proc_exit" }

func (f *hostFunc) signature() string {
	list := make([]string, len(f.params))
	for i, p := range f.params {
		list[i] = "i32"
		if p == 'I' {
			list[i] = "i64"
		}
	}
	s := "(" + strings.Join(list, ", ") + ")"
	if f.returns() {
		s += " i32"
	}
	return s
}

// hostFuncs is host interface version 1: all of WASI preview 1.
var hostFuncs = []hostFunc{
	{"args_get", "ii", capArgs, argsGet},
	{"args_sizes_get", "ii", capArgs, argsSizesGet},
	{"clock_res_get", "ii", capClock, clockResGet},
	{"clock_time_get", "iIi", capClock, clockTimeGet},
	{"environ_get", "ii", capArgs, environGet},
	{"environ_sizes_get", "ii", capArgs, environSizesGet},
	{"fd_advise", "iIIi", capStdio, onStream(errSeekPipe)},
	{"fd_allocate", "iII", capStdio, onStream(errSeekPipe)},
	{"fd_close", "i", capStdio, fdClose},
	{"fd_datasync", "i", capStdio, onStream(errInvalid)},
	{"fd_fdstat_get", "ii", capStdio, fdStatGet},
	{"fd_fdstat_set_flags", "ii", capStdio, fdStatSetFlags},
	{"fd_fdstat_set_rights", "iII", capStdio, onStream(errNotCapable)},
	{"fd_filestat_get", "ii", capStdio, fdFileStatGet},
	{"fd_filestat_set_size", "iI", capStdio, onStream(errInvalid)},
	{"fd_filestat_set_times", "iIIi", capStdio, onStream(errInvalid)},
	{"fd_pread", "iiiIi", capStdio, onStream(errSeekPipe)},
	{"fd_prestat_dir_name", "iii", capStdio, answer(errBadFD)},
	{"fd_prestat_get", "ii", capStdio, answer(errBadFD)},
	{"fd_pwrite", "iiiIi", capStdio, onStream(errSeekPipe)},
	{"fd_read", "iiii", capStdio, fdRead},
	{"fd_readdir", "iiiIi", capStdio, onStream(errNotDir)},
	{"fd_renumber", "ii", capStdio, onStream(errNotSupported)},
	{"fd_seek", "iIii", capStdio, onStream(errSeekPipe)},
	{"fd_sync", "i", capStdio, onStream(errInvalid)},
	{"fd_tell", "ii", capStdio, onStream(errSeekPipe)},
	{"fd_write", "iiii", capStdio, fdWrite},
	{"path_create_directory", "iii", capStdio, onStream(errNotDir)},
	{"path_filestat_get", "iiiii", capStdio, onStream(errNotDir)},
	{"path_filestat_set_times", "iiiiIIi", capStdio, onStream(errNotDir)},
	{"path_link", "iiiiiii", capStdio, onStream(errNotDir)},
	{"path_open", "iiiiiIIii", capStdio, onStream(errNotDir)},
	{"path_readlink", "iiiiii", capStdio, onStream(errNotDir)},
	{"path_remove_directory", "iii", capStdio, onStream(errNotDir)},
	{"path_rename", "iiiiii", capStdio, onStream(errNotDir)},
	{"path_symlink", "iiiii", capStdio, pathSymlink},
	{"path_unlink_file", "iii", capStdio, onStream(errNotDir)},
	{"poll_oneoff", "iiii", capClock, pollOneoff},
	{"proc_exit", "i", capStdio, procExit},
	{"proc_raise", "i", capStdio, answer(errNoSys)},
	{"random_get", "ii", capRandom, randomGet},
	{"sched_yield", "", capStdio, answer(success)},
	{"sock_accept", "iii", capStdio, onStream(errNotSock)},
	{"sock_recv", "iiiiii", capStdio, onStream(errNotSock)},
	{"sock_send", "iiiii", capStdio, onStream(errNotSock)},
	{"sock_shutdown", "ii", capStdio, onStream(errNotSock)},
}

var hostFuncByName = func() map[string]*hostFunc {
	m := make(map[string]*hostFunc, len(hostFuncs))
	for i := range hostFuncs {
		m[hostFuncs[i].name] = &hostFuncs[i]
	}
	return m
}()
