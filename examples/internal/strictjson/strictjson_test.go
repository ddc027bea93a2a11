package strictjson

import (
	"errors"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{` null `, `null`},
		{`[ true , false , [ ] , { } ]`, `[true,false,[],{}]`},
		{`{"b":1,"a":{"d":2,"c":3}}`, `{"a":{"c":3,"d":2},"b":1}`},
		// RFC 8785, section 3.2.2.
		{`{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`},
		// RFC 8785, section 3.2.3: order by UTF-16 code units.
		{`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			`{"\r":"Carriage Return","1":"One","` + "\u0080" + `":"Control","ö":"Latin Small Letter O With Diaeresis","€":"Euro Sign","😀":"Emoji: Grinning Face","` + "\ufb33" + `":"Hebrew Letter Dalet With Dagesh"}`},
		{`[-0,0.0,1e21,1e20,123456789012,0.000001,1e-7,-5e-324,1.7976931348623157e308,9007199254740992]`,
			`[0,0,1e+21,100000000000000000000,123456789012,0.000001,1e-7,-5e-324,1.7976931348623157e+308,9007199254740992]`},
		{`"\b\f\n\r\t\u0001\u007f\u2028"`, `"\b\f\n\r\t\u0001` + "\u007f\u2028" + `"`},
	} {
		v, err := Parse([]byte(test.in))
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		got := string(Append(nil, v))
		if got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.in, got, test.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "unexpected end",
		" ":                       "unexpected end",
		"{} {}":                   "after the value",
		"nul":                     "unexpected",
		"tru\x00":                 "unexpected",
		"\ufeff{}":                "unexpected",
		`{"a":1,"a":2}`:           `"a" is repeated`,
		`{"a":1,"\u0061":2}`:      `"a" is repeated`,
		`{"a" 1}`:                 "expected ':'",
		`{"a":1 "b":2}`:           "expected ',' or '}'",
		`{"a":1,}`:                "expected a name",
		`{1:2}`:                   "expected a name",
		`{"a":`:                   "unexpected end",
		`[1,]`:                    "unexpected",
		`[1 2]`:                   "expected ',' or ']'",
		`[`:                       "unexpected end",
		`01`:                      "after the value",
		`-`:                       "expected a digit",
		`.5`:                      "unexpected",
		`1.`:                      "expected a digit",
		`1e`:                      "expected a digit",
		`+1`:                      "unexpected",
		`1e999`:                   "out of range",
		`9007199254740993`:        "does not survive",
		`-9007199254740995`:       "does not survive",
		`NaN`:                     "unexpected",
		`"a`:                      "unterminated",
		`"\`:                      "unterminated",
		`"\u12`:                   "unterminated",
		`"\u12g4"`:                "hexadecimal",
		`"\x"`:                    "unknown escape",
		"\"\n\"":                  "control character",
		"\"\xff\"":                "invalid UTF-8",
		"\"\xed\xa0\x80\"":        "invalid UTF-8",
		`"\ud800"`:                "unpaired surrogate",
		`"\udc00\ud800"`:          "unpaired surrogate",
		`"\ud800\u0041"`:          "unpaired surrogate",
		`"\ud800\u00"`:            "unterminated",
		`"\ud800\uzzzz"`:          "hexadecimal",
		strings.Repeat("[", 1000): "nested deeper",
		`'a'`:                     "unexpected",
		`[1]//`:                   "after the value",
	} {
		v, err := Parse([]byte(in))
		if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, %v; want an error with %q", in, v, err, want)
		}
	}
}

func TestAppendOfForeignTypes(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a channel was appended")
		}
	}()
	Append(nil, make(chan int))
}

// FuzzCanonical checks that the canonical form is canonical: it parses, and to
// itself.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,2.5e-7,"\ud83d\ude00"],"a":null}`, `[[[]]]`, `"\u0000"`, `-0`, `{"a":1,"a":2}`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := Parse(in)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Fatal(err)
			}
			return
		}
		once := Append(nil, v)
		v, err = Parse(once)
		if err != nil {
			t.Fatalf("%s does not parse: %v", once, err)
		}
		if twice := Append(nil, v); string(twice) != string(once) {
			t.Fatalf("%s becomes %s", once, twice)
		}
	})
}
