// Command benchsandbox measures the sandbox; see scripts/bench-sandbox and
// docs/benchmarks.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/sandbox"
)

func main() {
	if sandbox.IsWorker() {
		sandbox.WorkerMain()
	}
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "benchsandbox:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("benchsandbox", flag.ContinueOnError)
	goModule := flags.String("go", "", "the Go guest's module, a `file`")
	guests := flags.String("guests", "", "`directory` of the other guests")
	jsonFile := flags.String("json", "", "write the rows to this `file` too")
	quick := flags.Bool("quick", false, "a short form that shows that it works")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := &bench{rounds: 7, span: 2000, window: 100 * time.Millisecond}
	if *quick {
		b.rounds, b.span, b.window = 1, 50, 0
	}
	for name, path := range map[string]string{
		"go": *goModule, "rust": filepath.Join(*guests, "words.wasm"), "c": filepath.Join(*guests, "mean.wasm"),
	} {
		module, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b.add(name, module)
	}
	for _, measure := range []func(context.Context) error{b.metering, b.smallRuns, b.border, b.loading, b.pauses} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	b.print(out)
	if *jsonFile == "" {
		return nil
	}
	text, err := json.MarshalIndent(b.rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*jsonFile, append(text, '\n'), 0o644)
}

// A row is one figure. Peer, Ratio and Floor are null where there is none; Floor
// is a bound on Ratio where there is a ratio, else on Ours. Unit ends in "(less is
// better)" where it is.
type row struct {
	Name  string   `json:"name"`
	Ours  float64  `json:"ours"`
	Peer  *float64 `json:"peer"`
	Ratio *float64 `json:"ratio"`
	Floor *float64 `json:"floor"`
	Unit  string   `json:"unit"`
}

// compared is a row of two times and their ratio.
func compared(name string, ours, peer, floor float64) row {
	ratio := ours / peer
	r := row{Name: name, Ours: ours, Peer: &peer, Ratio: &ratio, Unit: "ms (less is better)"}
	if floor > 0 {
		r.Floor = &floor
	}
	return r
}

func absolute(name string, ours, floor float64, unit string) row {
	r := row{Name: name, Ours: ours, Unit: unit}
	if floor > 0 {
		r.Floor = &floor
	}
	return r
}

func (b *bench) print(out io.Writer) {
	fmt.Fprintln(out, "| measure | ours | peer | ratio | bound |")
	fmt.Fprintln(out, "|---|---|---|---|---|")
	for _, r := range b.rows {
		peer, ratio, floor := "–", "–", "–"
		if r.Peer != nil {
			peer = fmt.Sprintf("%.4g", *r.Peer)
		}
		if r.Ratio != nil {
			ratio = fmt.Sprintf("%.2f×", *r.Ratio)
		}
		if r.Floor != nil {
			floor = fmt.Sprintf("%g", *r.Floor)
		}
		fmt.Fprintf(out, "| %s | %.5g %s | %s | %s | %s |\n", r.Name, r.Ours, r.Unit, peer, ratio, floor)
	}
}
