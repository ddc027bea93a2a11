package direct

import (
	"bytes"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// answerer makes answers. One goroutine at a time uses it.
type answerer struct {
	log      Log
	stopping *atomic.Bool // answers say that the connection ends
	out      []byte       // the answer, head and body
}

// answer makes the answer for an entry that the log was asked for, and returns
// the code of a refusal or "".
func (w *answerer) answer(receipt bool, g Group, place int) (code string) {
	index, err := g.Index(place)
	if err != nil {
		return w.refuse(err)
	}
	if !receipt {
		var text [20]byte
		w.reply(indexHead, strconv.AppendInt(text[:0], index, 10))
		return ""
	}
	proof, err := g.Receipt(place)
	if err != nil {
		return w.refuse(err)
	}
	w.reply(receiptHead, proof)
	return ""
}

// Heads of answers, up to the value of Date: the same headers that net/http
// sends for the log's handler.
const (
	indexHead   = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nDate: "
	receiptHead = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nDate: "
)

func (w *answerer) reply(head string, body []byte) {
	w.out = append(append(w.out[:0], head...), httpDate()...)
	w.out = strconv.AppendInt(append(w.out, "\r\nContent-Length: "...), int64(len(body)), 10)
	if w.stopping.Load() {
		w.out = append(w.out, "\r\nConnection: close"...)
	}
	w.out = append(append(w.out, "\r\n\r\n"...), body...)
}

// refuse makes the answer to an error, and returns its code.
func (w *answerer) refuse(err error) string {
	res, code := w.log.Refuse(err)
	res.Header["Date"] = []string{httpDate()}
	res.ProtoMajor, res.ProtoMinor, res.Close = 1, 1, w.stopping.Load()
	var out bytes.Buffer
	_ = res.Write(&out) // to memory, which does not fail
	w.out = append(w.out[:0], out.Bytes()...)
	return code
}

// dateText is the value of a Date header, for one second.
type dateText struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[dateText]

// httpDate returns the time as RFC 9110 section 5.6.7 has it.
func httpDate() string {
	now := time.Now()
	d := lastDate.Load()
	if d == nil || d.second != now.Unix() {
		d = &dateText{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
		lastDate.Store(d)
	}
	return d.text
}
