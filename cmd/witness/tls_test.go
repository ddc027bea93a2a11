package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tallystick/tallystick/witness"
)

// writeCertificate makes a certificate for 127.0.0.1 that signs itself.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) *x509.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestTLS: a witness serves over TLS, takes a new certificate while it does, and
// keeps the old one when the new one cannot be read.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	config := serveConfig{listen: "0.0.0.0:0", tlsCert: filepath.Join(dir, "cert.pem"), tlsKey: filepath.Join(dir, "key.pem")}
	first := writeCertificate(t, config.tlsCert, config.tlsKey, 1)
	c, err := config.transport()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() {
		served <- witness.Server{Handler: http.NotFoundHandler(), TLS: c.config(), Logger: slog.New(slog.DiscardHandler)}.Serve(ctx, ln)
	}()
	trusts := func(cert *x509.Certificate) bool {
		pool := x509.NewCertPool()
		pool.AddCert(cert)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
		defer client.CloseIdleConnections()
		resp, err := client.Get("https://" + ln.Addr().String() + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusNotFound
	}
	if !trusts(first) {
		t.Error("no answer over TLS")
	}
	second := writeCertificate(t, config.tlsCert, config.tlsKey, 2)
	if err := c.load(); err != nil || !trusts(second) || trusts(first) {
		t.Errorf("the new certificate is not served: %v", err)
	}
	if err := os.WriteFile(config.tlsKey, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.load(); err == nil || !trusts(second) {
		t.Errorf("a broken key file: %v", err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
