package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/mod/semver"
)

// format names the structure below; it changes with it.
const format = "tallystick-inventory/1"

// An inventoryFile is the output. Its members are in ascending order, as in all
// canonical JSON.
type inventoryFile struct {
	Counts  counts        `json:"counts"`
	Digest  string        `json:"digest"` // SHA-256 of the lines of the go.sum file in sorted order
	Format  string        `json:"format"`
	Modules []moduleEntry `json:"modules"` // by path
}

type counts struct {
	GoModOnly int `json:"go_mod_only"` // versions whose source is not pinned
	Modules   int `json:"modules"`
	Versions  int `json:"versions"`
}

type moduleEntry struct {
	Path     string         `json:"path"`
	Versions []versionEntry `json:"versions"` // oldest first
}

type versionEntry struct {
	GoMod   string `json:"go_mod,omitempty"`
	Source  string `json:"source,omitempty"`
	Version string `json:"version"`
}

// inventory arranges the lines by module and version.
func inventory(lines []sumLine) ([]byte, error) {
	slices.SortFunc(lines, func(a, b sumLine) int {
		return cmp.Or(
			cmp.Compare(a.Path, b.Path),
			semver.Compare(a.Version.Version, b.Version.Version),
			cmp.Compare(a.Version.Version, b.Version.Version),
		)
	})
	f := inventoryFile{Digest: digest(lines), Format: format, Modules: []moduleEntry{}}
	for _, l := range lines {
		if n := len(f.Modules); n == 0 || f.Modules[n-1].Path != l.Path {
			f.Modules = append(f.Modules, moduleEntry{Path: l.Path})
		}
		m := &f.Modules[len(f.Modules)-1]
		if n := len(m.Versions); n == 0 || m.Versions[n-1].Version != l.Version.Version {
			m.Versions = append(m.Versions, versionEntry{Version: l.Version.Version})
		}
		v := &m.Versions[len(m.Versions)-1]
		if l.goMod {
			v.GoMod = l.hash
		} else {
			v.Source = l.hash
		}
	}
	f.Counts.Modules = len(f.Modules)
	for _, m := range f.Modules {
		f.Counts.Versions += len(m.Versions)
		for _, v := range m.Versions {
			if v.Source == "" {
				f.Counts.GoModOnly++
			}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(f); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// digest does not depend on the order of the lines in the file.
func digest(lines []sumLine) string {
	texts := make([]string, len(lines))
	for i, l := range lines {
		suffix := ""
		if l.goMod {
			suffix = goModSuffix
		}
		texts[i] = fmt.Sprintf("%s %s%s %s\n", l.Path, l.Version.Version, suffix, l.hash)
	}
	slices.Sort(texts)
	h := sha256.New()
	for _, t := range texts {
		h.Write([]byte(t))
	}
	return hex.EncodeToString(h.Sum(nil))
}
