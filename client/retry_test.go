package client_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/client"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// refusing answers each call with one error, or nil with eleven bytes.
type refusing struct {
	tallystickv1connect.UnimplementedControlHandler
	err error
}

func (r *refusing) GetBlob(context.Context, *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	if r.err == nil {
		return connect.NewResponse(&pb.GetBlobResponse{Data: make([]byte, 11)}), nil
	}
	return nil, r.err
}

// What a refusal says about waiting comes through the wire.
func TestRetryAfter(t *testing.T) {
	for name, test := range map[string]struct {
		code   connect.Code
		header string
		want   time.Duration
		again  bool
	}{
		"over a quota":         {connect.CodeResourceExhausted, "7", 7 * time.Second, true},
		"busy":                 {connect.CodeUnavailable, "1", time.Second, true},
		"nothing said":         {connect.CodeUnavailable, "", 0, true},
		"at once":              {connect.CodeUnavailable, "0", 0, true},
		"for ever":             {connect.CodeUnavailable, "4294967295", time.Minute, true},
		"beyond a number":      {connect.CodeUnavailable, "18446744073709551616", 0, true},
		"a date":               {connect.CodeUnavailable, "Fri, 31 Dec 1999 23:59:59 GMT", 0, true},
		"negative":             {connect.CodeUnavailable, "-1", 0, true},
		"refused once for all": {connect.CodeNotFound, "7", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := connect.NewError(test.code, errors.New("no"))
			if test.header != "" {
				err.Meta().Set("Retry-After", test.header)
			}
			_, handler := tallystickv1connect.NewControlHandler(&refusing{err: err})
			server := httptest.NewServer(handler)
			defer server.Close()
			_, got := tallystickv1connect.NewControlClient(server.Client(), server.URL).GetBlob(t.Context(), connect.NewRequest(&pb.GetBlobRequest{}))
			if wait, again := client.RetryAfter(got); wait != test.want || again != test.again {
				t.Errorf("%v, %t, want %v, %t", wait, again, test.want, test.again)
			}
		})
	}
	_, handler := tallystickv1connect.NewControlHandler(&refusing{})
	server := httptest.NewServer(handler)
	defer server.Close()
	_, err := tallystickv1connect.NewControlClient(server.Client(), server.URL, connect.WithReadMaxBytes(10)).GetBlob(t.Context(), connect.NewRequest(&pb.GetBlobRequest{}))
	if _, again := client.RetryAfter(err); again || connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("an answer that is too large here, and will be again: %t, %v", again, err)
	}
	if _, again := client.RetryAfter(context.Canceled); again {
		t.Error("a caller that went away shall ask again")
	}
}
