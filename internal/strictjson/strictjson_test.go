package strictjson

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

// sample has one member of every shape that payloads use.
type sample struct {
	Name    string            `json:"name"`
	Count   uint64            `json:"count"`
	Small   uint8             `json:"small,omitempty"`
	Signed  int               `json:"signed,omitempty"`
	On      bool              `json:"on,omitempty"`
	Raw     []byte            `json:"raw,omitempty"`
	Pair    [2]string         `json:"pair,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`
	List    []inner           `json:"list,omitempty"`
	Digest  digest.Digest     `json:"digest,omitzero"`
	Digests []digest.Digest   `json:"digests,omitempty"`
	Gas     *uint64           `json:"gas,omitempty"`
	Inner   *inner            `json:"inner,omitempty"`
	Hidden  string            `json:"-"`
	private int               //lint:ignore U1000 its name must not be taken
}

type inner struct {
	Words []string `json:"words"`
}

const testBytes = 4096

func TestUnmarshalReadsEveryShape(t *testing.T) {
	text := ` { "name" : "a\"\\\/\b\f\n\r\t\u0041\ud83d\ude00é", "count":9007199254740991,
		"small":255,"signed":7,"on":true,"raw":"AAE=","pair":["x",""],"labels":{"b":"2","a":"1"},
		"list":[{"words":[]},{"words":["w"]}],"digest":"` + strings.Repeat("ab", 32) + `",
		"digests":["` + strings.Repeat("00", 32) + `"],"gas":0,"inner":{"words":[]}} `
	var got sample
	if err := Unmarshal([]byte(text), &got, testBytes); err != nil {
		t.Fatal(err)
	}
	zero := uint64(0)
	want := sample{
		Name: "a\"\\/\b\f\n\r\tA😀é", Count: MaxInteger, Small: 255, Signed: 7, On: true,
		Raw: []byte{0, 1}, Pair: [2]string{"x", ""}, Labels: map[string]string{"a": "1", "b": "2"},
		List:    []inner{{Words: []string{}}, {Words: []string{"w"}}},
		Digests: []digest.Digest{{}}, Gas: &zero, Inner: &inner{Words: []string{}},
	}
	for i := range want.Digest {
		want.Digest[i] = 0xab
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1)
	for _, tc := range []struct{ name, text, says string }{
		{"empty text", ``, `want "{"`},
		{"byte order mark", "\ufeff" + `{"name":"a","count":1}`, `want "{"`},
		{"trailing bytes", `{"name":"a","count":1}x`, `after the value`},
		{"second value", `{"name":"a","count":1}{}`, `after the value`},
		{"unknown member", `{"name":"a","count":1,"more":1}`, `"more"`},
		{"case folded", `{"Name":"a","count":1}`, `spelled "name"`},
		{"ignored field", `{"name":"a","count":1,"-":"x"}`, `unknown member`},
		{"unexported field", `{"name":"a","count":1,"private":1}`, `unknown member`},
		{"duplicate", `{"name":"a","count":1,"count":1}`, `twice`},
		{"duplicate by escape", `{"name":"a","count":1,"c\u006funt":1}`, `twice`},
		{"duplicate in map", `{"name":"a","count":1,"labels":{"a":"1","a":"1"}}`, `"labels.a"`},
		{"missing", `{"name":"a"}`, `member "count"`},
		{"missing nested", `{"name":"a","count":1,"list":[{}]}`, `"list.0.words"`},
		{"null", `{"name":null,"count":1}`, `null`},
		{"null optional", `{"name":"a","count":1,"gas":null}`, `null`},
		{"null element", `{"name":"a","count":1,"list":[null]}`, `null`},
		{"negative", `{"name":"a","count":-1}`, `without sign`},
		{"minus zero", `{"name":"a","count":-0}`, `without sign`},
		{"fraction", `{"name":"a","count":1.0}`, `without point`},
		{"exponent", `{"name":"a","count":1e3}`, `without point`},
		{"capital exponent", `{"name":"a","count":1E3}`, `without point`},
		{"leading zero", `{"name":"a","count":01}`, `leading zero`},
		{"above 2^53-1", `{"name":"a","count":9007199254740992}`, `2^53`},
		{"overflows 64 bits", `{"name":"a","count":18446744073709551617}`, `2^53`},
		{"overflows field", `{"name":"a","count":1,"small":256}`, `out of range`},
		{"number as string", `{"name":"a","count":"1"}`, `want an integer`},
		{"string as number", `{"name":1,"count":1}`, `want a string`},
		{"quoted bool", `{"name":"a","count":1,"on":"true"}`, `want true or false`},
		{"empty optional string list", `{"name":"a","count":1,"list":[]}`, `"list"`},
		{"empty optional map", `{"name":"a","count":1,"labels":{}}`, `empty`},
		{"empty optional number", `{"name":"a","count":1,"small":0}`, `empty`},
		{"empty optional bool", `{"name":"a","count":1,"on":false}`, `empty`},
		{"empty optional bytes", `{"name":"a","count":1,"raw":""}`, `empty`},
		{"empty optional digest", `{"name":"a","count":1,"digest":"` + strings.Repeat("0", 64) + `"}`, `empty`},
		{"upper case digest", `{"name":"a","count":1,"digest":"` + strings.Repeat("AB", 32) + `"}`, `"digest"`},
		{"base64 without padding", `{"name":"a","count":1,"raw":"AAE"}`, `base64`},
		{"base64 with loose bits", `{"name":"a","count":1,"raw":"AAF="}`, `base64`},
		{"base64 with line break", `{"name":"a","count":1,"raw":"AAE=\n"}`, `base64`},
		{"base64 for URLs", `{"name":"a","count":1,"raw":"__8="}`, `base64`},
		{"short pair", `{"name":"a","count":1,"pair":["x"]}`, `exactly 2`},
		{"long pair", `{"name":"a","count":1,"pair":["x","y","z"]}`, `exactly 2`},
		{"trailing comma", `{"name":"a","count":1,}`, `want a string`},
		{"trailing comma in list", `{"name":"a","count":1,"pair":["x","y",]}`, `exactly 2`},
		{"no colon", `{"name" "a"}`, `want ":"`},
		{"unclosed object", `{"name":"a","count":1`, `the end`},
		{"unclosed string", `{"name":"a`, `unterminated`},
		{"control character", "{\"name\":\"a\nb\",\"count\":1}", `control character`},
		{"NUL", "{\"name\":\"a\x00b\",\"count\":1}", `control character`},
		{"invalid UTF-8", "{\"name\":\"a\xff\",\"count\":1}", `UTF-8`},
		{"overlong UTF-8", "{\"name\":\"\xc0\x80\",\"count\":1}", `UTF-8`},
		{"surrogate in UTF-8", "{\"name\":\"\xed\xa0\x80\",\"count\":1}", `UTF-8`},
		{"lone high surrogate", `{"name":"\ud83d","count":1}`, `surrogate`},
		{"lone low surrogate", `{"name":"\ude00","count":1}`, `surrogate`},
		{"high then letter", `{"name":"\ud83dA","count":1}`, `surrogate`},
		{"high then high", `{"name":"\ud83d\ud83d","count":1}`, `surrogate`},
		{"unknown escape", `{"name":"\x41","count":1}`, `escape`},
		{"short unicode escape", `{"name":"\u12","count":1}`, `escape`},
		{"escape at the end", `{"name":"\`, `escape`},
		{"comment", `{/**/"name":"a","count":1}`, `want a string`},
		{"form feed as space", "{\f\"name\":\"a\",\"count\":1}", `want a string`},
		{"list for object", `[]`, `want "{"`},
		{"too deep", `{"name":"a","count":1,"list":` + deep + `}`, `want "{"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := sample{Name: "kept"}
			err := Unmarshal([]byte(tc.text), &got, testBytes)
			if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want ErrSyntax saying %q", err, tc.says)
			}
			if !reflect.DeepEqual(got, sample{Name: "kept"}) {
				t.Errorf("refused input changed the destination: %+v", got)
			}
		})
	}
}

type tree struct {
	Down []tree `json:"d,omitempty"`
}

// A tree of n objects with n−1 arrays between them is 2n−1 levels deep.
func TestDepth(t *testing.T) {
	text := func(n int) string {
		return strings.Repeat(`{"d":[`, n-1) + "{}" + strings.Repeat(`]}`, n-1)
	}
	var got tree
	if err := Unmarshal([]byte(text(8)), &got, testBytes); err != nil {
		t.Fatalf("15 levels: %v", err)
	}
	if _, err := Marshal(got); err != nil {
		t.Errorf("15 levels: %v", err)
	}
	if err := Unmarshal([]byte(text(9)), &got, testBytes); !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), "deeper") {
		t.Errorf("17 levels: got %v", err)
	}
	if _, err := Marshal([]tree{{Down: []tree{got}}}); !errors.Is(err, ErrValue) {
		t.Errorf("18 levels: got %v, want ErrValue", err)
	}
	var list [][][][][][][][][][][][][][][][]string
	if err := Unmarshal([]byte(strings.Repeat("[", 16)+strings.Repeat("]", 16)), &list, testBytes); err != nil {
		t.Errorf("16 levels: %v", err)
	}
}

func TestUnmarshalBoundsItsInput(t *testing.T) {
	text := []byte(`{"words":[]}`)
	if err := Unmarshal(text, new(inner), len(text)); err != nil {
		t.Error(err)
	}
	if err := Unmarshal(text, new(inner), len(text)-1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	err := Unmarshal([]byte(`{"`+strings.Repeat("x", 3000)+`":1}`), new(inner), testBytes)
	if err == nil || len(err.Error()) > 500 {
		t.Errorf("an error repeats the input: %d bytes", len(err.Error()))
	}
}

func TestMarshalIsCanonical(t *testing.T) {
	gas := uint64(0)
	for _, tc := range []struct {
		v    any
		want string
	}{
		{sample{}, `{"count":0,"name":""}`},
		{&sample{Name: "\"\\\x00\x1f\n<>&\u2028é\x7f", Gas: &gas, Hidden: "x"},
			`{"count":0,"gas":0,"name":"\"\\\u0000\u001f\u000a<>&` + "\u2028é\x7f" + `"}`},
		{sample{Labels: map[string]string{"b": "2", "a": "1", "B": "3"}, Pair: [2]string{"k"}},
			`{"count":0,"labels":{"B":"3","a":"1","b":"2"},"name":"","pair":["k",""]}`},
		{sample{Small: 1, Signed: 2, On: true, Raw: []byte{255}, Inner: &inner{}, List: []inner{{Words: []string{"a", "b"}}}},
			`{"count":0,"inner":{"words":[]},"list":[{"words":["a","b"]}],"name":"","on":true,"raw":"/w==","signed":2,"small":1}`},
		{[]digest.Digest{{0xff}}, `["ff` + strings.Repeat("00", 31) + `"]`},
		{uint64(MaxInteger), `9007199254740991`},
	} {
		got, err := Marshal(tc.v)
		if err != nil || string(got) != tc.want {
			t.Errorf("got  %s, %v\nwant %s", got, err, tc.want)
		}
	}
}

type badText struct{}

func (badText) MarshalText() ([]byte, error) { return nil, errors.New("no text") }

func TestMarshalRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		v    any
		want error
	}{
		{"nil", nil, ErrType},
		{"nil pointer", (*sample)(nil), ErrValue},
		{"nil element", []*inner{nil}, ErrValue},
		{"negative", -1, ErrValue},
		{"large", uint64(MaxInteger + 1), ErrValue},
		{"large signed", int64(math.MaxInt64), ErrValue},
		{"float", 1.5, ErrType},
		{"not UTF-8", "\xff", ErrValue},
		{"not UTF-8 in a name", map[string]string{"\xff": ""}, ErrValue},
		{"not UTF-8 in a map", map[string]string{"a": "\xff"}, ErrValue},
		{"text that fails", badText{}, ErrValue},
		{"untagged field", struct{ A int }{}, ErrType},
		{"field without a name", struct {
			A int `json:",omitempty"`
		}{}, ErrType},
		{"two fields of one name", reflect.Zero(reflect.StructOf([]reflect.StructField{
			{Name: "A", Type: reflect.TypeFor[int](), Tag: `json:"a"`},
			{Name: "B", Type: reflect.TypeFor[int](), Tag: `json:"a"`},
		})).Interface(), ErrType},
		{"member", struct {
			A int `json:"a"`
		}{-1}, ErrValue},
	} {
		if _, err := Marshal(tc.v); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestUnmarshalNeedsAUsableDestination(t *testing.T) {
	for _, v := range []any{nil, sample{}, (*sample)(nil), new(float64), new(any), new(struct{ A int }), new(map[int]string)} {
		text := []byte(`{"A":1}`)
		if reflect.TypeOf(v) == reflect.TypeFor[*float64]() {
			text = []byte(`1`)
		}
		if err := Unmarshal(text, v, testBytes); !errors.Is(err, ErrType) {
			t.Errorf("%T: got %v, want ErrType", v, err)
		}
	}
}

// FuzzUnmarshal: what parses re-encodes canonically to the same value, and the
// standard library reads the same value from it.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"name":"a\ud83d\ude00","count":1,"labels":{"a":"b"},"list":[{"words":["x"]}],"raw":"AAE=","pair":["a","b"]}`))
	f.Add([]byte(`{"name":"","count":9007199254740991,"gas":0,"on":true,"digest":"` + strings.Repeat("ab", 32) + `"}`))
	f.Add([]byte(`{"name":"\u0000","count":1e3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v sample
		if err := Unmarshal(data, &v, testBytes); err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("error outside the set: %v", err)
			}
			return
		}
		var std sample
		if err := json.Unmarshal(data, &std); err != nil || !reflect.DeepEqual(std, v) {
			t.Fatalf("encoding/json reads %+v, %v; we read %+v", std, err, v)
		}
		canonical, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var again sample
		if err := Unmarshal(canonical, &again, len(canonical)); err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("canonical form reads as %+v, %v; want %+v", again, err, v)
		}
		if twice, err := Marshal(again); err != nil || string(twice) != string(canonical) {
			t.Fatalf("second encoding %s, %v; first %s", twice, err, canonical)
		}
	})
}

func TestText(t *testing.T) {
	deep := strings.Repeat(`[`, MaxDepth-1) + strings.Repeat(`]`, MaxDepth-1)
	for _, tc := range []struct{ text, want string }{
		{`{"v":"2.0"}`, "2.0"},
		{` { "a" : [ 1 , { } , [ ] , true , "x" ] , "v" : "2\u002e0" } `, "2.0"},
		{`{"a":{"v":"3.0"},"v":"2.0"}`, "2.0"},
		{`{"a":` + deep + `,"v":"2.0"}`, "2.0"},
		{`{"a":[` + deep + `],"v":"2.0"}`, ""}, // too deep
		{``, ""},
		{`[]`, ""},
		{`{}`, ""},
		{`{"V":"2.0"}`, ""},
		{`{"v":2}`, ""},
		{`{"a":{"v":"3.0"}}`, ""},
		{`{"v":"2.0","v":"2.0"}`, ""},
		{`{"a":{"b":1,"b":1},"v":"2.0"}`, ""},
		{`{"v":"2.0"}x`, ""},
		{`{"v":"2.0","a":null}`, ""},
		{`{"v":"2.0","a":-1}`, ""},
		{`{"v":"2.0","a":1.5}`, ""},
		{`{"v":"2.0","a":9007199254740992}`, ""},
		{`{"v":"2.0","a":[1 2]}`, ""},
		{`{"v":"2.0","a":[1,]}`, ""},
		{`{"v":"2.0","a":tru}`, ""},
		{"{\"v\":\"2.0\",\"a\":\"\xff\"}", ""},
		{"{\"v\":\"2.0\xff\"}", ""},
		{`{"v":"\ud800"}`, ""},
		{"\ufeff" + `{"v":"2.0"}`, ""},
	} {
		if got, ok := Text([]byte(tc.text), "v", 1000); got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: got %q, %t; want %q", tc.text, got, ok, tc.want)
		}
	}
	if got, ok := Text([]byte(`{"v":""}`), "v", 1000); got != "" || !ok {
		t.Errorf("empty: got %q, %t", got, ok)
	}
	if got, ok := Text([]byte(`{"v":"2.0"}`), "v", 5); ok {
		t.Errorf("above the bound: got %q", got)
	}
}

// A text that reads as some Go value gives the member that the value has.
func FuzzText(f *testing.F) {
	f.Add([]byte(`{"v":"2.0"}`))
	f.Add([]byte(`{"v":"2.0","a":[{"b":[1,true]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var exact struct {
			V string `json:"v"`
		}
		got, ok := Text(data, "v", 1<<16)
		if Unmarshal(data, &exact, 1<<16) == nil && (got != exact.V || !ok) {
			t.Errorf("got %q, %t; want %q", got, ok, exact.V)
		}
		var loose map[string]any
		if ok && (json.Unmarshal(data, &loose) != nil || loose["v"] != got) {
			t.Errorf("got %q of a text that encoding/json reads as %v", got, loose)
		}
	})
}
