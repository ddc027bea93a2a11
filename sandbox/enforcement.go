package sandbox

// Enforcement says what confines a worker process, as the worker itself found
// it: each field is set only after the system accepted the restriction. It is
// for operators to see; a worker that was taken over later could not lift what
// the system enforces.
type Enforcement struct {
	Process        bool // a process of its own, with an empty environment and no descriptors but its pipes
	ProcessGroup   bool // a process group of its own, killed as a whole
	EmptyDirectory bool // works in an empty private directory
	ParentDeath    bool // the system kills it when the pool's process ends
	NoNewPrivs     bool // cannot gain privileges by executing files
	NoCoreDumps    bool
	NoFileWrites   bool // cannot extend any file
	OpenFiles      bool // descriptors are limited to a handful
	Filesystem     bool // sees no file but its own directory, which it cannot change, and the binary's libraries
	SystemCalls    bool // may make only the system calls that it needs: none to a network, another process or a program
	CPUTime        bool // processor time is limited
	AddressSpace   bool // all of its mappings together are limited, of whatever kind
	Watched        bool // the pool ends it when it has more memory or threads than it may
	// MemoryBytes is the enforced limit on the worker's data; 0 if it is not enforced.
	MemoryBytes int64
	Note        string // why something is not enforced, if anything is not
}

func (e *Enforcement) flags() []*bool {
	return []*bool{&e.Process, &e.ProcessGroup, &e.EmptyDirectory, &e.ParentDeath, &e.NoNewPrivs,
		&e.NoCoreDumps, &e.NoFileWrites, &e.OpenFiles, &e.Filesystem, &e.SystemCalls, &e.CPUTime, &e.AddressSpace, &e.Watched}
}

// Names are short names of what is enforced, in a fixed order.
func (e Enforcement) Names() []string {
	names := []string{"process", "process_group", "empty_directory", "parent_death", "no_new_privileges",
		"no_core_dumps", "no_file_writes", "open_files", "filesystem", "system_calls", "cpu_time", "address_space", "memory_watched"}
	var list []string
	for i, on := range e.flags() {
		if *on {
			list = append(list, names[i])
		}
	}
	if e.MemoryBytes > 0 {
		list = append(list, "memory")
	}
	return list
}

// workerCacheFile bounds one file that a compiling worker writes: native code is
// four times its module in practice.
const workerCacheFile = 256 << 20
