package client_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func TestNewRefusesAddresses(t *testing.T) {
	for server, want := range map[string]bool{
		"http://127.0.0.1:8420": true, "http://[::1]:1/": true, "http://localhost:1": true, "https://control.example": true,
		"": false, "control.example": false, "ftp://127.0.0.1": false, "http://": false, "http://192.0.2.1:1": false, "http://control.example": false,
	} {
		_, err := client.New(client.Config{Server: server, Cluster: "c", Principal: "p", TokenKey: testcluster.Key("p")})
		if (err == nil) != want {
			t.Errorf("server %q: %v", server, err)
		}
	}
	if _, err := client.New(client.Config{Server: "http://control.example"}); !errors.Is(err, client.ErrInsecure) {
		t.Errorf("plain http elsewhere: %v", err)
	}
}

// control answers one method and keeps the token it was called with.
type control struct {
	tallystickv1connect.UnimplementedControlHandler
	bearer string
}

func (c *control) GetClusterRoot(_ context.Context, req *connect.Request[pb.GetClusterRootRequest]) (*connect.Response[pb.GetClusterRootResponse], error) {
	c.bearer = strings.TrimPrefix(req.Header().Get("Authorization"), "Bearer ")
	return connect.NewResponse(&pb.GetClusterRootResponse{Cluster: "c"}), nil
}

func TestCallsCarryAToken(t *testing.T) {
	plane := &control{}
	mux := http.NewServeMux()
	mux.Handle(tallystickv1connect.NewControlHandler(plane))
	server := httptest.NewServer(mux)
	defer server.Close()
	key := testcluster.Key("alice")
	c, err := client.New(client.Config{Server: server.URL, Cluster: "c", Principal: "alice", TokenKey: key})
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Control.GetClusterRoot(t.Context(), connect.NewRequest(&pb.GetClusterRootRequest{}))
	if err != nil || res.Msg.Cluster != "c" {
		t.Fatalf("%v, %v", res, err)
	}
	public := key.Public().(ed25519.PublicKey)
	got, err := token.Verify(plane.bearer, "c", time.Now(), func(id string) (token.Key, bool) {
		return token.Key{Principal: "alice", Public: public}, id == token.KeyID(public)
	})
	if err != nil || got.Principal != "alice" {
		t.Errorf("the server saw token %+v, %v", got, err)
	}
	if again, err := c.Token(); err != nil || again != plane.bearer {
		t.Errorf("Token made another one: %v", err)
	}
}

// A redirect could lead the token elsewhere.
func TestRedirectsAreRefused(t *testing.T) {
	elsewhere := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere = true }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	c, err := client.New(client.Config{Server: server.URL, Cluster: "c", Principal: "alice", TokenKey: testcluster.Key("alice")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Control.GetClusterRoot(t.Context(), connect.NewRequest(&pb.GetClusterRootRequest{}))
	if err == nil || elsewhere {
		t.Errorf("a redirect was followed: %v", err)
	}
}

// receipt makes a log of a few records and a receipt for one of them.
func receipt(t *testing.T) (membership.Log, *pb.Receipt) {
	t.Helper()
	const origin, index, size = "c/audit", 2, 5
	signer, err := checkpoint.NewSigner(origin+"/receipt", testcluster.Key("receipt"))
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := checkpoint.Vkey(origin+"/receipt", testcluster.Public("receipt"))
	if err != nil {
		t.Fatal(err)
	}
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(list []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(list))
		for i, at := range list {
			out[i] = hashes[at]
		}
		return out, nil
	})
	r := &pb.Receipt{Index: index}
	for i := range int64(size) {
		body, err := record.Marshal(&pb.Record{ProtocolVersion: "1.0", Cluster: "c", TimeUnixMs: uint64(i) + 1, Actor: &pb.Actor{
			Principal: "alice", KeyId: strings.Repeat("a", 64), Method: "tallystick.v1.Control/PutBlob", TokenId: strings.Repeat("j", 16)},
			Body: &pb.Record_Operation{Operation: &pb.OperationRecord{Code: "ok"}}})
		if err != nil {
			t.Fatal(err)
		}
		opening, err := record.NewOpening([record.SaltSize]byte{byte(i)}, body)
		if err != nil {
			t.Fatal(err)
		}
		entry := opening.Entry()
		stored, err := tlog.StoredHashes(i, entry[:], reader)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, stored...)
		if i == index {
			r.Opening = opening.Bytes()
		}
	}
	root, err := tlog.TreeHash(size, reader)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := tlog.ProveRecord(size, index, reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range proof {
		r.InclusionProof = append(r.InclusionProof, h[:])
	}
	if r.Head, err = checkpoint.Sign(checkpoint.Checkpoint{Origin: origin, Size: size, Root: root}, signer); err != nil {
		t.Fatal(err)
	}
	return membership.Log{Origin: origin, ReceiptKeys: []string{vkey}}, r
}

func TestVerifyReceipt(t *testing.T) {
	log, r := receipt(t)
	rec, err := client.VerifyReceipt(log, r)
	if err != nil || rec.GetTimeUnixMs() != 3 {
		t.Fatalf("%v, %v", rec, err)
	}
	for name, spoil := range map[string]func(*membership.Log, *pb.Receipt){
		"nothing":        func(_ *membership.Log, r *pb.Receipt) { *r = pb.Receipt{} },
		"another index":  func(_ *membership.Log, r *pb.Receipt) { r.Index++ },
		"index outside":  func(_ *membership.Log, r *pb.Receipt) { r.Index = 5 },
		"huge index":     func(_ *membership.Log, r *pb.Receipt) { r.Index = 1 << 63 },
		"another salt":   func(_ *membership.Log, r *pb.Receipt) { r.Opening[0] ^= 1 },
		"another record": func(_ *membership.Log, r *pb.Receipt) { r.Opening[len(r.Opening)-1] ^= 1 },
		"no record":      func(_ *membership.Log, r *pb.Receipt) { r.Opening = r.Opening[:32] },
		"changed head":   func(_ *membership.Log, r *pb.Receipt) { r.Head[len("c/audit\n")] = '6' },
		"no head":        func(_ *membership.Log, r *pb.Receipt) { r.Head = nil },
		"short proof":    func(_ *membership.Log, r *pb.Receipt) { r.InclusionProof = r.InclusionProof[1:] },
		"long proof":     func(_ *membership.Log, r *pb.Receipt) { r.InclusionProof = make([][]byte, 1000) },
		"odd hash":       func(_ *membership.Log, r *pb.Receipt) { r.InclusionProof[0] = r.InclusionProof[0][1:] },
		"another log":    func(l *membership.Log, _ *pb.Receipt) { l.Origin = "d/audit" },
		"no key":         func(l *membership.Log, _ *pb.Receipt) { l.ReceiptKeys = nil },
		"another log's key": func(l *membership.Log, _ *pb.Receipt) {
			vkey, _ := checkpoint.Vkey("c/audit/receipt", testcluster.Public("other"))
			l.ReceiptKeys = []string{vkey}
		},
	} {
		log, r := receipt(t)
		spoil(&log, r)
		if _, err := client.VerifyReceipt(log, r); !errors.Is(err, client.ErrReceipt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
