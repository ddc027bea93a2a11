// Command coverbar prints the statement coverage of each package from a Go
// cover profile and fails when a package that the project holds to a bar is
// below it.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
)

const module = "github.com/tallystick/tallystick/"

// bar is what each of these packages must reach, in percent.
const bar = 90.0

var held = map[string]bool{
	"record": true, "membership": true, "contract": true, "provenance": true,
	"internal/digest": true, "internal/strictjson": true, "internal/dsse": true, "internal/edkey": true,
	"verifier": true, "verifier/checkpoint": true, "verifier/compare": true, "verifier/member": true, "verifier/tiles": true, "verifier/wholelog": true,
	"logserver": true, "logserver/internal/direct": true, "logserver/export": true, "logserver/importer": true,
	"witness": true, "controlapi": true, "node": true,
	"sandbox/rewrite": true, "sandbox/wasm": true,
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: coverbar PROFILE")
		os.Exit(2)
	}
	below, err := report(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "coverbar:", err)
		os.Exit(1)
	}
	if below > 0 {
		fmt.Fprintf(os.Stderr, "coverbar: %d packages are below %.0f %%\n", below, bar)
		os.Exit(1)
	}
}

// report prints one line per package and returns how many held ones are below
// the bar. A block that several test binaries saw counts once, covered if any
// of them covered it.
func report(profile string) (int, error) {
	f, err := os.Open(profile)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	type block struct {
		statements int
		covered    bool
	}
	blocks := map[string]*block{}
	scan := bufio.NewScanner(f)
	scan.Scan() // the mode line
	for scan.Scan() {
		fields := strings.Fields(scan.Text())
		if len(fields) != 3 {
			return 0, fmt.Errorf("%s: malformed line %q", profile, scan.Text())
		}
		n, err := strconv.Atoi(fields[1])
		if err != nil {
			return 0, fmt.Errorf("%s: %w", profile, err)
		}
		b := blocks[fields[0]]
		if b == nil {
			b = &block{statements: n}
			blocks[fields[0]] = b
		}
		b.covered = b.covered || fields[2] != "0"
	}
	if err := scan.Err(); err != nil {
		return 0, err
	}
	total, covered := map[string]int{}, map[string]int{}
	for where, b := range blocks {
		file, _, _ := strings.Cut(where, ":")
		pkg := strings.TrimPrefix(path.Dir(file), module)
		total[pkg] += b.statements
		if b.covered {
			covered[pkg] += b.statements
		}
	}
	names := make([]string, 0, len(total))
	for pkg := range total {
		if !strings.HasPrefix(pkg, "proto/") {
			names = append(names, pkg)
		}
	}
	sort.Strings(names)
	below := 0
	for _, pkg := range names {
		percent := 100 * float64(covered[pkg]) / float64(max(1, total[pkg]))
		mark := ""
		if held[pkg] {
			mark = "held"
			if percent < bar {
				mark = "BELOW THE BAR"
				below++
			}
		}
		fmt.Printf("coverage %5.1f %%  %-28s %s\n", percent, pkg, mark)
	}
	return below, nil
}
