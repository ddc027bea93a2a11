package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// errorNames are the names of errors in golden files.
var errorNames = []struct {
	name string
	err  error
}{{"too_large", ErrTooLarge}, {"canonical", ErrNotCanonical}, {"version", ErrVersion}, {"field", ErrField}, {"opening", ErrOpening}}

func errorName(err error) string {
	for _, e := range errorNames {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	return ""
}

// goldenFile compares a file under testdata/record with a value.
func goldenFile(t *testing.T, name string, v any) {
	t.Helper()
	out, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, '\n')
	path := filepath.Join("..", "testdata", "record", name)
	if *update {
		if err := os.WriteFile(path, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, want) {
		t.Errorf("%s differs from what this test makes", path)
	}
}

// TestAcceptedVectors: what the canonical form has, in the schema of refused.proto.
func TestAcceptedVectors(t *testing.T) {
	type accepted struct {
		Name  string `json:"name"`
		Bytes string `json:"bytes"`
	}
	var list []accepted
	good, _ := wireCases()
	for name, b := range good {
		list = append(list, accepted{name, b})
	}
	slices.SortFunc(list, func(a, b accepted) int { return strings.Compare(a.Name, b.Name) })
	goldenFile(t, "accepted.json", list)
}

// TestInvalidVectors: records in canonical form that no writer may write.
func TestInvalidVectors(t *testing.T) {
	type invalid struct {
		Error  string `json:"error"` // for people
		Code   string `json:"code"`
		Record string `json:"record"`
	}
	var list []invalid
	for _, test := range fieldCases() {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(test.r)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 4096 {
			continue // a large vector shows nothing that a small one does not
		}
		_, err = Parse(b)
		if err == nil {
			t.Fatalf("%s: accepted", test.text)
		}
		list = append(list, invalid{err.Error(), errorName(err), hex.EncodeToString(b)})
	}
	goldenFile(t, "invalid.json", list)
}

// TestOpeningVectors: what cannot be an opening, and openings of no record.
func TestOpeningVectors(t *testing.T) {
	type vector struct {
		Name    string `json:"name"`
		Opening string `json:"opening"`
		Padded  int    `json:"padded_to,omitempty"` // zero bytes follow, up to this length
		Entry   string `json:"entry,omitempty"`     // of an opening, whatever it holds
		Code    string `json:"code,omitempty"`
	}
	good, err := Marshal(samples()[0])
	if err != nil {
		t.Fatal(err)
	}
	salt := hex.EncodeToString(fill(0xa0))
	other := bytes.Replace(good, []byte(Version), []byte("2.0"), 1)
	unknown := append(bytes.Clone(good), 0xf8, 0x07, 1)
	list := []vector{
		{Name: "a record", Opening: salt + hex.EncodeToString(good)},
		{Name: "the same under another salt", Opening: hex.EncodeToString(fill(0xa1)) + hex.EncodeToString(good)},
		{Name: "empty", Code: "opening"},
		{Name: "a byte less than a salt", Opening: salt[2:], Code: "opening"},
		{Name: "a salt and no record", Opening: salt, Code: "opening"},
		{Name: "a byte too long", Opening: salt, Padded: MaxOpeningSize + 1, Code: "opening"},
		{Name: "the largest there is, of no record", Opening: salt, Padded: MaxOpeningSize, Code: "canonical"},
		{Name: "one byte of record", Opening: salt + "0a", Code: "canonical"},
		{Name: "a record without its last byte", Opening: salt + hex.EncodeToString(good[:len(good)-1]), Code: "canonical"},
		{Name: "a record and one byte", Opening: salt + hex.EncodeToString(good) + "00", Code: "canonical"},
		{Name: "an unknown field", Opening: salt + hex.EncodeToString(unknown), Code: "canonical"},
		{Name: "another protocol version", Opening: salt + hex.EncodeToString(other), Code: "version"},
		{Name: "a record without content", Opening: salt + hex.EncodeToString(good[:5]), Code: "field"},
	}
	for i, v := range list {
		b, err := hex.DecodeString(v.Opening)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, max(0, v.Padded-len(b)))...)
		o, err := ParseOpening(b)
		if err == nil {
			entry := o.Entry()
			list[i].Entry = hex.EncodeToString(entry[:])
			_, err = Parse(o.Record())
		}
		if errorName(err) != v.Code {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Code)
		}
	}
	goldenFile(t, "openings.json", list)
}
