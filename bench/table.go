package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// series are the values of one side, one for each time it was measured.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// spread is the smallest and largest value.
func (s series) spread() string {
	if len(s) < 2 {
		return ""
	}
	return " (" + figure(slices.Min(s)) + "–" + figure(slices.Max(s)) + ")"
}

// outcome is what was measured for one row.
type outcome struct {
	ours, peer series
	missing    string // why ours cannot be measured: the feature is not there
	err        error
}

// ratio is ours/peer, of the medians.
func (o *outcome) ratio() (float64, bool) {
	if len(o.ours) == 0 || len(o.peer) == 0 || o.peer.median() == 0 {
		return 0, false
	}
	return o.ours.median() / o.peer.median(), true
}

// verdict says which of its bounds a row holds.
func (r row) verdict(o *outcome, s shape) string {
	switch {
	case o.err != nil:
		return "NOT MEASURED"
	case o.missing != "":
		return o.missing
	case r.limited == reported || s != plain:
		return "reported"
	}
	value := o.ours.median()
	if r.relative {
		ratio, ok := o.ratio()
		if !ok {
			return "NOT MEASURED"
		}
		value = ratio
	}
	holds := func(bound float64) bool {
		if r.less {
			return value <= bound
		}
		return value >= bound
	}
	switch {
	case holds(r.aim):
		return "aim"
	case r.limited == aimOnly:
		return "below aim"
	case holds(r.floor):
		return "floor"
	}
	return "BELOW"
}

// bounds are the floor and aim that count for entries of a shape: they are of
// plain entries, and the table for openings is for information.
func (r row) bounds(s shape) (floor, aim *float64) {
	if r.limited == reported || s != plain {
		return nil, nil
	}
	if r.limited != aimOnly {
		floor = &r.floor
	}
	return floor, &r.aim
}

// table prints the measured rows.
func (b *bench) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nmeasure\tours\tpeer\tratio\tfloor\taim\tverdict")
	for _, r := range b.wanted() {
		o := b.results[r.name]
		if o == nil {
			continue
		}
		ours, peer, ratio := "–", "–", "–"
		if len(o.ours) > 0 {
			ours = figure(o.ours.median()) + o.ours.spread() + " " + r.unit
		}
		if len(o.peer) > 0 {
			peer = figure(o.peer.median()) + o.peer.spread() + " " + r.peer
		}
		if v, ok := o.ratio(); ok && r.relative {
			ratio = strconv.FormatFloat(v, 'f', 3, 64) + "×"
		}
		floor, aim := r.bounds(b.shape)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, ours, peer, ratio, r.bound(floor), r.bound(aim), r.verdict(o, b.shape))
	}
	t.Flush()
	for _, r := range b.wanted() {
		if o := b.results[r.name]; o != nil && o.err != nil {
			fmt.Fprintf(w, "\nnot measured: %s: %v\n", r.name, o.err)
		}
	}
	if b.quick {
		fmt.Fprintln(w, "\nThis was the quick form: one short series of each. Its figures mean little.")
	}
}

func (r row) bound(v *float64) string {
	switch {
	case v == nil:
		return "–"
	case r.relative:
		return r.sign() + strconv.FormatFloat(*v, 'f', -1, 64) + "×"
	}
	return r.sign() + figure(*v)
}

func (r row) sign() string {
	if r.less {
		return "≤ "
	}
	return "≥ "
}

// figure formats a value with three to five significant digits.
func figure(v float64) string {
	switch {
	case v >= 1000:
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v == float64(int64(v)):
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func thousands(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// jsonRow is a row as readers of the file know it. Ratio is ours to peer, of the
// medians, and null where there is no peer. Floor and aim are bounds of it in the
// rows whose bounds the table prints with a ×; in the others, those of a latency or
// of bytes among them, they are in the unit of ours and bounds of that. Unit ends in
// "(less is better)" where it is.
type jsonRow struct {
	Name  string   `json:"name"`
	Ours  *float64 `json:"ours"`
	Peer  *float64 `json:"peer"`
	Ratio *float64 `json:"ratio"`
	Floor *float64 `json:"floor"`
	Aim   *float64 `json:"aim"`
	Unit  string   `json:"unit"`
}

func (b *bench) writeJSON(path string) error {
	out := []jsonRow{}
	for _, r := range b.wanted() {
		o := b.results[r.name]
		if o == nil {
			continue
		}
		j := jsonRow{Name: r.name, Unit: r.unit}
		if r.less {
			j.Unit += " (less is better)"
		}
		if len(o.ours) > 0 {
			j.Ours = new(o.ours.median())
		}
		if len(o.peer) > 0 {
			j.Peer = new(o.peer.median())
		}
		if ratio, ok := o.ratio(); ok {
			j.Ratio = &ratio
		}
		j.Floor, j.Aim = r.bounds(b.shape)
		out = append(out, j)
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// failed is an error if a row could not be measured. How good it is does not
// matter: a busy machine is no error.
func (b *bench) failed() error {
	var names []string
	for _, r := range b.wanted() {
		if o := b.results[r.name]; o != nil && o.err != nil {
			names = append(names, strconv.Quote(r.name))
		}
	}
	if len(names) > 0 {
		return errors.New("rows could not be measured: " + strings.Join(names, ", "))
	}
	return nil
}
