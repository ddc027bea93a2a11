package sandbox

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A stored is the files of one program, as trim finds them.
type stored struct {
	id       string
	complete bool      // its program's file is there
	used     time.Time // or, of an incomplete one, when the last of its files was made
	bytes    int64
}

// trim removes what was left incomplete long ago, and then the programs that
// were least recently used, all but keep, until the directory is within its
// bound. Files of other names are not its own.
func (s *store) trim(keep string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	programs := map[string]*stored{}
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		id, suffix, _ := strings.Cut(e.Name(), ".")
		suffix = "." + suffix
		if strings.HasPrefix(e.Name(), newPrefix) {
			if time.Since(info.ModTime()) > abandonedAfter {
				_ = os.Remove(filepath.Join(s.dir, e.Name()))
			}
			continue
		}
		if suffix != programSuffix && suffix != codeSuffix && suffix != nativeSuffix {
			continue
		}
		p := programs[id]
		if p == nil {
			p = &stored{id: id}
			programs[id] = p
		}
		if suffix == programSuffix || !p.complete && info.ModTime().After(p.used) {
			p.used = info.ModTime()
		}
		p.complete = p.complete || suffix == programSuffix
		p.bytes += info.Size()
		total += info.Size()
	}
	for _, p := range slices.SortedFunc(maps.Values(programs), func(a, b *stored) int { return a.used.Compare(b.used) }) {
		abandoned := !p.complete && time.Since(p.used) > abandonedAfter
		if p.id != keep && (abandoned || p.complete && total > s.maxBytes) {
			s.remove(p.id)
			total -= p.bytes
		}
	}
}
