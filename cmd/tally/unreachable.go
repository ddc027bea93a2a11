package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"

	"connectrpc.com/connect"
)

// statusLine is what connect makes of an answer that is not of its protocol.
var statusLine = regexp.MustCompile(`^([0-9]{3}) [A-Z]`)

// unreached names the server in an error that came from not reaching a control
// plane there, and says what to look at. Other errors, those that a control plane
// answered among them, it returns as they are. The exit code stays what it was.
func unreached(err error, server string) error {
	named, ok := nameServer(err, server)
	if !ok {
		return err
	}
	if coded := (*codeError)(nil); errors.As(err, &coded) {
		return &codeError{named, coded.code}
	}
	return named
}

// nameServer is unreached without the exit code; ok is false for other errors.
func nameServer(err error, server string) (named error, ok bool) {
	var ce *connect.Error
	if !errors.As(err, &ce) || connect.IsWireError(ce) || errors.Is(err, context.Canceled) {
		return nil, false
	}
	if hinted := (*hintError)(nil); errors.As(err, &hinted) {
		return nil, false
	}
	if m := statusLine.FindStringSubmatch(ce.Message()); m != nil {
		if ce.Code() == connect.CodeUnavailable {
			hint := "the control plane is starting, or what lies before it cannot reach it: try again; " + server + "/healthz says what it waits for"
			if m[1] == "429" {
				hint = "what lies before the control plane limits requests: try again later"
			}
			return withHint(fmt.Errorf("%s answers %q", server, ce.Message()), hint), true
		}
		hint := "the profile's \"server\" should be the address of a control plane, without a path"
		if m[1] == "400" && strings.HasPrefix(server, "http:") {
			hint += "; if it wants TLS, https"
		}
		return withHint(fmt.Errorf("%s answers %q, which no control plane does", server, ce.Message()), hint), true
	}
	if ce.Code() != connect.CodeUnavailable && ce.Code() != connect.CodeDeadlineExceeded {
		return nil, false
	}
	hint, cause := unreachable(ce.Unwrap())
	return withHint(fmt.Errorf("no answer from the control plane at %s: %w", server, cause), hint), true
}

// unreachable returns what to do about a connection that failed, and the innermost
// cause.
func unreachable(err error) (hint string, cause error) {
	var name *net.DNSError
	var call *os.SyscallError
	var timeout net.Error
	var unknown x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the profile's \"server\" should begin with http://, which is for loopback addresses only", errors.New("it speaks plain http")
	case errors.As(err, &unknown):
		return "SSL_CERT_FILE names a file with the authorities to trust; without it they are the system's", unknown
	case errors.As(err, &certificate):
		return "the server's certificate must be for the host that the profile names, and valid now by this machine's clock", certificate.Err
	case errors.As(err, &name):
		return "check the profile's \"server\" and this machine's name service", fmt.Errorf("no address for %q", name.Name)
	case errors.As(err, &call):
		return "is the control plane running? `tally dev` starts one", call.Err
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "check the address, and what lies between", errors.New("it took too long")
	}
	return "is the control plane running? `tally dev` starts one", err
}
