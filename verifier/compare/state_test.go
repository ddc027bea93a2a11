package compare

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// What an earlier run has seen is a view like any other, so a log cannot change
// its past between runs.
func TestForkOverTime(t *testing.T) {
	a := newHistory(t, 300)
	r, state := run(t, nil, a.log("log", 300, "w1"), a.witness("w1", 300))
	want(t, r, VerdictConsistent, StatusAgrees, StatusAgrees)
	for _, size := range []int{300, 301, 512, 700} {
		b := a.fork(100, size, "forked")
		r, after := run(t, state, b.log("log", size), b.witness("w1", size))
		if r.Verdict != VerdictSplit || len(r.Views) != 3 || r.Views[2].Kind != KindMemory || len(r.Views[2].Cosigned) != 1 ||
			!bytes.Equal(r.Splits[0].Evidence.Known, state.signed) {
			t.Errorf("size %d: %+v", size, r)
		}
		// It is not forgotten: the next run says the same.
		if r, _ := run(t, after, b.log("log", size), b.witness("w1", size)); r.Verdict != VerdictSplit {
			t.Errorf("size %d, once more: %+v", size, r)
		}
		// Whoever goes on with the true history is not accused.
		grown := a.fork(300, size+1, "")
		if r, _ := run(t, after, grown.log("log", size+1), grown.witness("w1", size+1)); r.Verdict != VerdictConsistent {
			t.Errorf("size %d, the true history: %+v", size, r)
		}
	}
}

// A source that shows less than it did has gone back; one that was always behind
// has not.
func TestWentBack(t *testing.T) {
	h := newHistory(t, 300)
	_, state := run(t, nil, h.log("log", 300), h.mirror("mirror", 100))
	r, state := run(t, state, h.log("log", 299), h.mirror("mirror", 100), h.witness("w1", 250))
	want(t, r, VerdictWentBack, StatusWentBack, StatusBehind, StatusBehind, StatusAgrees)
	if !strings.Contains(r.Views[0].Problem, "300") || r.Views[0].Behind != 1 {
		t.Errorf("%+v", r.Views[0])
	}
	// It still has once it has recovered in part, and has not when it is back.
	r, state = run(t, state, h.log("log", 299), h.witness("w1", 250))
	want(t, r, VerdictWentBack, StatusWentBack, StatusBehind, StatusAgrees)
	r, state = run(t, state, h.log("log", 300), h.witness("w1", 249))
	want(t, r, VerdictWentBack, StatusAgrees, StatusWentBack, StatusAgrees)
	r, _ = run(t, state, h.log("log", 300), h.witness("w1", 250))
	want(t, r, VerdictConsistent, StatusAgrees, StatusBehind, StatusAgrees)
	// A note is compared like any view and has no past of its own.
	note := h.log("note", 300)
	note.Kind = KindNote
	_, state = run(t, state, h.log("log", 300), note)
	note.Fetch = h.fetch(h.signed(20))
	r, state = run(t, state, h.log("log", 300), note)
	want(t, r, VerdictConsistent, StatusAgrees, StatusBehind, StatusAgrees)
	// A log that was rolled back and serves its tree no longer.
	short := h.fork(200, 200, "")
	r, _ = run(t, state, short.log("log", 200), h.witness("w2", 150))
	want(t, r, VerdictWentBack, StatusWentBack, StatusNotCompared, StatusAgrees)
}

// A first run that finds a split remembers neither side; a later one that cannot
// compare keeps what it knew.
func TestWhatIsRemembered(t *testing.T) {
	a := newHistory(t, 300)
	b := a.fork(10, 290, "forked")
	_, state := run(t, nil, a.log("a", 300), b.log("b", 290))
	if state.signed != nil || len(state.sources) != 2 {
		t.Errorf("%+v", state)
	}
	_, state = run(t, state, a.log("a", 300), a.witness("w1", 300))
	if !bytes.Equal(state.signed, a.signed(300, "w1")) {
		t.Errorf("remembered\n%s", state.signed)
	}
	ahead := a.fork(300, 400, "")
	_, after := run(t, state, a.log("a", 300), ahead.witness("w1", 400))
	if !bytes.Equal(after.signed, state.signed) || after.sources["w1"] != 400 {
		t.Errorf("remembered %v\n%s", after.sources, after.signed)
	}
	_, after = run(t, after, ahead.log("a", 400), ahead.witness("w1", 400))
	if !bytes.Equal(after.signed, ahead.signed(400, "w1")) {
		t.Errorf("remembered\n%s", after.signed)
	}
	// However many sources come and go, the state stays small.
	for i := len(after.sources); i < maxSeen; i++ {
		after.sources[fmt.Sprint("address ", i)] = 400
	}
	_, after = run(t, after, ahead.log("one more address", 400), ahead.log("a", 400))
	if len(after.sources) != maxSeen {
		t.Errorf("%d sources", len(after.sources))
	}
}

func TestParseStateRefuses(t *testing.T) {
	h := newHistory(t, 9)
	_, state := run(t, nil, h.log("log", 9), h.witness("w1", 5))
	text, err := state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) []byte {
		if !bytes.Contains(text, []byte(from)) {
			t.Fatalf("%q is not in %s", from, text)
		}
		return bytes.Replace(text, []byte(from), []byte(to), 1)
	}
	var many strings.Builder
	for i := range maxSeen + 1 {
		fmt.Fprintf(&many, "    {\n      \"source\": \"%09d\",\n      \"size\": 1\n    },\n", i)
	}
	for name, bad := range map[string][]byte{
		"empty":           nil,
		"null":            []byte("null"),
		"other version":   replace("state v1", "state v2"),
		"unknown member":  replace("{\n", "{\n  \"x\": 1,\n"),
		"member twice":    replace("{\n", "{\n  \"origin\": \"\",\n"),
		"trailing bytes":  append(bytes.Clone(text), "{}"...),
		"negative size":   replace("\"size\": 9", "\"size\": -9"),
		"source twice":    replace("\"w1\"", "\"log\""),
		"sources swapped": replace("\"log\"", "\"x\""),
		"too many":        replace("  \"sources\": [\n", "  \"sources\": [\n"+many.String()),
		"long name":       replace("\"log\"", "\""+strings.Repeat("a", maxSourceName+1)+"\""),
		"not a note":      replace("\"checkpoint\": \"example", "\"checkpoint\": \"\\u0000example"),
		"not a head":      replace("\\n9\\n", "\\nx\\n"),
		"other origin":    replace("\"origin\": \""+origin, "\"origin\": \"other"),
		"too large":       append(bytes.Clone(text), bytes.Repeat([]byte(" "), MaxStateSize)...),
	} {
		if s, err := ParseState(bad); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	// A state of another log is refused by the comparison.
	other := h.checkpoint(9)
	other.Origin = "example.com/other"
	foreign := &State{origin: other.Origin, signed: sign(t, other, origin), sources: map[string]int64{}}
	c := &Comparison{Policy: policy(t), Sources: []Source{h.log("log", 9)}}
	if _, _, err := c.Run(t.Context(), foreign); !errors.Is(err, ErrState) {
		t.Errorf("of another log: %v", err)
	}
	// A key that the log has given up leaves no evidence, and says so.
	old := &State{origin: origin, signed: sign(t, h.fork(2, 9, "forked").checkpoint(9), "old key"), sources: map[string]int64{}}
	r, _, err := c.Run(t.Context(), old)
	if err != nil || r.Verdict != VerdictSplit || r.Splits[0].Evidence != nil || !strings.Contains(r.Splits[0].Problem, "no evidence") {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzParseState(f *testing.F) {
	h := newHistory(f, 9)
	for _, s := range []*State{
		{origin: origin, sources: map[string]int64{}},
		{origin: origin, signed: h.signed(9, "w1"), sources: map[string]int64{"log": 9, "w1": 5}},
	} {
		text, err := s.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseState(text)
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Errorf("unnamed error: %v", err)
			}
			return
		}
		if again, err := s.Marshal(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q comes back as %q, %v", text, again, err)
		}
		if s.signed != nil {
			if _, err := checkpoint.ParseNote(s.signed); err != nil {
				t.Error(err)
			}
		}
	})
}
