package logcmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/keyplace"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// restoreConfig is what the flags of restore say.
type restoreConfig struct {
	log     located
	from    string
	source  string
	policy  string
	workers int
	json    bool
}

func restoreCommand() *cobra.Command {
	var config restoreConfig
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Make a store from a backup, and let it catch up",
		Long: `Restore a log in two steps.

    logserver restore --from BACKUP --dir D

makes D/store from a backup, after it has found every file to be the one that was
backed up. The log that is served from it answers reads and is red; it neither
appends nor signs, because heads that were signed after the backup are unknown to
it. The same holds for a store that was copied here with cp, rsync or tar.

    logserver restore --dir D --catch-up-from SOURCE

brings it to the newest head that SOURCE holds and makes it whole again. SOURCE
is a replica, a mirror or an export of the log (its URL, or a directory), or the
directory of the log's own old store if that is still at hand. The source's
checkpoint must be signed by the log's key, satisfy the policy if one is given,
be no older than the last head that this store knows to be signed, and have the
same history; otherwise nothing is changed. Use the newest source there is: what
was signed after its head is forgotten, and the witnesses will notice. From an
old store everything comes back, and the old store may not sign any more. From
the other sources come entries only: openings and deduplication keys that the
backup did not have are lost, and listed.

Either step, or both in one command, can be interrupted and run again.

If there is no source, the log cannot go on: see logserver succeed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config.from != "" {
				if err := restoreBackup(cmd, config); err != nil {
					return err
				}
			}
			if config.source != "" {
				return catchUp(cmd, config)
			}
			return nil
		},
	}
	config.log.register(cmd)
	cmd.Flags().StringVar(&config.from, "from", "", "the `directory` of the backup")
	cmd.Flags().StringVar(&config.source, "catch-up-from", "", "a `holder` of the newest head: a URL, a directory with a tlog-tiles tree, or the directory of the old log")
	cmd.Flags().StringVar(&config.policy, "policy", "", "c2sp.org/tlog-policy `file` that the checkpoint of a URL or tlog-tiles tree must satisfy (default: the log's key alone)")
	cmd.Flags().IntVar(&config.workers, "workers", tiles.DefaultWorkers, "parallel downloads")
	cmd.Flags().BoolVar(&config.json, "json", false, "write the report of a catch-up as one JSON object")
	cmd.MarkFlagsOneRequired("from", "catch-up-from")
	return cmd
}

func restoreBackup(cmd *cobra.Command, config restoreConfig) error {
	bar := newProgress(cmd.ErrOrStderr(), "copying", "bytes")
	m, err := logserver.Restore(cmd.Context(), logserver.RestoreOptions{From: config.from, Dir: config.log.path(), Progress: bar.set})
	bar.end()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if dir := config.log.dir; dir != "" {
		if _, err := logserver.RestoreFiles(cmd.Context(), config.from, dir); err != nil {
			return err
		}
		if err := wiring.WriteFile(filepath.Join(dir, vkeyFile), vkeyText(m.Keys), 0o644); err != nil {
			return err
		}
		printWanted(out, &directory{path: dir}, m.Keys)
	}
	did := "restored"
	if m.Before {
		did = "had restored before, and left as they are,"
	}
	fmt.Fprintf(out, "%s: %s %s of a backup of %s\n", m.Origin, did, wiring.Count(m.Size, "entry"), m.Created.Format("2006-01-02 15:04:05 UTC"))
	if config.source == "" {
		fmt.Fprintf(out, "it serves reads, and neither appends nor signs until: logserver restore %s --catch-up-from SOURCE\n", config.log.flag())
	}
	return nil
}

// printWanted says which keys the directory of a log lacks.
func printWanted(w io.Writer, dir *directory, keys []logserver.KeyInfo) {
	for _, k := range keys {
		if k.State == logserver.KeyRetired {
			continue
		}
		place := placeOf(k.Role, k.State)
		pem, service := dir.file(place+keySuffix), dir.file(place+kmsSuffix)
		if _, err := os.Stat(pem); err == nil {
			continue
		}
		if named, err := readKMS(service); err == nil {
			fmt.Fprintf(w, "%s is in a key management service: %s\n", k.Vkey, named.uri)
			continue
		}
		fmt.Fprintf(w, "put the private key of %s into %s, or its URI into %s if a key management service has it\n", k.Vkey, pem, service)
	}
}

// placeOf returns the place of a key in use (keys.go).
func placeOf(role, state string) string {
	place := logPlace
	if role == logserver.RoleReceipt {
		place = receiptPlace
	}
	if state == logserver.KeyNext {
		place += keyplace.NextSuffix
	}
	return place
}

// vkeyText is the content of the vkey file: the log key, and in a rotation on a
// second line the one that will replace it.
func vkeyText(keys []logserver.KeyInfo) []byte {
	var b strings.Builder
	for _, state := range []string{logserver.KeyActive, logserver.KeyNext} {
		for _, k := range keys {
			if k.Role == logserver.RoleLog && k.State == state {
				fmt.Fprintln(&b, k.Vkey)
			}
		}
	}
	return []byte(b.String())
}

// flag is how the log is named on the command line.
func (l *located) flag() string {
	if l.dir != "" {
		return "--dir " + l.dir
	}
	return "--store " + l.store
}

func catchUp(cmd *cobra.Command, config restoreConfig) (err error) {
	if config.log.running(cmd.Context()) != nil {
		return fmt.Errorf("%w: stop the server first", logserver.ErrLocked)
	}
	fatal := wiring.EndProcess("logserver", cmd.ErrOrStderr())
	source := logserver.Source{Workers: config.workers}
	if source.Store, err = openOldStore(config.source, fatal); err != nil {
		return err
	}
	if source.Store != nil {
		defer func() { err = errors.Join(err, source.Store.Close()) }()
	} else {
		if source.Fetch, err = tiles.Locate(&http.Client{Timeout: requestTimeout}, config.source); err != nil {
			return fmt.Errorf("--catch-up-from: %w", err)
		}
		if config.policy != "" {
			if source.Policy, err = wiring.ReadPolicy(config.policy); err != nil {
				return err
			}
		}
	}
	bar := newProgress(cmd.ErrOrStderr(), "catching up", "entries")
	report, err := logserver.CatchUp(cmd.Context(), logserver.StoreOptions{Dir: config.log.path(), Fatal: fatal}, source, bar.set)
	bar.end()
	if err != nil {
		return err
	}
	if config.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
	}
	printCatchUp(cmd.OutOrStdout(), report)
	return nil
}

// openOldStore opens the store in a log's directory, or a bare one, or returns
// nil if the place is none of the two.
func openOldStore(place string, fatal func(error)) (*logserver.Store, error) {
	if strings.Contains(place, "://") {
		return nil, nil
	}
	for _, dir := range []string{filepath.Join(place, storeDir), place} {
		s, err := logserver.OpenStore(logserver.StoreOptions{Dir: dir, Fatal: fatal})
		if !errors.Is(err, logserver.ErrNotFound) {
			return s, err
		}
	}
	return nil, nil
}

func printCatchUp(w io.Writer, r *logserver.CatchUpReport) {
	fmt.Fprintf(w, "%s: caught up from tree size %d to the head at %d; the tree has %s\n", r.Origin, r.From, r.To, wiring.Count(r.Size, "entry"))
	if r.LostOpenings {
		fmt.Fprintf(w, "lost: the openings, if there were any, of entries %d to %d\n", r.From, r.To-1)
	}
	if r.LostKeys {
		fmt.Fprintf(w, "lost: the deduplication keys of entries %d to %d, and newer values of registers; sent once more they get a new index\n", r.From, r.To-1)
	}
}
