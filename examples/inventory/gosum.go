package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/module"
)

// A sumLine is one line of a go.sum file: the hash of a module's files, or of
// its go.mod file only.
type sumLine struct {
	module.Version
	goMod bool
	hash  string // "h1:" and the base64 form of 32 bytes
}

const (
	goModSuffix = "/go.mod"
	hashPrefix  = "h1:" // the only hash algorithm there is
	hashSize    = 32
)

// parse reads a go.sum file: lines "path version hash", each ended by a
// newline, in any order, without repeats. The go command is more lenient; what
// it writes passes.
func parse(data string) ([]sumLine, error) {
	var lines []sumLine
	seen := map[string]int{} // line number of path and version
	for number := 1; data != ""; number++ {
		line, rest, ok := strings.Cut(data, "\n")
		if !ok {
			return nil, fmt.Errorf("line %d: not ended by a newline", number)
		}
		data = rest
		l, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		key := line[:strings.LastIndexByte(line, ' ')]
		if first := seen[key]; first > 0 {
			return nil, fmt.Errorf("line %d: %q is already on line %d", number, key, first)
		}
		seen[key] = number
		lines = append(lines, l)
	}
	return lines, nil
}

func parseLine(line string) (l sumLine, err error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 {
		return l, errors.New("not of the form \"path version hash\"")
	}
	l.Path, l.Version.Version, l.hash = fields[0], fields[1], fields[2]
	l.Version.Version, l.goMod = strings.CutSuffix(l.Version.Version, goModSuffix)
	if err := module.Check(l.Path, l.Version.Version); err != nil {
		return l, err
	}
	if canonical := module.CanonicalVersion(l.Version.Version); canonical != l.Version.Version {
		return l, fmt.Errorf("version %q is not canonical", l.Version.Version)
	}
	encoded, ok := strings.CutPrefix(l.hash, hashPrefix)
	if !ok {
		return l, fmt.Errorf("hash %q does not begin with %q", l.hash, hashPrefix)
	}
	sum, err := base64.StdEncoding.DecodeString(encoded)
	// The decoder skips line breaks and stray bits, so the form is compared too.
	if err != nil || len(sum) != hashSize || base64.StdEncoding.EncodeToString(sum) != encoded {
		return l, fmt.Errorf("hash %q is not the base64 form of %d bytes", l.hash, hashSize)
	}
	return l, nil
}
