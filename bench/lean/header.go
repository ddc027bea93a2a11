package lean

import (
	"bytes"
	"errors"
	"fmt"
)

var (
	headerEnd     = []byte("\r\n\r\n")
	protocol      = []byte("HTTP/1.1 ")
	contentLength = []byte("content-length:")
)

// maxBody bounds an answer: the largest entry bundle has 16 MiB.
const maxBody = 17 << 20

// parseHeader reads the status, the length of the body and where it begins
// from the start of an answer. body is 0 while the header is incomplete.
func parseHeader(in []byte) (status, body, length int, err error) {
	end := bytes.Index(in, headerEnd)
	if end < 0 {
		if len(in) >= maxHeader {
			return 0, 0, 0, errors.New("header is too long")
		}
		return 0, 0, 0, nil
	}
	header := in[:end+2]
	if len(header) < len(protocol)+3 || !bytes.HasPrefix(header, protocol) {
		return 0, 0, 0, fmt.Errorf("answer begins with %q", header[:min(len(header), 20)])
	}
	status, ok := digits(header[len(protocol) : len(protocol)+3])
	if !ok {
		return 0, 0, 0, fmt.Errorf("answer begins with %q", header[:min(len(header), 20)])
	}
	for line := range bytes.Lines(header) {
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			length, ok = digits(bytes.TrimSpace(line[len(contentLength):]))
			if !ok || length > maxBody {
				return 0, 0, 0, fmt.Errorf("header %q", line)
			}
			return status, end + len(headerEnd), length, nil
		}
	}
	return 0, 0, 0, fmt.Errorf("answer with status %d has no Content-Length", status)
}

func digits(text []byte) (int, bool) {
	if len(text) == 0 || len(text) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
