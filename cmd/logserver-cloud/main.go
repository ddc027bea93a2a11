// Command logserver-cloud is logserver with the drivers of cloud buckets, so that
// "serve --export" and "export --to" take the URLs of Amazon S3 and what speaks
// its protocol (s3://), of Google Cloud Storage (gs://) and of Azure Blob Storage
// (azblob://). It is a module of its own: nobody else links, downloads or reviews
// what the clouds' software needs.
//
// docs/runbooks/export-to-a-bucket.md says how to name a bucket. Credentials come
// from where each cloud's tools look for them: environment, configuration file,
// or the machine's identity, and never from a flag.
package main

import (
	_ "gocloud.dev/blob/azureblob"
	_ "gocloud.dev/blob/gcsblob"
	_ "gocloud.dev/blob/s3blob"

	"github.com/tallystick/tallystick/cmd/internal/logcmd"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
)

func main() { wiring.Main(logcmd.Root("logserver-cloud"), logcmd.Hint) }
