package printable

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	long := strings.Repeat("ä", most)
	for in, want := range map[string]string{
		"":                     "",
		"tenant is \"a\", 5 ≥": "tenant is \"a\", 5 ≥",
		"\x1b[2J\x07\r\n\tx":   "�[2J����x",
		"\u202eabc\u2066\u200b\u2028\u0085\ufeff": "�abc�����",
		"\xff\xfe":   "��",
		long:         long,
		long + "b":   long + "…",
		long + "b\n": long + "…",
	} {
		if got := Text(in); got != want {
			t.Errorf("%.60q becomes %.60q, want %.60q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b[31m")
	f.Add("a\u202eb\xc3")
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > most+1 || strings.ContainsAny(got, "\x1b\n\r\x00\x7f\u202e") {
			t.Errorf("%q", got)
		}
		if again := Text(got); utf8.RuneCountInString(got) <= most && again != got {
			t.Errorf("%q becomes %q", got, again)
		}
	})
}
