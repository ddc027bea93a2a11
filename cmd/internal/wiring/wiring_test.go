package wiring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func TestReadFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(path, 5); err != nil || string(data) != "12345" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := ReadFile(path, 4); err == nil || !strings.Contains(err.Error(), "more than 4 bytes") {
		t.Errorf("a file over the limit: %v", err)
	}
	if _, err := ReadFile(path+"x", 5); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestReadPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy")
	for text, want := range map[string]error{"quorum none\n": nil, "quorum nobody\n": checkpoint.ErrPolicy} {
		if err := WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPolicy(path); !errors.Is(err, want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestListenTellsWhere(t *testing.T) {
	var stderr bytes.Buffer
	file := filepath.Join(t.TempDir(), "addr")
	ln, err := Listen("127.0.0.1:0", file, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	if data, err := os.ReadFile(file); err != nil || string(data) != addr+"\n" || stderr.String() != "listening addr="+addr+"\n" {
		t.Errorf("the file says %q (%v), standard error %q", data, err, &stderr)
	}
	if _, err := Listen("", "", &stderr); err == nil || !strings.Contains(err.Error(), "want HOST:PORT") {
		t.Errorf("no address: %v", err)
	}
	if _, err := Listen(addr, "", &stderr); err == nil {
		t.Error("two listeners at one address")
	}
	again, err := Listen("127.0.0.1:0", filepath.Join(file, "not a folder"), &stderr)
	if err == nil {
		t.Error("the address was not written and nobody was told")
		again.Close()
	}
	if _, err := net.Dial("tcp", addr); err != nil {
		t.Errorf("nobody listens at %s: %v", addr, err)
	}
}

func TestPassphrase(t *testing.T) {
	if Passphrase("") != nil {
		t.Error("a passphrase without a file")
	}
	path := filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(path, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := Passphrase(path)(); err != nil || string(p) != "secret" {
		t.Errorf("%q, %v", p, err)
	}
}

func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct{ address, want string }{
		{taken.Addr().String(), "address already in use: stop the program that listens there, or choose another port"},
		{"192.0.2.1:0", "no interface of this machine has it"},
		{"127.0.0.1:99999", "invalid port"},
	} {
		ln, err := Listen(test.address, "", io.Discard)
		if err == nil {
			ln.Close()
			t.Errorf("%q: no error", test.address)
			continue
		}
		if want := fmt.Sprintf("listening at %q: ", test.address); !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), test.want) || strings.Contains(err.Error(), "bind:") {
			t.Errorf("%q: %v, want %s… %s", test.address, err, want, test.want)
		}
	}
}
