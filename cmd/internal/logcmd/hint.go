package logcmd

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/logserver"
)

// Hint says which command helps against an error, or "". The command that failed
// knows where the log is.
func Hint(cmd *cobra.Command, err error) string {
	where := "--dir D"
	for _, name := range []string{"dir", "store"} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Value.String() != "" {
			where = "--" + name + " " + f.Value.String()
		}
	}
	var key *logserver.KeyError
	switch {
	case errors.Is(err, logserver.ErrForked), errors.Is(err, logserver.ErrRestored), errors.Is(err, logserver.ErrSource):
		return fmt.Sprintf("stop the log, then \"logserver restore %s --catch-up-from SOURCE\" with a holder of the newest head; if there is none, \"logserver succeed %[1]s\" ends the log and goes on with another", where)
	case errors.Is(err, logserver.ErrLocked):
		return fmt.Sprintf("\"logserver status %s\" shows a running log; through the server of --dir, fsck, backup, status and rotate-key work while it runs", where)
	case errors.As(err, &key):
		return keyHint(cmd, key)
	case errors.Is(err, logserver.ErrCorrupt) && cmd.Name() == "fsck":
		return "keep the damaged store, it may be evidence; \"logserver restore --from BACKUP --dir NEW\" makes another one, which \"logserver restore --dir NEW --catch-up-from SOURCE\" brings to the newest head from an export, a mirror or a replica"
	case errors.Is(err, logserver.ErrCorrupt):
		return fmt.Sprintf("\"logserver fsck %s\" names what is damaged; \"logserver restore --help\" tells how to go on from a backup or a mirror", where)
	}
	return ""
}

// keyHint says which file should hold what.
func keyHint(cmd *cobra.Command, e *logserver.KeyError) string {
	dir := new(directory)
	if f := cmd.Flags().Lookup("dir"); f != nil {
		dir.path = f.Value.String()
	}
	place := placeOf(e.Role, e.State)
	if named, err := readKMS(dir.file(place + kmsSuffix)); err == nil {
		return fmt.Sprintf("%s names the key %s, which should be %s", dir.file(place+kmsSuffix), named.uri, e.Want)
	}
	return fmt.Sprintf("%s should hold the private key of %s", dir.file(place+keySuffix), e.Want)
}
