package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/tallystick/tallystick/logserver"
)

// Client speaks to the process that runs a log.
type Client struct{ http http.Client }

// Dial returns a client if a process answers at the socket of a store, and
// otherwise nil: then the store can be opened, or somebody else has it.
func Dial(ctx context.Context, store string) *Client {
	dial := func(ctx context.Context) (conn net.Conn, err error) {
		err = throughShortName(Socket(store), func(name string) error {
			conn, err = new(net.Dialer).DialContext(ctx, "unix", name)
			return err
		})
		return conn, err
	}
	probe, err := dial(ctx)
	if err != nil {
		return nil // nobody listens
	}
	probe.Close()
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// Status asks for the log's status.
func (c *Client) Status(ctx context.Context) (s logserver.Status, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control/v1/status", nil)
	if err != nil {
		return s, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("the server answered %s", res.Status)
	}
	return s, json.NewDecoder(res.Body).Decode(&s)
}

// Fsck has the log checked.
func (c *Client) Fsck(ctx context.Context, r FsckRequest, progress func(done, total int64)) (*logserver.FsckReport, error) {
	report := new(logserver.FsckReport)
	return report, c.run(ctx, "fsck", r, report, progress)
}

// Backup has a backup made, by the server's process and with its rights.
func (c *Client) Backup(ctx context.Context, r BackupRequest, progress func(done, total int64)) (*logserver.BackupManifest, error) {
	manifest := new(logserver.BackupManifest)
	return manifest, c.run(ctx, "backup", r, manifest, progress)
}

// Rotate has a step of a rotation made, and returns all keys of the log.
func (c *Client) Rotate(ctx context.Context, r RotateRequest) (keys []logserver.KeyInfo, err error) {
	err = c.run(ctx, "rotate-key", r, &keys, func(int64, int64) {})
	return keys, err
}

// run has the server do something, and reads its result.
func (c *Client) run(ctx context.Context, operation string, request, result any, progress func(done, total int64)) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/v1/"+operation, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("the server answered %s: %.200s", res.Status, text)
	}
	for dec := json.NewDecoder(res.Body); ; {
		var m message
		if err := dec.Decode(&m); err != nil {
			return fmt.Errorf("the server stopped before it was done: %w", err)
		}
		switch {
		case m.Error != "":
			return errors.New(m.Error)
		case m.Result != nil:
			return json.Unmarshal(m.Result, result)
		}
		progress(m.Done, m.Total)
	}
}
