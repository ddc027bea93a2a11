package controlapi

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

// TestAnnouncedFrame: a frame larger than a connection has memory for ends it when
// it is announced; nobody waits for it to come.
func TestAnnouncedFrame(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewHTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	go server.Serve(ln)
	defer server.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	header := binary.BigEndian.AppendUint32(nil, (maxReadFrame+1)<<8|uint32(http2.FrameData))
	if _, err := conn.Write(append(header, 0, 0, 0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("the frame is waited for: %v", err)
		}
		if end, ok := frame.(*http2.GoAwayFrame); ok {
			if end.ErrCode != http2.ErrCodeFrameSize {
				t.Errorf("ended with %v", end.ErrCode)
			}
			return
		}
	}
}
