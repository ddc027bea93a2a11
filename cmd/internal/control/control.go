// Package control is how an operator's command reaches the process that runs a
// log: HTTP over a Unix socket beside the log's store. logserver and controlapi
// answer at it, and the commands of logserver ask, for a log of either.
//
//	GET  /v1/status      logserver.Status in JSON
//	POST /v1/fsck        body: FsckRequest
//	POST /v1/backup      body: BackupRequest
//	POST /v1/rotate-key  body: RotateRequest, where the log's keys can be rotated
//
// Every POST is answered by a stream of messages, one JSON object a line, of
// which the last has a result or an error. An operation ends when its client goes
// away or the server stops. It is no public interface: servers and clients are of
// one release.
//
// # Trust
//
// Only the owner of the store's directory can connect, and that is who may read
// the store and its keys. Requests name paths that the server then writes to:
// they are believed.
//
// # Concurrency
//
// Operations may run side by side; a rotation waits for the one before it.
package control

import (
	"encoding/json"
	"errors"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/record"
)

// Socket returns the socket of the process that runs the log of a store.
func Socket(store string) string { return store + ".sock" }

// message is one line of an answer.
type message struct {
	Done   int64           `json:"done,omitempty"`
	Total  int64           `json:"total,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// maxBody bounds a request, which holds a few names and paths.
const maxBody = 64 << 10

// FsckRequest asks for what logserver fsck does; the result is a
// logserver.FsckReport.
type FsckRequest struct {
	Workers  int  `json:"workers"`
	Openings bool `json:"openings"` // check that they open their entries
}

// Options returns the options for a log or a store.
func (r FsckRequest) Options(progress func(done, total int64)) logserver.FsckOptions {
	o := logserver.FsckOptions{Workers: r.Workers, Progress: progress}
	if r.Openings {
		o.CheckOpening = checkOpening
	}
	return o
}

// checkOpening checks an opening as a control plane's audit log has them: salt ‖
// record, where the entry is HMAC-SHA256(salt, record).
func checkOpening(entry, opening []byte) error {
	o, err := record.ParseOpening(opening)
	if err != nil {
		return err
	}
	if e := o.Entry(); string(e[:]) != string(entry) {
		return errors.New("the opening does not open its entry")
	}
	return nil
}

// BackupRequest asks for a backup; the result is a logserver.BackupManifest.
type BackupRequest struct {
	To       string `json:"to"` // absolute
	WithKeys bool   `json:"with_keys"`
}

// Options returns the options for a log or a store whose directory holds the
// given files; keys says which belong to a backup with and without keys.
func (r BackupRequest) Options(files BackupFiles, progress func(done, total int64)) (logserver.BackupOptions, error) {
	o := logserver.BackupOptions{Dir: r.To, Progress: progress}
	if files == nil {
		if r.WithKeys {
			return o, errors.New("--with-keys: the private keys are not beside this store; copy them from where they are")
		}
		return o, nil
	}
	var err error
	o.Files, err = files(r.WithKeys)
	return o, err
}

// BackupFiles returns the files beside a store that belong to its backup, by the
// name that they have in it; with private keys or without.
type BackupFiles func(withKeys bool) (map[string]string, error)

// RotateRequest asks for a step of a rotation; the result is the log's
// []logserver.KeyInfo.
type RotateRequest struct {
	// Step is begin, finish or abort, of the log key, or receipt.
	Step string `json:"step"`
	// Key is the URI of the new key in a key management service; "" makes one in
	// a file.
	Key string `json:"key,omitempty"`
}
