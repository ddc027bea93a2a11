package logcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/logserver"
)

// backupRequest is what backup asks of a running server.
type backupRequest struct {
	To       string `json:"to"` // absolute
	WithKeys bool   `json:"with_keys"`
}

// keyFiles are the private keys that a directory may hold, or the name of one
// that is in a key management service.
var keyFiles = []string{logKeyFile, kmsFile, receiptKeyFile, nextKeyFile, nextReceiptKeyFile}

func (r backupRequest) options(dir string, progress func(done, total int64)) (logserver.BackupOptions, error) {
	o := logserver.BackupOptions{Dir: r.To, Files: map[string]string{}, Progress: progress}
	if !r.WithKeys {
		return o, nil
	}
	if dir == "" {
		return o, errors.New("--with-keys: a bare store has no key files; give --dir")
	}
	for _, name := range keyFiles {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			o.Files[name] = path
		} else if !errors.Is(err, os.ErrNotExist) {
			return o, err
		}
	}
	return o, nil
}

func (c *controlServer) backup(ctx context.Context, r backupRequest, progress func(done, total int64)) (any, error) {
	o, err := r.options(c.dir.path, progress)
	if err != nil {
		return nil, err
	}
	return c.log.Backup(ctx, o)
}

func backupCommand() *cobra.Command {
	var log located
	var request backupRequest
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Copy the store as it is at this moment, also while the log runs",
		Long: `Copy the store to a new or empty directory, with a manifest of sizes and SHA-256
digests that restore checks. A running log is copied through its server, while
it goes on. Every file is made durable, and the manifest is written last: a
directory without manifest.json is a backup that was interrupted; delete it.

Private keys are left out unless --with-keys is given: whoever has both the store
and the keys can sign a second history in the log's name, and backups tend to lie
where fewer people watch. Keep copies of the key files apart, under their
passphrase. The store itself holds the openings, which are private, so the copy
can be read by its owner only.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return backup(cmd, log, request, asJSON)
		},
	}
	log.register(cmd)
	cmd.Flags().StringVar(&request.To, "to", "", "the new or empty `directory` for the backup")
	cmd.Flags().BoolVar(&request.WithKeys, "with-keys", false, "copy the private key files too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the manifest, without its list of files, as one JSON object")
	cmd.MarkFlagRequired("to")
	return cmd
}

func backup(cmd *cobra.Command, log located, request backupRequest, asJSON bool) (err error) {
	if request.To, err = filepath.Abs(request.To); err != nil {
		return err
	}
	manifest := new(logserver.BackupManifest)
	bar := newProgress(cmd.ErrOrStderr(), "copying bytes")
	if server := log.running(); server != nil {
		err = server.run(cmd.Context(), "backup", request, manifest, bar.set)
	} else {
		err = log.use(false, cmd.ErrOrStderr(), func(s *logserver.Store) error {
			o, err := request.options(log.dir, bar.set)
			if err != nil {
				return err
			}
			manifest, err = s.Backup(cmd.Context(), o)
			return err
		})
	}
	bar.end()
	if err != nil {
		return err
	}
	if asJSON {
		manifest.Files = nil
		return json.NewEncoder(cmd.OutOrStdout()).Encode(manifest)
	}
	var bytes int64
	for _, f := range manifest.Files {
		bytes += f.Size
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: backup of %d entries with root hash %s: %d files, %d bytes\n",
		manifest.Origin, manifest.Size, manifest.Root, len(manifest.Files), bytes)
	return err
}
