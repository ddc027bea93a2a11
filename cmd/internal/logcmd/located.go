package logcmd

import (
	"errors"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
)

// located says which log a command of the operator is about: a log's directory,
// or a bare store such as that of a control plane. No private key is needed.
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

// running returns a client for the server that runs the log, or nil if none
// does. A bare store's server has no socket that we know of.
func (l *located) running() *controlClient {
	if l.dir == "" {
		return nil
	}
	return dialControl(l.dir)
}

// open opens the store of a log that is not running.
func (l *located) open(readOnly bool, stderr io.Writer) (*logserver.Store, error) {
	return logserver.OpenStore(logserver.StoreOptions{Dir: l.path(), ReadOnly: readOnly, Fatal: wiring.EndProcess("logserver", stderr)})
}

// use opens the store for the time of a call.
func (l *located) use(readOnly bool, stderr io.Writer, do func(*logserver.Store) error) error {
	s, err := l.open(readOnly, stderr)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}
