package sandbox

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	sizes := map[frameKind]int{frameConfig: 0, frameJob: 100 << 10, frameModule: 4097, frameRunning: 0, frameFailure: 5}
	for kind, size := range sizes {
		payload := bytes.Repeat([]byte{byte(kind)}, size)
		if err := writeFrame(&b, kind, payload); err != nil {
			t.Fatal(err)
		}
		gotKind, got, err := readFrame(&b)
		if err != nil || gotKind != kind || !bytes.Equal(got, payload) {
			t.Errorf("frame %d of %d bytes: got %d with %d, %v", kind, size, gotKind, len(got), err)
		}
	}
	if err := writeFrame(&b, frameNeed, []byte{1}); !errors.Is(err, errProtocol) || b.Len() > 0 {
		t.Errorf("a large frame was written: %v", err)
	}
	for in, want := range map[string]error{
		"":                        io.EOF,
		"\x03\x00":                io.ErrUnexpectedEOF,
		"\x03\x00\x00\x00\x05abc": io.ErrUnexpectedEOF,
		"\x03\x00\x00\x00\x05":    io.ErrUnexpectedEOF,
		"\x00\x00\x00\x00\x00":    errProtocol,
		"\xff\x00\x00\x00\x00":    errProtocol,
		string(byte(frameNeed)) + "\x00\x00\x00\x01x": errProtocol,
		string(byte(frameJob)) + "\xff\xff\xff\xff":   errProtocol,
	} {
		if _, _, err := readFrame(strings.NewReader(in)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	job := newJob([]byte("module"))
	job.Limits.WallClock = time.Minute
	got, err := unpackJob(packJob(&job))
	if err != nil {
		t.Fatal(err)
	}
	want := job
	want.Module = nil
	if !reflect.DeepEqual(got, &want) {
		t.Errorf("job is\n%+v\nwant\n%+v", got, want)
	}

	config := workerConfig{1 << 30, 3, true}
	if got, err := unpackConfig(config.pack()); err != nil || got != config {
		t.Errorf("configuration is %+v, %v", got, err)
	}
	e := Enforcement{Process: true, NoNewPrivs: true, MemoryBytes: 7, Note: "note"}
	if got, err := unpackEnforcement(e.pack()); err != nil || got != e {
		t.Errorf("enforcement is %+v, %v", got, err)
	}
	compile := compileRequest{programKey{[32]byte{1}, 9, 16, true}}
	if got, err := unpackCompile(compile.pack()); err != nil || got != compile {
		t.Errorf("request is %+v, %v", got, err)
	}
	module := moduleMessage{[]byte("original"), []byte("code"), []byte("outline")}
	if got, err := unpackModule(module.pack()); err != nil || !reflect.DeepEqual(got, module) {
		t.Errorf("module is %+v, %v", got, err)
	}
	result := &Result{Outcome: Outcome{Kind: KindExit, ExitCode: 3, PeakPages: 2, Memory: &[32]byte{5}},
		Output: []byte("out"), Diagnostics: []byte("diag"), Engine: engineInfo("compiler")}
	result.Engine.WallTime, result.Engine.CompileTime = 1, 2
	result.Outcome.Output, result.Outcome.Diagnostics = DigestOf(result.Output), DigestOf(result.Diagnostics)
	if got, err := unpackResult(packResult(result), &job, "compiler"); err != nil || !reflect.DeepEqual(got, result) {
		t.Errorf("result is %+v, %v", got, err)
	}
}

func TestFailuresRoundTrip(t *testing.T) {
	long := strings.Repeat("x", 2*maxFailureText)
	for _, failure := range []error{
		&Refusal{RefusedImport, "env.f", "clock", "not granted"},
		invalidJob("seed"),
		ErrStopped,
		engineFault("memory"),
		errors.New("something else"),
		engineFault("%s", long),
	} {
		got, err := unpackFailure(packFailure(failure))
		if err != nil {
			t.Fatal(err)
		}
		if text := clip(failure.Error()); got.Error() != text {
			t.Errorf("text is %.80q, want %.80q", got.Error(), text)
		}
		if r := (*Refusal)(nil); errors.As(failure, &r) {
			if !reflect.DeepEqual(got, failure) {
				t.Errorf("refusal is %+v", got)
			}
			continue
		}
		same := false
		for _, sentinel := range []error{ErrInvalidJob, ErrStopped, ErrEngineFault} {
			same = same || errors.Is(got, sentinel) && (errors.Is(failure, sentinel) || sentinel == ErrEngineFault)
		}
		if !same {
			t.Errorf("%v came back as %v", failure, got)
		}
	}
}

// goodResult is a result that newJob allows.
func goodResult() *Result {
	return &Result{Outcome: Outcome{Kind: KindOK, PeakPages: 1, Memory: new([32]byte)}}
}

// TestResultCheck changes a good result in every way that a job rules out.
func TestResultCheck(t *testing.T) {
	job := newJob(nil)
	for name, change := range map[string]func(*Result){
		"kind 0":             func(r *Result) { r.Outcome.Kind = 0 },
		"stack exhausted":    func(r *Result) { r.Outcome.Kind = KindStackExhausted },
		"exit without code":  func(r *Result) { r.Outcome.Kind = KindExit },
		"code without exit":  func(r *Result) { r.Outcome.ExitCode = 1 },
		"pages":              func(r *Result) { r.Outcome.PeakPages = 17 },
		"no memory digest":   func(r *Result) { r.Outcome.Memory = nil },
		"diagnostics":        func(r *Result) { r.Diagnostics = make([]byte, 9) },
		"too large too soon": func(r *Result) { r.Outcome.Kind = KindOutputTooLarge },
		"trap without text":  func(r *Result) { r.Outcome.Kind = KindTrap },
		"text without trap":  func(r *Result) { r.Engine.Trap = "x" },
		"long text":          func(r *Result) { r.Outcome.Kind, r.Engine.Trap = KindTrap, strings.Repeat("x", maxTrapText+1) },
		"negative time":      func(r *Result) { r.Engine.WallTime = -1 },
	} {
		r := goodResult()
		if _, err := unpackResult(packResult(r), &job, "compiler"); err != nil {
			t.Fatal(err)
		}
		change(r)
		if got, err := unpackResult(packResult(r), &job, "compiler"); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// FuzzMessages feeds any payload to every decoder of the protocol: none may
// panic, each error is of the protocol, and what decodes encodes to the same
// bytes.
func FuzzMessages(f *testing.F) {
	job := newJob([]byte("module"))
	f.Add(packJob(&job))
	f.Add(packResult(goodResult()))
	f.Add(packFailure(&Refusal{RefusedImport, "env.f", "clock", "not granted"}))
	f.Add(packFailure(ErrStopped))
	f.Add(Enforcement{Process: true}.pack())
	f.Add(workerConfig{cachedModules: 2}.pack())
	f.Add((&compileRequest{programKey{caps: 3, metered: true}}).pack())
	f.Add((&moduleMessage{[]byte("original"), []byte("code"), []byte("outline")}).pack())
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(err error, again func() []byte) {
			if err != nil {
				if !errors.Is(err, errProtocol) {
					t.Fatalf("foreign error %v", err)
				}
			} else if got := again(); !bytes.Equal(got, b) {
				t.Fatalf("%x encodes as %x", b, got)
			}
		}
		j, err := unpackJob(b)
		check(err, func() []byte { return packJob(j) })
		c, err := unpackConfig(b)
		check(err, c.pack)
		e, err := unpackEnforcement(b)
		check(err, e.pack)
		a, err := unpackCompile(b)
		check(err, func() []byte { return a.pack() })
		m, err := unpackModule(b)
		check(err, func() []byte { return m.pack() })
		r, err := unpackResult(b, &job, "compiler")
		check(err, func() []byte { return packResult(r) })
		failure, err := unpackFailure(b)
		check(err, func() []byte {
			if got := packFailure(failure); !bytes.Equal(got, b) && len(b) < maxFailureText {
				return got
			}
			return b // a longer text than a worker sends is clipped
		})
		readFrame(bytes.NewReader(b))
	})
}
