package logcmd

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/control"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/logserver"
)

func backupCommand() *cobra.Command {
	var log located
	var request control.BackupRequest
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
passphrase. The name of a key in a key management service is in every backup. The store itself holds the openings, which are private, so the copy
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

func backup(cmd *cobra.Command, log located, request control.BackupRequest, asJSON bool) (err error) {
	if request.To, err = filepath.Abs(request.To); err != nil {
		return err
	}
	var manifest *logserver.BackupManifest
	bar := newProgress(cmd.ErrOrStderr(), "copying", "bytes")
	if server := log.running(cmd.Context()); server != nil {
		manifest, err = server.Backup(cmd.Context(), request, bar.set)
	} else {
		err = log.use(false, cmd.ErrOrStderr(), func(s *logserver.Store) error {
			o, err := request.Options(log.files(), bar.set)
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
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: backup of %s with root hash %s: %s, %d bytes\n",
		manifest.Origin, wiring.Count(manifest.Size, "entry"), manifest.Root, wiring.Count(len(manifest.Files), "file"), bytes)
	return err
}
