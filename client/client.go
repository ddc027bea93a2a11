// Package client is the Go client of the control plane: typed access to every
// service, with a token that renews itself, and the two things that a tenant
// does most: submitting work and waiting for it.
//
// # Trust
//
// Nothing that the services of a Client return has been verified; it is what the
// control plane says. Members and VerifyReceipt verify. What a user concludes rests on a proof bundle and package
// verifier, which needs no server. A Client never sends a private key: it
// signs envelopes and tokens on this side.
//
// A Client is safe for concurrent use.
package client

import (
	"crypto"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// maxMessage bounds an answer, in bytes: a proof bundle is the largest.
const maxMessage = 96 << 20

// Config says which control plane to talk to, and as whom.
type Config struct {
	Server    string        // URL, for example "https://control.example:8443"
	Cluster   string        // cluster id: the audience of the tokens
	Principal string        // principal id
	TokenKey  crypto.Signer // Ed25519 key of the principal with use "token"
	// Transport carries the requests; nil means one made for this client that
	// speaks HTTP/1.1 and HTTP/2.
	Transport http.RoundTripper
}

// Client talks to one control plane as one principal.
type Client struct {
	Control    tallystickv1connect.ControlClient
	Provenance tallystickv1connect.ProvenanceClient
	Membership tallystickv1connect.MembershipClient
	Log        tallystickv1connect.LogClient

	source *token.Source
}

// ErrInsecure says that the address would carry a token in the clear.
var ErrInsecure = errors.New("client: plain http is for loopback addresses only: use https")

// New returns a client. It makes no connection.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("client: server %q is not an http or https URL", c.Server)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, ErrInsecure
	}
	base := c.Transport
	if base == nil {
		base = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute,
			MaxIdleConnsPerHost:   64,
			ForceAttemptHTTP2:     true,
		}
	}
	source := &token.Source{Principal: c.Principal, Cluster: c.Cluster, Key: c.TokenKey}
	httpClient := &http.Client{
		Transport: &token.Transport{Source: source, Base: base},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("client: the control plane redirected, which it never does: check the address")
		},
	}
	server := strings.TrimSuffix(c.Server, "/")
	opt := connect.WithReadMaxBytes(maxMessage)
	return &Client{
		Control:    tallystickv1connect.NewControlClient(httpClient, server, opt),
		Provenance: tallystickv1connect.NewProvenanceClient(httpClient, server, opt),
		Membership: tallystickv1connect.NewMembershipClient(httpClient, server, opt),
		Log:        tallystickv1connect.NewLogClient(httpClient, server, opt),
		source:     source,
	}, nil
}

// Token returns a bearer token for tools that speak HTTP by themselves.
func (c *Client) Token() (string, error) { return c.source.Token() }

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
