package logcmd

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// requestTimeout bounds one request to a log that is read: a bundle has up to
// 16 MB.
const requestTimeout = 2 * time.Minute

// sourceFlags say which log to read, and which of its checkpoints to accept.
type sourceFlags struct {
	from    string
	vkey    string
	policy  string
	workers int
}

func (f *sourceFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "where to read the log: its monitoring prefix (an http or https `URL`), or a directory with a static tlog-tiles tree")
	flags.StringVar(&f.vkey, "vkey", "", "the verifier `key` of the log that is read")
	flags.StringVar(&f.policy, "policy", "", "c2sp.org/tlog-policy `file` that the log's checkpoint must satisfy (default: its key alone)")
	flags.IntVar(&f.workers, "workers", tiles.DefaultWorkers, "parallel reads and writes, 1 to 64")
}

// open returns how to read the log and the policy for its checkpoints.
func (f *sourceFlags) open() (tiles.Fetch, *checkpoint.Policy, error) {
	if f.workers < 1 || f.workers > 64 {
		return nil, nil, fmt.Errorf("--workers is %d, 1 to 64 are possible", f.workers)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = f.workers
	fetch, err := tiles.Locate(&http.Client{Timeout: requestTimeout, Transport: transport}, f.from)
	if err != nil {
		return nil, nil, fmt.Errorf("--from: %w", err)
	}
	policy, err := keyPolicy(f.vkey)
	if err != nil || f.policy == "" {
		return fetch, policy, err
	}
	origin := policy.Logs()[0].Origin
	if policy, err = wiring.ReadPolicy(f.policy); err != nil {
		return nil, nil, err
	}
	for _, log := range policy.Logs() {
		if log.Origin == origin && log.Vkey == f.vkey {
			return fetch, policy, nil
		}
	}
	return nil, nil, fmt.Errorf("%q has no log line with the key %q: add one, or name the right key", f.policy, f.vkey)
}

// keyPolicy accepts what one of some keys of a log has signed.
func keyPolicy(vkeys ...string) (*checkpoint.Policy, error) {
	var text strings.Builder
	for _, vkey := range vkeys {
		if _, err := checkpoint.ParseLogVkey(vkey); err != nil {
			return nil, fmt.Errorf("verifier key %q: %w", vkey, err)
		}
		fmt.Fprintf(&text, "log %s\n", vkey)
	}
	text.WriteString("quorum none\n")
	return checkpoint.ParsePolicy([]byte(text.String()))
}
