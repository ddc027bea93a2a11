package logcmd

import (
	"strings"
	"testing"
)

func TestSize(t *testing.T) {
	const wantNumber, wantBounds = "want a whole number of bytes", "possible are 1KiB to 1TiB"
	for _, test := range []struct {
		text  string
		bytes int64
		want  string // what the error says
	}{
		{"1024", 1024, ""},
		{"1KiB", 1024, ""},
		{"64MiB", 64 << 20, ""},
		{"3GiB", 3 << 30, ""},
		{"1TiB", 1 << 40, ""},
		{"1023", 0, wantBounds},
		{"0", 0, wantBounds},
		{"2TiB", 0, wantBounds},
		{"9223372036854775807TiB", 0, wantBounds},
		{"9007199254740992KiB", 0, wantBounds},
		{"99999999999999999999", 0, wantNumber},
		{"", 0, wantNumber},
		{"KiB", 0, wantNumber},
		{"64MB", 0, wantNumber},
		{"64M", 0, wantNumber},
		{"64mib", 0, wantNumber},
		{"64 MiB", 0, wantNumber},
		{"1.5GiB", 0, wantNumber},
		{"-1", 0, wantNumber},
		{"+1KiB", 0, wantNumber},
		{"0x400", 0, wantNumber},
		{"none", 0, wantNumber},
	} {
		s := size{min: 1 << 10, max: 1 << 40}
		err := s.Set(test.text)
		if test.want == "" {
			if err != nil || s.bytes != test.bytes {
				t.Errorf("%q: %d, %v", test.text, s.bytes, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.want) || s.bytes != 0 {
			t.Errorf("%q: %d, %v, want %q", test.text, s.bytes, err, test.want)
		}
	}
	s := size{max: 1 << 40, none: true}
	if err := s.Set("none"); err != nil || s.bytes != -1 || s.String() != "none" {
		t.Errorf("none: %d, %v", s.bytes, err)
	}
	if err := s.Set("nothing"); err == nil || !strings.HasSuffix(err.Error(), `or "none"`) {
		t.Errorf("nothing: %v", err)
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1: "1", 1023: "1023", 1024: "1KiB", 1536: "1536", 64 << 20: "64MiB", 1 << 30: "1GiB", 5 << 40: "5TiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
