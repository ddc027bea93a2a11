package direct

import "bytes"

// maxEntrySize is the largest entry, in bytes: c2sp.org/tlog-tiles frames entries
// with a uint16 length.
const maxEntrySize = 1<<16 - 1

// request is an append that is understood. Its body aliases what it was parsed
// from.
type request struct {
	receipt bool   // is wanted, else the index
	body    []byte // the entry
	size    int    // of head and body, in bytes
}

// understanding says what the bytes at the beginning of a connection are.
type understanding int

const (
	notOurs  understanding = iota // something else, or nothing: for net/http
	partial                       // perhaps ours, once more has arrived
	complete                      // ours
)

// firstLines are those of the requests that are understood.
var firstLines = []struct {
	line    string
	receipt bool
}{
	{"POST /add HTTP/1.1\r\n", false},
	{"POST /add?proof=receipt HTTP/1.1\r\n", true},
}

// passedOver are the headers that change nothing about an append.
var passedOver = []string{"user-agent", "content-type", "accept", "accept-encoding", "accept-language", "traceparent", "tracestate"}

// parse reads one request from the beginning of what a client has sent.
//
// It knows one spelling of one kind of request: an HTTP/1.1 POST with one Host,
// one canonical Content-Length from 1 to maxEntrySize, and headers that change
// nothing. Whatever it does not know by heart, another header included, is not
// ours, so that net/http alone decides what anything unusual means: where a
// body ends, too. FuzzParse holds it against net/http.
func parse(in []byte) (r request, u understanding) {
	rest, u := r.parseLine(in)
	if u != complete {
		return r, u
	}
	host, length := false, 0
	for {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			return r, partial
		}
		line := rest[:end]
		rest = rest[end+1:]
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return r, notOurs
		}
		if len(line) == 1 {
			break
		}
		name, value, ok := parseHeader(line[:len(line)-1])
		switch {
		case !ok:
			return r, notOurs
		case sameName(name, "host"):
			if host || !plainHost(value) {
				return r, notOurs
			}
			host = true
		case sameName(name, "content-length"):
			if length != 0 {
				return r, notOurs
			}
			if length = plainLength(value); length == 0 {
				return r, notOurs
			}
		case !isPassedOver(name):
			return r, notOurs
		}
	}
	switch {
	case !host || length == 0:
		return r, notOurs
	case len(rest) < length:
		return r, partial
	}
	r.body = rest[:length:length]
	r.size = len(in) - len(rest) + length
	return r, complete
}

// parseLine reads the first line and returns what follows it.
func (r *request) parseLine(in []byte) (rest []byte, u understanding) {
	for _, d := range firstLines {
		n := min(len(in), len(d.line))
		if string(in[:n]) != d.line[:n] {
			continue
		}
		if n < len(d.line) {
			return nil, partial
		}
		r.receipt = d.receipt
		return in[n:], complete
	}
	return nil, notOurs
}

// parseHeader splits a line into a name, which is as sent, and a value without
// the blanks around it, of visible ASCII characters and blanks.
func parseHeader(line []byte) (name, value []byte, ok bool) {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 {
		return nil, nil, false
	}
	value = bytes.Trim(line[colon+1:], " \t")
	for _, c := range value {
		if (c < ' ' && c != '\t') || c > '~' {
			return nil, nil, false
		}
	}
	return line[:colon], value, true
}

// sameName compares a header's name with a known one in lower case.
func sameName(name []byte, known string) bool {
	if len(name) != len(known) {
		return false
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != known[i] {
			return false
		}
	}
	return true
}

func isPassedOver(name []byte) bool {
	for _, known := range passedOver {
		if sameName(name, known) {
			return true
		}
	}
	return false
}

// plainHost reports whether a value consists of what names, addresses and ports
// are made of. It does not matter which.
func plainHost(value []byte) bool {
	for _, c := range value {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.' || c == '-' || c == ':' || c == '[' || c == ']':
		default:
			return false
		}
	}
	return len(value) > 0
}

// plainLength returns a length from 1 to maxEntrySize in canonical form, or 0.
func plainLength(value []byte) int {
	if len(value) == 0 || len(value) > len("65535") || value[0] == '0' {
		return 0
	}
	n := 0
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	if n > maxEntrySize {
		return 0
	}
	return n
}
