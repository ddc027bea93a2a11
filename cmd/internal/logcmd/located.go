package logcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/control"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
)

// located says which log a command of the operator is about: a log's directory,
// or a bare store such as that of a control plane's log. It may be running, under
// logserver or under controlapi. No private key is needed.
type located struct {
	dir   string
	store string
}

func (l *located) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.dir, "dir", "", "the log's `directory`: keys and store")
	cmd.Flags().StringVar(&l.store, "store", "", "in place of --dir, a bare `store` such as that of a control plane's log")
	cmd.MarkFlagsMutuallyExclusive("dir", "store")
	cmd.MarkFlagsOneRequired("dir", "store")
}

// path is where the store is.
func (l *located) path() string {
	if l.dir != "" {
		return filepath.Join(l.dir, storeDir)
	}
	return l.store
}

// running returns a client for the process that runs the log, or nil if none
// does.
func (l *located) running(ctx context.Context) *control.Client {
	return control.Dial(ctx, l.path())
}

// files are those beside the store that belong to a backup.
func (l *located) files() control.BackupFiles {
	if l.dir == "" {
		return nil
	}
	return (&directory{path: l.dir}).files
}

// open opens the store of a log that is not running, as the options say.
func (l *located) open(o logserver.StoreOptions, stderr io.Writer) (*logserver.Store, error) {
	o.Dir, o.Fatal = l.path(), wiring.EndProcess("logserver", stderr)
	s, err := logserver.OpenStore(o)
	if errors.Is(err, logserver.ErrNotFound) && l.dir != "" {
		err = l.elsewhere(err)
	}
	return s, err
}

// elsewhere adds to an error that a directory holds no log what it holds in
// place of one: --dir and --store are easily taken for each other.
func (l *located) elsewhere(err error) error {
	var stores []string
	for _, name := range []string{".", "audit", "membership"} {
		dir := filepath.Join(l.dir, name)
		if _, statErr := os.Stat(filepath.Join(dir, storeMark)); statErr == nil {
			stores = append(stores, "--store "+dir)
		}
	}
	if len(stores) == 0 {
		return err
	}
	return fmt.Errorf("%w; a bare store, such as those of a control plane, is named by %s", err, strings.Join(stores, " or "))
}

// storeMark is a file that only stores of logs have.
const storeMark = "PLACE"

// use opens the store for the time of a call.
func (l *located) use(readOnly bool, stderr io.Writer, do func(*logserver.Store) error) error {
	s, err := l.open(logserver.StoreOptions{ReadOnly: readOnly}, stderr)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}

// check opens the store for the time of a call, to read what can be read of it.
func (l *located) check(stderr io.Writer, do func(*logserver.Store) error) error {
	s, err := l.open(logserver.StoreOptions{ReadOnly: true, Partial: true}, stderr)
	if errors.Is(err, logserver.ErrCorrupt) {
		return fmt.Errorf("the store cannot be opened, so that nothing in it can be checked: %w", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}
