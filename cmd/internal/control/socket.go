package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
)

// listen binds the socket. The caller holds the store's lock, so what is there
// was left by a process that has ended.
func listen(store string) (net.Listener, error) {
	path := Socket(store)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var ln net.Listener
	err := throughShortName(path, func(name string) (err error) {
		ln, err = net.Listen("unix", name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // the short name is gone by then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// maxSocketName is what fits into a socket address on every system.
const maxSocketName = 100

// throughShortName calls use with a name of the path that fits into a socket
// address. On Linux a name through the directory's descriptor always does.
func throughShortName(path string, use func(name string) error) error {
	if len(path) <= maxSocketName || runtime.GOOS != "linux" {
		return use(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
