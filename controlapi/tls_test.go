package controlapi

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
)

type tlsServer struct {
	url   string
	roots *x509.CertPool
}

// newTLSServer serves h over TLS on loopback until the test ends.
func newTLSServer(t *testing.T, h http.Handler) tlsServer {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return tlsServer{server.URL, roots}
}
