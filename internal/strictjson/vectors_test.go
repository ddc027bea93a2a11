package strictjson

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// Golden vectors are written by
//
//	go test ./internal/strictjson -run TestVectors -update
var update = flag.Bool("update", false, "rewrite testdata/json")

type vectorFile struct {
	About    string          `json:"about"`
	Accepted []vectorGood    `json:"accepted"`
	Refused  []vectorRefused `json:"refused"`
}

type vectorGood struct {
	Name      string `json:"name"`
	Text      string `json:"text"`
	Canonical string `json:"canonical"`
}

type vectorRefused struct {
	Name   string `json:"name"`
	Text   string `json:"text,omitempty"`
	Base64 string `json:"text_base64,omitempty"` // instead, if it is not UTF-8
}

// shape has what the accepted texts of the vectors have.
type shape struct {
	B bool              `json:"b,omitempty"`
	L []any16           `json:"l,omitempty"`
	N *uint64           `json:"n,omitempty"`
	O map[string]string `json:"o,omitempty"`
	V string            `json:"v"`
}

// any16 is a list of lists of lists, deeper than the rules allow.
type any16 [][][][][][][][][][][][][][][][]string

func vectors() vectorFile {
	deep := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	f := vectorFile{About: "Strict JSON, docs/formats/README.md: texts of an object with the string v, and other members of any kind. " +
		"What is refused here is refused whatever the members of a statement are."}
	for _, v := range [][3]string{
		{"one member", `{"v":""}`, `{"v":""}`},
		{"white space", " {\t\"v\"\r\n: \"a\" , \"n\" :\n1 } \n", `{"n":1,"v":"a"}`},
		{"members in another order", `{"v":"a","n":1,"b":true}`, `{"b":true,"n":1,"v":"a"}`},
		{"every escape", `{"v":"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00"}`, `{"v":"\"\\/\u0008\u000c\u000a\u000d\u0009Aé😀"}`},
		{"escaped name", `{"\u0076":"a"}`, `{"v":"a"}`},
		{"text that some writers escape", `{"v":"<&>\u2028\u2029\u007f"}`, "{\"v\":\"<&>\u2028\u2029\u007f\"}"},
		{"the replacement character", "{\"v\":\"\ufffd\"}", "{\"v\":\"\ufffd\"}"},
		{"NUL", `{"v":"\u0000"}`, `{"v":"\u0000"}`},
		{"zero", `{"n":0,"v":""}`, `{"n":0,"v":""}`},
		{"2^53 - 1", `{"n":9007199254740991,"v":""}`, `{"n":9007199254740991,"v":""}`},
		{"names that differ in case", `{"o":{"a":"1","A":"2"},"v":""}`, `{"o":{"A":"2","a":"1"},"v":""}`},
		{"names in byte order", `{"o":{"😀":"1","é":"2","z":"3"},"v":""}`, `{"o":{"z":"3","é":"2","😀":"1"},"v":""}`},
		{"16 levels", `{"l":` + deep(15) + `,"v":""}`, `{"l":` + deep(15) + `,"v":""}`},
	} {
		f.Accepted = append(f.Accepted, vectorGood{v[0], v[1], v[2]})
	}
	for _, v := range [][2]string{
		{"empty", ""},
		{"white space only", " \n"},
		{"byte order mark", "\ufeff" + `{"v":""}`},
		{"bytes after the value", `{"v":""}x`},
		{"two values", `{"v":""}{"v":""}`},
		{"no object", `["v"]`},
		{"member twice", `{"v":"","v":""}`},
		{"member twice by an escape", `{"v":"","\u0076":""}`},
		{"member of a member twice", `{"o":{"a":"1","a":"1"},"v":""}`},
		{"null", `{"n":null,"v":""}`},
		{"null in a list", `{"l":[null],"v":""}`},
		{"negative", `{"n":-1,"v":""}`},
		{"minus zero", `{"n":-0,"v":""}`},
		{"plus sign", `{"n":+1,"v":""}`},
		{"fraction", `{"n":1.0,"v":""}`},
		{"exponent", `{"n":1e3,"v":""}`},
		{"leading zero", `{"n":01,"v":""}`},
		{"2^53", `{"n":9007199254740992,"v":""}`},
		{"2^64 + 1", `{"n":18446744073709551617,"v":""}`},
		{"not a number", `{"n":NaN,"v":""}`},
		{"infinity", `{"n":Infinity,"v":""}`},
		{"hexadecimal number", `{"n":0x10,"v":""}`},
		{"capital literal", `{"b":True,"v":""}`},
		{"comma before the end", `{"v":"",}`},
		{"comma before the end of a list", `{"l":["a",],"v":""}`},
		{"no comma", `{"n":1 "v":""}`},
		{"no colon", `{"v" ""}`},
		{"not closed", `{"v":""`},
		{"string not closed", `{"v":"`},
		{"single quotes", `{'v':''}`},
		{"name without quotes", `{v:""}`},
		{"comment", `{/**/"v":""}`},
		{"form feed as white space", "{\f\"v\":\"\"}"},
		{"no-break space as white space", "{\u00a0\"v\":\"\"}"},
		{"control character in a string", "{\"v\":\"a\nb\"}"},
		{"unknown escape", `{"v":"\x41"}`},
		{"short escape", `{"v":"\u12"}`},
		{"lone high surrogate", `{"v":"\ud83d"}`},
		{"lone low surrogate", `{"v":"\ude00"}`},
		{"surrogates exchanged", `{"v":"\ude00\ud83d"}`},
		{"lone surrogate in a name", `{"o":{"\ud83d":""},"v":""}`},
		{"17 levels", `{"l":` + deep(16) + `,"v":""}`},
		{"byte that is no UTF-8", "{\"v\":\"\xff\"}"},
		{"overlong UTF-8", "{\"v\":\"\xc0\x80\"}"},
		{"surrogate in UTF-8", "{\"v\":\"\xed\xa0\x80\"}"},
		{"no UTF-8 in a name", "{\"o\":{\"\xff\":\"\"},\"v\":\"\"}"},
		{"UTF-16", "{\x00\"\x00v\x00\"\x00:\x00\"\x00\"\x00}\x00"},
	} {
		r := vectorRefused{Name: v[0], Text: v[1]}
		if !utf8.ValidString(v[1]) {
			r.Text, r.Base64 = "", base64.StdEncoding.EncodeToString([]byte(v[1]))
		}
		f.Refused = append(f.Refused, r)
	}
	return f
}

func TestVectors(t *testing.T) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(vectors()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "testdata", "json", "strict.json")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, b.Bytes()) {
		t.Errorf("%s differs from the cases of this test", path)
	}
	var f vectorFile
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	for _, v := range f.Accepted {
		if _, ok := Text([]byte(v.Text), "v", testBytes); !ok {
			t.Errorf("%s: refused without knowledge of the members", v.Name)
		}
		var s shape
		if err := Unmarshal([]byte(v.Text), &s, testBytes); err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if canonical, err := Marshal(s); err != nil || string(canonical) != v.Canonical {
			t.Errorf("%s: %s, %v; want %s", v.Name, canonical, err, v.Canonical)
		}
	}
	for _, v := range f.Refused {
		text := []byte(v.Text)
		if v.Base64 != "" {
			if text, err = base64.StdEncoding.DecodeString(v.Base64); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := Text(text, "v", testBytes); ok {
			t.Errorf("%s: accepted without knowledge of the members", v.Name)
		}
		if err := Unmarshal(text, new(shape), testBytes); err == nil {
			t.Errorf("%s: accepted", v.Name)
		}
	}
}
