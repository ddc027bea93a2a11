package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// The expected bytes are written out by hand, not produced by the code.
func TestEncodingIsAsDocumented(t *testing.T) {
	n := uint64(7)
	d := Digest{0xff}
	got := New("dom").Text("ab").Uint(258).OptionalUint(nil).OptionalUint(&n).
		Digests([]Digest{d}).Texts(nil).OptionalDigest(nil).Sum()
	raw := "00000003646f6d" + "000000026162" + "000000080000000000000102" +
		"000000080000000000000000" + "000000080000000000000001" + "000000080000000000000007" +
		"000000080000000000000001" + "00000020ff" + strings.Repeat("00", 31) +
		"000000080000000000000000" + "000000080000000000000000"
	b, err := hex.DecodeString(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := Digest(sha256.Sum256(b)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFieldsDoNotRunTogether(t *testing.T) {
	seen := map[Digest]string{}
	for name, sum := range map[string]Digest{
		"a,b":        New("d").Text("a").Text("b").Sum(),
		"ab":         New("d").Text("ab").Sum(),
		"ab,empty":   New("d").Text("ab").Text("").Sum(),
		"list a,b":   New("d").Texts([]string{"a", "b"}).Sum(),
		"list a + b": New("d").Texts([]string{"a"}).Text("b").Sum(),
		"domain da":  New("da").Text("b").Sum(),
		"absent":     New("d").OptionalUint(nil).Sum(),
		"zero":       New("d").OptionalUint(new(uint64)).Sum(),
	} {
		if other, ok := seen[sum]; ok {
			t.Errorf("%q and %q have the same hash", name, other)
		}
		seen[sum] = name
	}
}

func TestParse(t *testing.T) {
	good := strings.Repeat("0a", 32)
	if d, err := Parse(good); err != nil || d.String() != good {
		t.Errorf("Parse(%q) = %v, %v", good, d, err)
	}
	for _, bad := range []string{"", good[2:], good + "00", strings.ToUpper(good), strings.Repeat("zz", 32)} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) succeeded", bad)
		}
	}
	if _, err := FromBytes(make([]byte, 31)); err == nil {
		t.Error("FromBytes took 31 bytes")
	}
}

// A digest in JSON is its text form, and nothing else is taken for one.
func TestJSON(t *testing.T) {
	d := Of([]byte("x"))
	data, err := json.Marshal(map[string]Digest{"d": d})
	if err != nil || string(data) != `{"d":"`+d.String()+`"}` {
		t.Fatalf("%s, %v", data, err)
	}
	var back map[string]Digest
	if err := json.Unmarshal(data, &back); err != nil || back["d"] != d || back["d"].IsZero() {
		t.Errorf("read back %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"d":"00"}`), &back); !errors.Is(err, ErrFormat) {
		t.Errorf("a short digest: %v", err)
	}
	if raw, err := FromBytes(d[:]); err != nil || raw != d {
		t.Errorf("FromBytes: %v, %v", raw, err)
	}
	if !(Digest{}).IsZero() {
		t.Error("the zero digest is not zero")
	}
}

// A present optional digest is bound, and differs from an absent one.
func TestOptionalDigest(t *testing.T) {
	one, two := Digest{1}, Digest{2}
	sums := map[Digest]bool{
		New("d").OptionalDigest(nil).Sum():       true,
		New("d").OptionalDigest(&one).Sum():      true,
		New("d").OptionalDigest(&two).Sum():      true,
		New("d").OptionalDigest(&Digest{}).Sum(): true,
	}
	if len(sums) != 4 {
		t.Errorf("four optional digests have %d hashes", len(sums))
	}
	if New("d").Bytes([]byte("ab")).Sum() != New("d").Text("ab").Sum() {
		t.Error("the same bytes as text have another hash")
	}
}
