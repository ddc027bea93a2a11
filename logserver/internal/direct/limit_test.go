package direct

import (
	"net"
	"testing"
)

// TestLimit: connections beyond the limit are told so, and room that
// is given back is used.
func TestLimit(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := Limit(ln, 2, []byte(refusalText))
	defer limited.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			conn, err := limited.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	var served []net.Conn
	for range 2 {
		defer dial().Close()
		served = append(served, <-accepted)
	}
	for range 20 {
		conn := dial()
		res, body := answerOn(t, conn)
		if res.StatusCode != 503 || res.Header.Get(codeHeader) != "busy" {
			t.Fatalf("%s %v %s", res.Status, res.Header, body)
		}
		conn.Close()
	}
	served[0].Close()
	served[0].Close() // counts once
	defer dial().Close()
	served[0] = <-accepted
	if n := limited.open.Load(); n != 2 {
		t.Errorf("%d connections are open", n)
	}
	for _, conn := range served {
		conn.Close()
	}
}
