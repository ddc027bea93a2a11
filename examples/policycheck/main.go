// Command policycheck reads an allow-list and the tool calls of an agent from
// standard input, one JSON value a line, and writes its verdict on every call
// to standard output: one line of JSON. README.md describes both. Input that is
// not well formed is refused with exit code 1; a verdict, also a denying one,
// is exit code 0.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tallystick/tallystick/examples/internal/strictjson"
)

// maxLine bounds a line of input.
const maxLine = 1 << 20

// format names the structure of the verdict; it changes with it.
const format = "tallystick-verdict/1"

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "policycheck:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	if !lines.Scan() {
		return errors.Join(errors.New("no allow-list on line 1"), lines.Err())
	}
	policySum := sha256.Sum256(lines.Bytes())
	p, err := parsePolicy(lines.Bytes())
	if err != nil {
		return fmt.Errorf("line 1: %w", err)
	}
	log := sha256.New()
	calls, denied := []any{}, 0
	ids := map[string]int{}
	number := 1
	for lines.Scan() {
		number++
		log.Write(lines.Bytes())
		c, err := parseCall(lines.Bytes())
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if first := ids[c.id]; first > 0 {
			return fmt.Errorf("line %d: call %q is already on line %d", number, c.id, first)
		}
		ids[c.id] = number
		entry := map[string]any{"id": c.id, "line": number, "tool": c.tool}
		if rule, reason := p.decide(c); rule != "" {
			entry["rule"], entry["verdict"] = rule, "allowed"
		} else {
			entry["reason"], entry["verdict"] = reason, "denied"
			denied++
		}
		calls = append(calls, entry)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("line %d: %w", number+1, err)
	}
	verdict := "allowed"
	if denied > 0 {
		verdict = "denied"
	}
	_, err = out.Write(append(strictjson.Append(nil, map[string]any{
		"allowed":       len(calls) - denied,
		"calls":         calls,
		"denied":        denied,
		"format":        format,
		"log_sha256":    hex.EncodeToString(log.Sum(nil)),
		"policy_sha256": hex.EncodeToString(policySum[:]),
		"verdict":       verdict,
	}), '\n'))
	return err
}

// wholeLines splits at newlines, which it keeps, and wants one at the end.
func wholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, errors.New("not ended by a newline")
	}
	return 0, nil, nil
}
