package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
)

// tileBytes is the size of a full tile of hashes.
const tileBytes = 256 * 32

// serveUntilEOF serves the handler of a role, as plainly as net/http can, until
// standard input ends.
func serveUntilEOF(j job) error {
	mux := http.NewServeMux()
	switch j.Role {
	case roleEmpty:
		mux.HandleFunc("POST /add", func(http.ResponseWriter, *http.Request) {})
	case roleMemory:
		tile, length := newFiller(plain).data(tileBytes), strconv.Itoa(tileBytes)
		mux.HandleFunc("GET /tile/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Length", length)
			w.Write(tile)
		})
	case roleFiles:
		mux.Handle("GET /tile/", http.FileServer(http.Dir(j.Dir)))
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("listening %s\n", ln.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.Serve(ln, mux) //nolint:gosec // the least that net/http can be, without time-outs
}
