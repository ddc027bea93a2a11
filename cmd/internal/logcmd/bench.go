package logcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/term"

	"github.com/tallystick/tallystick/internal/loadgen"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// benchConfig is what the flags of bench say.
type benchConfig struct {
	load        loadgen.Options
	source      sourceFlags
	receiptVkey string
	noVerify    bool
	asJSON      bool
}

func benchCommand() *cobra.Command {
	var config benchConfig
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put load on a log, measure it, and verify what it promised",
		Long: `Add entries to a log over HTTP, report how long it took to answer, and then
verify against its checkpoint that every acknowledged entry is in the log, at the
index that was answered. The entries stay in the log: use one that is for that.

With --rate the load is open-loop: each message is due at its time whether or not
the log has answered the ones before, and its latency counts from then, so that
a stall is charged for everything that it delayed. Without --rate every
connection sends as fast as the log answers. What the log refuses as busy (503)
is counted as pushback and not sent again.

The report has percentiles and a histogram of the latencies, whose bars are
logarithmic. On a terminal the figures are shown while they change. The exit code is not 0
when anything that the log acknowledged cannot be verified, or when it
acknowledged nothing; slowness and pushback are no errors.`,
		Example: `  logserver bench --url http://127.0.0.1:8400 --vkey "$(cat d/vkey)" --rate 20000 --duration 30s
  logserver bench --url http://127.0.0.1:8400 --vkey "$(cat d/vkey)" --mode stream --batch 256 --connections 4 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.source.from = config.load.URL
			return runBench(cmd.Context(), config, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.load.URL, "url", "", "the log's `URL`, for writing and for reading")
	flags.StringVar(&config.source.vkey, "vkey", "", "the log's verifier `key`, to verify with")
	flags.StringVar(&config.source.policy, "policy", "", "c2sp.org/tlog-policy `file` that the log's checkpoint must satisfy (default: its key alone)")
	flags.BoolVar(&config.noVerify, "no-verify", false, "verify nothing in the end")
	flags.StringVar(&config.receiptVkey, "receipt-vkey", "", "the log's receipt `key`: ask for a proof with each entry and verify it at once (mode single)")
	flags.StringVar(&config.load.Mode, "mode", loadgen.Single, "how to send: `single`, batch or stream")
	flags.Float64Var(&config.load.Rate, "rate", 0, "entries a second (default: as fast as the log answers)")
	flags.IntVar(&config.load.Connections, "connections", 64, "parallel connections, 1 to 4096")
	flags.IntVar(&config.load.EntrySize, "size", 256, "`bytes` of an entry, 24 to 65535")
	flags.IntVar(&config.load.BatchSize, "batch", 256, "entries a message in the modes batch and stream, 1 to 4096")
	flags.IntVar(&config.load.InFlight, "in-flight", 4, "messages on the way in a stream")
	flags.DurationVar(&config.load.Duration, "duration", 0, "for how long to send (default 10s unless --entries is given)")
	flags.Int64Var(&config.load.Entries, "entries", 0, "how many entries to send at most")
	flags.DurationVar(&config.load.Timeout, "timeout", time.Minute, "how long to wait for an answer, and for a checkpoint in the end")
	flags.BoolVar(&config.asJSON, "json", false, "print the report as JSON")
	cmd.MarkFlagRequired("url")
	cmd.MarkFlagsOneRequired("vkey", "no-verify")
	return cmd
}

// defaultBench is for how long to send when nothing is said.
const defaultBench = 10 * time.Second

func runBench(ctx context.Context, config benchConfig, stdout, stderr io.Writer) error {
	if config.load.Duration == 0 && config.load.Entries == 0 {
		config.load.Duration = defaultBench
	}
	config.load.URL = strings.TrimSuffix(config.load.URL, "/")
	if config.receiptVkey != "" {
		key, err := note.NewVerifier(config.receiptVkey)
		if err != nil {
			return fmt.Errorf("--receipt-vkey: %w", err)
		}
		config.load.Receipt = key
	}
	config.source.workers = tiles.DefaultWorkers
	var fetch tiles.Fetch
	var policy *checkpoint.Policy
	if !config.noVerify {
		var err error
		if fetch, policy, err = config.source.open(); err != nil {
			return err
		}
	}
	load, err := loadgen.New(config.load)
	if err != nil {
		return err
	}

	stop := watch(load, stderr)
	load.Run(ctx)
	stop()
	report := load.Report()
	if !config.noVerify {
		// What was written is verified also when somebody stopped the load.
		bar := newProgress(stderr, "verifying", "entries")
		report, err = load.Verify(context.WithoutCancel(ctx), fetch, policy, bar.set)
		bar.end()
	}
	if err == nil {
		err = report.Err()
	}
	if err == nil && report.Acknowledged == 0 {
		err = errors.New("the log acknowledged nothing")
		if report.LastError != "" {
			err = fmt.Errorf("%w: %s", err, report.LastError)
		}
	}
	if config.asJSON {
		return errors.Join(err, json.NewEncoder(stdout).Encode(report))
	}
	printBench(stdout, report)
	return err
}

// watchEvery is how often the figures of a running load are shown, on a terminal
// and elsewhere.
const (
	watchTerminal = 250 * time.Millisecond
	watchLines    = 10 * time.Second
)

// watch shows a load while it runs, until the function that it returns is called.
func watch(load *loadgen.Load, w io.Writer) (stop func()) {
	every, lead, tail := watchLines, "", "\n"
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		every, lead, tail = watchTerminal, "\r\x1b[K", ""
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		last := load.Report()
		for {
			select {
			case <-tick.C:
			case <-ended:
				fmt.Fprint(w, lead)
				return
			}
			r := load.Report()
			fmt.Fprintf(w, "%s%.0fs: %.0f/s now, %.0f/s in all; %d acknowledged, %d pushback, %d refused, %d unknown; p50 %s p99 %s max %s%s",
				lead, r.Seconds, float64(r.Acknowledged-last.Acknowledged)/max(r.Seconds-last.Seconds, 1e-3), r.Throughput,
				r.Acknowledged, r.Pushback, r.Refused, r.Unknown, ms(r.Latency.P50), ms(r.Latency.P99), ms(r.Latency.Max), tail)
			last = r
		}
	}()
	return func() { close(ended); <-done }
}

// ms formats milliseconds for people.
func ms(v float64) string { return fmt.Sprintf("%.3g ms", v) }

// printBench writes the report as text.
func printBench(w io.Writer, r *loadgen.Report) {
	offered := "as fast as the log answers"
	if r.Rate > 0 {
		offered = fmt.Sprintf("%.0f entries/s", r.Rate)
	}
	fmt.Fprintf(w, "load          %s, %d connections, %d B entries, %d a message, %s\n", r.Mode, r.Connections, r.EntrySize, r.BatchSize, offered)
	fmt.Fprintf(w, "acknowledged  %d of %d in %.1f s: %.0f entries/s\n", r.Acknowledged, r.Sent, r.Seconds, r.Throughput)
	fmt.Fprintf(w, "not taken     %d pushback, %d refused, %d unknown\n", r.Pushback, r.Refused, r.Unknown)
	for _, code := range slices.Sorted(maps.Keys(r.Refusals)) {
		fmt.Fprintf(w, "              %d %s\n", r.Refusals[code], code)
	}
	if r.LastError != "" {
		fmt.Fprintf(w, "last error    %s\n", r.LastError)
	}
	for _, l := range []struct {
		name string
		loadgen.Latency
	}{{"latency", r.Latency}, {"service time", r.Service}} {
		fmt.Fprintf(w, "%-13s p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n", l.name, ms(l.P50), ms(l.P90), ms(l.P99), ms(l.P999), ms(l.Max))
	}
	printHistogram(w, r.Latency.Buckets)
	if r.LateMessages > 0 {
		fmt.Fprintf(w, "late          %d messages waited for a connection\n", r.LateMessages)
	}
	if v := r.Verified; v != nil {
		fmt.Fprintf(w, "verified      %d of %d acknowledged entries at tree size %d", v.Confirmed, r.Acknowledged, v.Size)
		if v.RefusedPresent+v.UnknownPresent > 0 {
			fmt.Fprintf(w, "; %d refused and %d unknown ones are there too", v.RefusedPresent, v.UnknownPresent)
		}
		fmt.Fprintln(w)
	}
}

// barWidth is how long the longest bar of a histogram is.
const barWidth = 40

// printHistogram writes how many latencies there were of which length. The bars
// are logarithmic: what is rare is what one looks for.
func printHistogram(w io.Writer, buckets []loadgen.Bucket) {
	most := int64(0)
	for _, b := range buckets {
		most = max(most, b.Count)
	}
	for _, b := range buckets {
		n := math.Ceil(barWidth * math.Log1p(float64(b.Count)) / math.Log1p(float64(most)))
		fmt.Fprintf(w, "%14s %12d %s\n", "≤ "+strconv.FormatFloat(b.To, 'f', -1, 64)+" ms", b.Count, strings.Repeat("#", int(n)))
	}
}
