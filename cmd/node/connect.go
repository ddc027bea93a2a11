package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/node"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/verifier"
)

// maxMessage bounds a message from the control plane, in bytes: an assignment
// with the proof bundles of its parents is the largest.
const maxMessage = 96 << 20

// plane joins the clients whose methods a node calls.
type plane struct {
	rpc.NodeClient
	rpc.ControlClient
	rpc.ProvenanceClient
}

// connectTo makes the clients of a control plane, with the node's token, and the
// reader of its public logs, without.
func connectTo(c serveConfig, trust verifier.Trust) (node.ControlPlane, node.LogSource, error) {
	server, err := checkServer(c.server)
	if err != nil {
		return nil, nil, err
	}
	tokenKey, err := keyfile.LoadEd25519(c.tokenKey, wiring.Passphrase(c.pass))
	if err != nil {
		return nil, nil, err
	}
	genesis, _, err := membership.Genesis(trust.Genesis)
	if err != nil {
		return nil, nil, fmt.Errorf("%q: %w", c.genesis, err)
	}
	transport, err := newTransport(c.caFile)
	if err != nil {
		return nil, nil, err
	}
	source := &token.Source{Principal: c.id, Cluster: genesis.Cluster(), Key: tokenKey}
	authenticated := &http.Client{Transport: &token.Transport{Source: source, Base: transport}, CheckRedirect: noRedirect}
	bound := connect.WithReadMaxBytes(maxMessage)
	return plane{
			rpc.NewNodeClient(authenticated, server, bound),
			rpc.NewControlClient(authenticated, server, bound),
			rpc.NewProvenanceClient(authenticated, server, bound),
		}, node.HTTPLogs{
			Server: server, Client: &http.Client{Transport: transport, CheckRedirect: noRedirect},
		}, nil
}

// checkServer refuses addresses over which a token would travel in the clear.
func checkServer(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("server %q is not an http or https URL", server)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("server %q: plain http is for loopback addresses only, use https", server)
	}
	return strings.TrimSuffix(server, "/"), nil
}

func newTransport(caFile string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 8,
		ForceAttemptHTTP2:   true,
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%q holds no certificate", caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return t, nil
}

func noRedirect(*http.Request, []*http.Request) error {
	return errors.New("the control plane redirected, which it never does: check --server")
}

func publicKey(key crypto.Signer) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }
