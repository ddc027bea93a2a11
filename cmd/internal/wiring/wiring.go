// Package wiring is what the programs share in putting themselves together:
// reading what an operator names, and telling where they listen.
package wiring

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// ReadPolicy reads a c2sp.org/tlog-policy file.
func ReadPolicy(path string) (*checkpoint.Policy, error) {
	text, err := ReadFile(path, checkpoint.MaxPolicySize)
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	policy, err := checkpoint.ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return policy, nil
}

// Passphrase returns the passphrase in a file, nil when none is named.
func Passphrase(file string) keyfile.Passphrase {
	if file == "" {
		return nil
	}
	return keyfile.PassphraseFile(file)
}

// CheckAddress checks an address to listen on, and says whether only this machine
// reaches it: any other wants TLS. An empty address, as an unset variable leaves,
// is refused: it would mean every interface and any port.
func CheckAddress(address string) (loopback bool, err error) {
	if address == "" {
		return false, errors.New("the address to listen on is empty: want HOST:PORT, for example 127.0.0.1:8400")
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("the address to listen on: %w: want HOST:PORT, for example 127.0.0.1:8400", err)
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback(), nil
}

// Listen listens on address and tells where: in a line "listening addr=…" on
// stderr and, if one is named, in a file, so that scripts can ask for port 0.
func Listen(address, addrFile string, stderr io.Writer) (net.Listener, error) {
	if _, err := CheckAddress(address); err != nil {
		return nil, err
	}
	ln, err := ListenTCP(address)
	if err != nil {
		return nil, err
	}
	// The file comes first: a script may wait for the line to read it.
	if addrFile != "" {
		if err := WriteFile(addrFile, []byte(ln.Addr().String()+"\n"), 0o644); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
	}
	fmt.Fprintf(stderr, "listening addr=%s\n", ln.Addr())
	return ln, nil
}

// ListenTCP listens on address. Its errors name the address and say, where that is
// known, what to do.
func ListenTCP(address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err == nil {
		return ln, nil
	}
	advice := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = ": stop the program that listens there, or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = ": no interface of this machine has it"
	case errors.Is(err, syscall.EACCES):
		advice = ": ports below 1024 take a privilege, choose a higher one"
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err // the rest repeats the address
	}
	if call := (*os.SyscallError)(nil); errors.As(err, &call) {
		err = call.Err
	}
	return nil, fmt.Errorf("listening at %q: %w%s", address, err, advice)
}

// EndProcess returns a function that says why on stderr, in one line, and ends
// the process at once: nothing is closed, since closing would write.
func EndProcess(program string, stderr io.Writer) func(error) {
	return func(err error) {
		fmt.Fprintf(stderr, "%s: error: %v; restart it: opening the log again finds out what was written\n", program, err)
		os.Exit(StatusStoreFailed)
	}
}
