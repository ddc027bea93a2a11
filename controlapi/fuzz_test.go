package controlapi

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// requests are the request messages of every method.
func requests() []protoreflect.MessageDescriptor {
	var list []protoreflect.MessageDescriptor
	for _, file := range files {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				list = append(list, file.Services().Get(i).Methods().Get(j).Input())
			}
		}
	}
	return list
}

// FuzzDecode: a request message either decodes into something that survives
// its own encoding, or carries an error and nothing else.
func FuzzDecode(f *testing.F) {
	for _, body := range goodBodies {
		f.Add(uint8(0), false, []byte(body))
	}
	f.Add(uint8(4), false, []byte(`{"submission":"YQ==","wait":"WAIT_WITNESSED"}`))
	f.Add(uint8(4), true, []byte{0x0a, 1, 'a', 0x18, 1})
	f.Add(uint8(1), true, forgedError())
	all := requests()
	f.Fuzz(func(t *testing.T, which uint8, binary bool, data []byte) {
		m := dynamicpb.NewMessage(all[int(which)%len(all)])
		if binary {
			_ = binaryCodec{}.Unmarshal(data, m)
		} else {
			_ = jsonCodec{}.Unmarshal(data, m)
		}
		if err := decodeError(m); err != nil {
			empty := proto.Clone(m)
			empty.ProtoReflect().SetUnknown(nil)
			if proto.Size(empty) != 0 || len(err.Error()) > 256 {
				t.Errorf("a message that does not decode holds %v", empty)
			}
			return
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatalf("what was accepted has no JSON: %v", err)
		}
		again := dynamicpb.NewMessage(m.Descriptor())
		if _ = (jsonCodec{}).Unmarshal(text, again); !proto.Equal(m, again) {
			t.Errorf("%v reads back as %v", m, again)
		}
	})
}

// FuzzCall sends arbitrary bodies and content types to a method that touches
// every part of the edge. Whatever they are, there is one answer in words, and
// one record.
func FuzzCall(f *testing.F) {
	f.Add("application/json", "", []byte(`{"digest":"`+digestOfA+`"}`))
	f.Add("application/json", "gzip", []byte{0x1f, 0x8b})
	f.Add("application/grpc-web+proto", "", frame("\n\x01a"))
	f.Add("application/connect+json", "", frame("{}"))
	f.Add("application/proto", "", []byte{0x0a, 1, 'a'})
	core := newFakeCore(f)
	quotas := DevelopmentQuotas()
	quotas.Refusals = Rate{1e6, 1e6} // refusals over quota are slow on purpose
	edge, err := New(Config{Cluster: testCluster, Core: core, Quotas: quotas})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(edge.StopAndWait)
	f.Fuzz(func(t *testing.T, contentType, encoding string, body []byte) {
		before := len(core.recorded())
		r := httptest.NewRequest(http.MethodPost, rpc.ControlGetBlobProcedure, bytes.NewReader(body))
		r.Header.Set("Authorization", bearer(t, "alice"))
		r.Header.Set("Content-Type", contentType)
		if encoding != "" {
			r.Header.Set("Content-Encoding", encoding)
		}
		w := httptest.NewRecorder()
		edge.ServeHTTP(w, r)
		if n := len(core.recorded()) - before; n != 1 {
			t.Errorf("%d records, want 1", n)
		}
		if w.Code != http.StatusOK && !strings.Contains(w.Body.String(), `"[`) {
			t.Errorf("%d without words: %q", w.Code, w.Body)
		}
	})
}
