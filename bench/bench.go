package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run. Its groups run one after the other on one goroutine.
type bench struct {
	ctx       context.Context
	logserver string // binaries
	tessera   string
	base      string
	quick     bool
	only      *regexp.Regexp
	shape     shape

	dir     string // of this run, below base
	fresh   int    // directories handed out
	results map[string]*outcome
	others  series // cores that others used, in each series
	clients series // cores that the client of a server used, in each series over HTTP
}

// group measures some rows together, so that their series alternate.
type group struct {
	rows []string
	run  func(*bench) error
	// appends are the sides that it has append: they are shown to sync first.
	appends []string
}

// groups in the order in which they run. The large log comes last: it leaves
// gigabytes to write back.
var groups = []group{
	{[]string{rowLone}, (*bench).lone, inProcess},
	{[]string{rowSingle, rowBatch, rowBatchPebble, rowBatchLarge, rowDedup, rowDedupRatio}, (*bench).appends, inProcess},
	{[]string{rowAdd, rowAddEmpty}, (*bench).adds, overHTTP},
	{[]string{rowAddBatch, rowAddStream}, (*bench).messages, overHTTP},
	{[]string{rowLatency50, rowLatency99}, (*bench).latency, overHTTP},
	{[]string{rowProof, rowProof99}, (*bench).proofs, overHTTP},
	{[]string{rowTiles, rowTilesMemory}, (*bench).tiles, nil},
	{[]string{rowVerify, rowVerifyAllocs}, (*bench).verification, nil},
	{[]string{rowBytesLarge, rowBytesLone}, (*bench).written, inProcess},
	{[]string{rowDisk, rowMemory, rowStartClean, rowStartKilled, rowSignClean, rowSignKilled,
		rowGrown, rowGrownBatch, rowInclusionHot, rowInclusionCold}, (*bench).large, inProcess},
}

// rounds is how often each side is measured.
func (b *bench) rounds() int {
	if b.quick {
		return 1
	}
	return 3
}

// window is how long one series is measured, warm how long it runs before.
func (b *bench) window() time.Duration {
	if b.quick {
		return 500 * time.Millisecond
	}
	return 4 * time.Second
}

func (b *bench) warm() time.Duration {
	if b.quick {
		return 200 * time.Millisecond
	}
	return 1500 * time.Millisecond
}

// tmpfsMagic is the type of a file system in memory, which syncs nothing.
const tmpfsMagic = 0x01021994

var errInMemory = errors.New("directory is not on a disk but in memory, name another with -dir")

// prepare checks what is needed and makes the directory of the run.
func (b *bench) prepare() error {
	if b.logserver == "" || b.tessera == "" {
		return errors.New("-logserver and -tessera are required: scripts/bench-log builds both")
	}
	if runtime.GOOS != "linux" {
		return errors.New("only Linux is supported")
	}
	base := b.base
	if base == "" {
		base = os.TempDir()
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(base, &fs); err != nil {
		return fmt.Errorf("examining %q: %w", base, err)
	}
	if fs.Type == tmpfsMagic {
		return fmt.Errorf("%w: %q", errInMemory, base)
	}
	var err error
	b.dir, err = os.MkdirTemp(base, "bench-log-")
	return err
}

// cleanUp removes everything that was written, at the very end.
func (b *bench) cleanUp() error { return os.RemoveAll(b.dir) }

// newDir returns the path of a directory that nobody has used; it does not
// exist yet.
func (b *bench) newDir(name string) string {
	b.fresh++
	return filepath.Join(b.dir, fmt.Sprintf("%03d-%s", b.fresh, name))
}

// wants reports whether a row is to be measured.
func (b *bench) wants(name string) bool {
	for _, r := range rows {
		if r.name == name {
			return b.only.MatchString(name) && (b.shape == plain || !r.plainOnly)
		}
	}
	return false
}

func (b *bench) wanted() []row {
	var out []row
	for _, r := range rows {
		if b.wants(r.name) {
			out = append(out, r)
		}
	}
	return out
}

// measure runs the groups that have a wanted row. An error is the outcome of
// the group's rows that have none.
func (b *bench) measure() {
	b.syncs()
	for _, g := range groups {
		var names []string
		for _, name := range g.rows {
			if b.wants(name) {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			continue
		}
		err := b.ctx.Err()
		if err == nil {
			err = g.run(b)
		}
		for _, name := range names {
			if o := b.result(name); err != nil && len(o.ours) == 0 && o.missing == "" {
				o.err = err
			} else if len(o.ours) == 0 && o.missing == "" {
				o.err = errors.New("nothing was measured")
			}
		}
	}
	fmt.Printf("disk      sync of 4 KiB p50 %v at the end\n", b.fsync())
	if len(b.others) > 0 {
		fmt.Printf("others    used %s%s cores in a series\n", figure(b.others.median()), b.others.spread())
	}
	if len(b.clients) > 0 {
		fmt.Printf("client    used %s%s of the cores in a series over HTTP, beside the server\n", figure(b.clients.median()), b.clients.spread())
	}
}

// result returns the outcome of a row, to be filled in.
func (b *bench) result(name string) *outcome {
	o := b.results[name]
	if o == nil {
		o = new(outcome)
		b.results[name] = o
	}
	return o
}

// note prints what one series measured, as it goes.
func (b *bench) note(side string, r report, text string) {
	b.others = append(b.others, r.CPU.Others)
	used := fmt.Sprintf("%.2f cores", r.CPU.Self)
	if r.CPU.Server > 0 {
		b.clients = append(b.clients, r.CPU.Self)
		used = fmt.Sprintf("%.2f cores client, %.2f server", r.CPU.Self, r.CPU.Server)
	}
	fmt.Printf("  %-36s %s; %s, %.2f others\n", side, text, used, r.CPU.Others)
}
