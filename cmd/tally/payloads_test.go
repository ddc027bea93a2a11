package main

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// heldPayloads answers auditors, by execution and digest.
type heldPayloads struct {
	tallystickv1connect.UnimplementedControlHandler
	held map[string]string
}

func (h *heldPayloads) GetBlob(_ context.Context, req *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	data, ok := h.held[req.Msg.ExecutionId+req.Msg.Digest]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such payload"))
	}
	return connect.NewResponse(&pb.GetBlobResponse{Data: []byte(data)}), nil
}

// TestFetchPayloads: two tenants take the same payload, each has a copy of its
// own, and one may have erased it.
func TestFetchPayloads(t *testing.T) {
	h := &heldPayloads{held: map[string]string{}}
	mux := http.NewServeMux()
	mux.Handle(tallystickv1connect.NewControlHandler(h))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c := &client.Client{Control: tallystickv1connect.NewControlClient(server.Client(), server.URL)}

	data, ours, theirs := digest.Of([]byte("data")), digest.Of([]byte("ours")), digest.Of([]byte("theirs"))
	wanted := []wantedPayload{{data, ours, []taker{{"us", ours}, {"them", theirs}}}}
	for name, test := range map[string]struct {
		held                             map[string]string // of whom: the bytes
		erased                           []string          // whose copy a record says to be erased
		there                            string            // in the folder before
		present, fetched, gone, nowWhere int
		refused                          bool
	}{
		"ours":                      {held: map[string]string{"ours": "data"}, fetched: 1},
		"theirs, ours is erased":    {held: map[string]string{"theirs": "data"}, erased: []string{"us"}, fetched: 1},
		"both are erased":           {erased: []string{"us", "them"}, gone: 1},
		"one is erased, one is not": {erased: []string{"us"}, nowWhere: 1},
		"nobody has it":             {nowWhere: 1},
		"in the folder":             {there: "data", present: 1},
		"another file of its name":  {there: "dato", held: map[string]string{"ours": "data"}, fetched: 1},
		"other bytes":               {held: map[string]string{"ours": "dato"}, refused: true},
	} {
		clear(h.held)
		for who, bytes := range test.held {
			h.held[digest.Of([]byte(who)).String()+data.String()] = bytes
		}
		erased := func(tenant string, payload digest.Digest) (int64, bool) {
			return 0, payload == data && slices.Contains(test.erased, tenant)
		}
		r := &payloadReport{Folder: t.TempDir()}
		file := filepath.Join(r.Folder, data.String())
		if test.there != "" {
			if err := os.WriteFile(file, []byte(test.there), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := r.fetch(t.Context(), c, wanted, erased, newProgress())
		if (err != nil) != test.refused {
			t.Errorf("%s: %v", name, err)
		}
		if r.Present != test.present || r.Fetched != test.fetched || len(r.Erased) != test.gone || len(r.Missing) != test.nowWhere {
			t.Errorf("%s: %+v", name, r)
		}
		if got, err := os.ReadFile(file); test.present+test.fetched > 0 && (err != nil || string(got) != "data") {
			t.Errorf("%s: the file has %q, %v", name, got, err)
		}
	}
}

// Under a membership that is behind the log some executions would be missing, and
// their payloads with them.
func TestPayloadsOfAnOldMembership(t *testing.T) {
	o := serveAudited(t, &auditedControl{epochs: 1})
	folder := o.path("payloads")
	o.refused("auditor", []string{"log", "payloads", "-o", folder}, "the membership log is behind the audit log: record 3")
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder was made: %v", err)
	}
}
