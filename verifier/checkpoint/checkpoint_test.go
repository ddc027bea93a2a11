package checkpoint

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
)

const rootLine = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

func TestParse(t *testing.T) {
	empty := "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
	tests := []struct {
		name string
		body string
		want error // of Parse
		any  error // of ParseAny
	}{
		{"specification's example", "example.com/behind-the-sofa\n20852163\n" + rootLine, nil, nil},
		{"empty tree", "o\n0\n" + empty, nil, nil},
		{"largest size", "o\n9223372036854775807\n" + rootLine, nil, nil},
		{"origin with spaces", "an origin\n1\n" + rootLine, nil, nil},
		{"longest origin", strings.Repeat("o", 255) + "\n1\n" + rootLine, nil, nil},
		{"one extension line", "o\n1\n" + rootLine + "extension\n", ErrExtension, nil},
		{"empty tree, other root", "o\n0\n" + rootLine, ErrMalformed, nil},
		{"root of the empty tree at size 1", "o\n1\n" + empty, ErrMalformed, nil},
		{"nothing", "", ErrMalformed, ErrMalformed},
		{"newline", "\n", ErrMalformed, ErrMalformed},
		{"two lines", "o\n1\n", ErrMalformed, ErrMalformed},
		{"empty origin", "\n1\n" + rootLine, ErrMalformed, ErrMalformed},
		{"empty extension line", "o\n1\n" + rootLine + "\n", ErrMalformed, ErrMalformed},
		{"no final newline", "o\n1\n" + rootLine[:44], ErrMalformed, ErrMalformed},
		{"leading zero", "o\n01\n" + rootLine, ErrMalformed, ErrMalformed},
		{"double zero", "o\n00\n" + empty, ErrMalformed, ErrMalformed},
		{"sign", "o\n+1\n" + rootLine, ErrMalformed, ErrMalformed},
		{"negative", "o\n-1\n" + rootLine, ErrMalformed, ErrMalformed},
		{"hexadecimal", "o\n0x1\n" + rootLine, ErrMalformed, ErrMalformed},
		{"underscore", "o\n1_0\n" + rootLine, ErrMalformed, ErrMalformed},
		{"space after the size", "o\n1 \n" + rootLine, ErrMalformed, ErrMalformed},
		{"no size", "o\n\n" + rootLine, ErrMalformed, ErrMalformed},
		{"size 2^63", "o\n9223372036854775808\n" + rootLine, ErrMalformed, ErrMalformed},
		{"size 2^64", "o\n18446744073709551616\n" + rootLine, ErrMalformed, ErrMalformed},
		{"spare bits in the root", "o\n1\n" + "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n", ErrMalformed, ErrMalformed},
		{"root without padding", "o\n1\n" + "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n", ErrMalformed, ErrMalformed},
		{"root in URL alphabet", "o\n1\n" + "CsUYapGGPo4dkMgIAUqom_Xajj7h2fB2MPA3j2jxq2I=\n", ErrMalformed, ErrMalformed},
		{"root of 31 bytes", "o\n1\n" + "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==\n", ErrMalformed, ErrMalformed},
		{"root of 33 bytes", "o\n1\n" + "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2IA\n", ErrMalformed, ErrMalformed},
		{"root of 35 bytes", "o\n1\n" + "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2IAAAA=\n", ErrMalformed, ErrMalformed},
		{"carriage returns", "o\r\n1\r\n" + rootLine, ErrMalformed, ErrMalformed},
		{"not UTF-8", "\xff\n1\n" + rootLine, ErrMalformed, ErrMalformed},
		{"tab", "o\t\n1\n" + rootLine, ErrMalformed, ErrMalformed},
		{"origin too long", strings.Repeat("o", 256) + "\n1\n" + rootLine, ErrTooLarge, ErrTooLarge},
		{"too long", "o\n1\n" + rootLine + strings.Repeat("x\n", MaxNoteSize/2), ErrTooLarge, ErrTooLarge},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := Parse([]byte(test.body))
			if !errors.Is(err, test.want) {
				t.Errorf("Parse: error %v, want %v", err, test.want)
			}
			if err == nil && string(c.Body()) != test.body {
				t.Errorf("Parse: %q comes back as %q", test.body, c.Body())
			}
			if _, err := ParseAny([]byte(test.body)); !errors.Is(err, test.any) {
				t.Errorf("ParseAny: error %v, want %v", err, test.any)
			}
		})
	}
}

func TestValid(t *testing.T) {
	good := testCheckpoint(t, "example.com/log", 3)
	if err := good.Valid(); err != nil {
		t.Fatal(err)
	}
	bad := []Checkpoint{
		{},
		{Origin: "o", Size: 1, Root: EmptyRoot},
		{Origin: "o", Size: 0},
		{Origin: "o", Size: -1},
		{Origin: "o", Size: math.MinInt64},
		{Origin: "o\n7\n" + strings.TrimSpace(rootLine), Size: 1},
		{Origin: "o\np", Size: 1},
	}
	for _, c := range bad {
		if err := c.Valid(); err == nil {
			t.Errorf("%+v is valid", c)
		}
		if _, err := Sign(c, logSigner(t, "example.com/log")); err == nil {
			t.Errorf("%+v can be signed", c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("example.com/behind-the-sofa\n20852163\n" + rootLine))
	f.Add([]byte("o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"))
	f.Add([]byte("o\n1\n" + rootLine + "extension\n"))
	f.Add([]byte("o\n01\n" + rootLine))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := Parse(body)
		whole, errAny := ParseAny(body)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Body(), body) {
			t.Fatalf("%q comes back as %q", body, c.Body())
		}
		if errAny != nil || whole != c {
			t.Fatalf("ParseAny: %v, %v; Parse: %v", whole, errAny, c)
		}
	})
}
