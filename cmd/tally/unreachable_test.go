package main

import (
	"context"
	"crypto/ed25519"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/client"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// What a server that is away, or another one, makes a person read.
func TestUnreachable(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	starting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "starting: waiting for the witnesses", http.StatusServiceUnavailable)
	}))
	defer starting.Close()
	limiting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "slow down", http.StatusTooManyRequests)
	}))
	defer limiting.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	plain := strings.TrimPrefix(other.URL, "http://")
	for _, test := range []struct{ server, want, hint string }{
		{"http://" + gone.Addr().String(), "no answer from the control plane at http://" + gone.Addr().String() + ": connection refused", "is the control plane running?"},
		{other.URL, other.URL + ` answers "404 Not Found", which no control plane does`, "should be the address of a control plane"},
		{"https://" + plain, "it speaks plain http", "should begin with http://"},
		{starting.URL, starting.URL + ` answers "503 Service Unavailable"` + "\n", starting.URL + "/healthz says what it waits for"},
		{limiting.URL, limiting.URL + ` answers "429 Too Many Requests"` + "\n", "limits requests: try again later"},
		{secure.URL, "certificate signed by unknown authority", "SSL_CERT_FILE"},
		{"http://" + strings.TrimPrefix(secure.URL, "https://"), `answers "400 Bad Request"`, "if it wants TLS, https"},
		{"https://host.invalid", `no address for "host.invalid"`, "name service"},
	} {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if host, _, _ := net.SplitHostPort(address); host == "host.invalid" {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		defer transport.CloseIdleConnections()
		c, err := client.New(client.Config{Server: test.server, Cluster: "c", Principal: "p", TokenKey: key, Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Control.GetClusterRoot(t.Context(), connect.NewRequest(&pb.GetClusterRootRequest{}))
		for _, want := range []int{exitFalse, exitBlind} {
			if code := report(io.Discard, unreached(&codeError{err, want}, test.server)); code != want {
				t.Errorf("%s: exit code %d, want %d as before", test.server, code, want)
			}
		}
		var out strings.Builder
		if code := report(&out, unreached(err, test.server)); code != exitError || !strings.Contains(out.String(), test.want) ||
			!strings.Contains(out.String(), "tally: hint: ") || !strings.Contains(out.String(), test.hint) || strings.Count(out.String(), "\n") != 2 {
			t.Errorf("%s: exit code %d and\n%s\nwant %q and %q", test.server, code, &out, test.want, test.hint)
		}
	}
}

// What a control plane answers is not about reaching it.
func TestUnreachedLeavesAnswers(t *testing.T) {
	for _, err := range []error{
		connect.NewWireError(connect.CodeUnavailable, context.DeadlineExceeded),
		connect.NewError(connect.CodeCanceled, context.Canceled),
		withHint(connect.NewError(connect.CodeUnavailable, context.DeadlineExceeded), "do this"),
		context.DeadlineExceeded,
		blind(context.DeadlineExceeded),
	} {
		if got := unreached(err, "https://control.example"); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}
