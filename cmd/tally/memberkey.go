package main

import (
	"crypto/ed25519"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/keyfile"
)

// publicSuffix is what the name of a public key has beyond that of its private
// key.
const publicSuffix = ".pub"

func memberKeyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key, to be added by a change",
		Long: `Make a key pair: the private key in FILE, which only you can read and which never
leaves your machine, and the public key in FILE.pub, which goes to whoever proposes
the change. The private key is encrypted if TALLY_PASSPHRASE_FILE names a file with
a passphrase. A file that is there is never overwritten.

Make one for each use, so that a stolen one signs nothing else.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := createKey(args[0], passphraseFromEnv())
			if err != nil {
				return err
			}
			id, public := dsse.KeyID(key.Public().(ed25519.PublicKey)), args[0]+publicSuffix
			return a.printer.value(map[string]string{"private_key": args[0], "public_key": public, "key_id": id}, func(w io.Writer) {
				fmt.Fprintf(w, "key           %s\nprivate half  %s\npublic half   %s\n", id, args[0], public)
			})
		},
	}
}

// createKey makes a key in a new file and its public half in another beside it.
func createKey(path string, pass keyfile.Passphrase) (ed25519.PrivateKey, error) {
	key, err := keyfile.CreateEd25519(path, pass)
	if err != nil {
		return nil, err
	}
	return key, keyfile.WritePublic(path+publicSuffix, key.Public().(ed25519.PublicKey))
}
