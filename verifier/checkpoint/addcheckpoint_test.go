package checkpoint

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

func TestAddRequest(t *testing.T) {
	// The example of c2sp.org/tlog-witness.
	const example = "old 20852014\n" +
		"PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n" +
		"jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n" +
		"5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n" +
		"/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n" +
		"\n" +
		"example.com/behind-the-sofa\n" +
		"20852163\n" +
		"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n" +
		"\n" +
		"— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n" +
		"— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n"
	r, err := ParseAddRequest([]byte(example))
	if err != nil || r.OldSize != 20852014 || len(r.Hashes) != 4 || !bytes.HasPrefix(r.Checkpoint, []byte("example.com/behind-the-sofa\n")) {
		t.Fatalf("%+v, %v", r, err)
	}
	if string(r.Format()) != example {
		t.Errorf("comes back as %q", r.Format())
	}
	for name, test := range map[string]struct {
		body string
		want error
	}{
		"no proof":        {"old 0\n\nx", nil},
		"63 hashes":       {string(AddRequest{Hashes: make([]tlog.Hash, 63)}.Format()), nil},
		"64 hashes":       {string(AddRequest{Hashes: make([]tlog.Hash, 64)}.Format()), ErrMalformed},
		"empty":           {"", ErrMalformed},
		"no empty line":   {"old 0\n", ErrMalformed},
		"no old line":     {"\n\nx", ErrMalformed},
		"other line":      {"new 0\n\nx", ErrMalformed},
		"leading zero":    {"old 00\n\nx", ErrMalformed},
		"hash not base64": {"old 0\n!\n\nx", ErrMalformed},
		"too large":       {"old 0\n\n" + strings.Repeat("x", MaxAddRequestSize), ErrTooLarge},
	} {
		r, err := ParseAddRequest([]byte(test.body))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && string(r.Format()) != test.body {
			t.Errorf("%s: comes back as %q", name, r.Format())
		}
	}
}

func FuzzParseAddRequest(f *testing.F) {
	f.Add([]byte("old 0\n\nx"))
	f.Add(AddRequest{OldSize: 5, Hashes: make([]tlog.Hash, 2), Checkpoint: []byte("c")}.Format())
	f.Fuzz(func(t *testing.T, body []byte) {
		if r, err := ParseAddRequest(body); err == nil && !bytes.Equal(r.Format(), body) {
			t.Fatalf("%q comes back as %q", body, r.Format())
		}
	})
}
