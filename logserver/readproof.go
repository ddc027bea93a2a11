package logserver

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

const proofSuffix = ".tlog-proof"

// proof answers the three proof resources. Clients can do without them: tiles
// hold the same hashes.
func (h *handler) proof(w http.ResponseWriter, r *http.Request) error {
	switch path := r.URL.Path; path {
	case "/proof/inclusion":
		return h.hashes(w, r, "index", "size", h.log.InclusionProof)
	case "/proof/consistency":
		return h.hashes(w, r, "old", "new", h.log.ConsistencyProof)
	default:
		return h.tlogProof(w, strings.TrimSuffix(strings.TrimPrefix(path, "/"), proofSuffix))
	}
}

// hashes answers with the hashes of a proof that two integers ask for. Both are
// required, in either order, and nothing else is understood: the answers are kept
// by caches for ever, for each spelling of a query once more.
func (h *handler) hashes(w http.ResponseWriter, r *http.Request, first, second string, prove func(a, b int64) ([]Hash, error)) error {
	a, b, ok := twoNumbers(r.URL.RawQuery, first, second)
	if !ok {
		return fmt.Errorf("%w: it must be %s=N&%s=N with decimal N", errQuery, first, second)
	}
	if b > h.log.servable() {
		return fmt.Errorf("%w: beyond the last signed tree size", errNoResource)
	}
	hashes, err := prove(a, b)
	if err != nil {
		return err
	}
	var out []byte
	for _, hash := range hashes {
		out = append(base64.StdEncoding.AppendEncode(out, hash[:]), '\n')
	}
	serve(w, contentText, cacheForever, out)
	return nil
}

// tlogProof answers with the proof of one entry under the published checkpoint.
func (h *handler) tlogProof(w http.ResponseWriter, name string) error {
	index, ok := decimal(name)
	if !ok {
		return errNoResource
	}
	pub := h.log.Published()
	if index >= pub.Size {
		return fmt.Errorf("%w: no published checkpoint covers this index yet", errNoResource)
	}
	proof, err := h.log.proofUnder(index, pub.Size, pub.Note)
	if err != nil {
		return err
	}
	serve(w, contentText, cacheNever, proof)
	return nil
}

// proofUnder formats the c2sp.org/tlog-proof of an entry under a signed note.
func (l *Log) proofUnder(index, size int64, signed []byte) ([]byte, error) {
	hashes, err := l.InclusionProof(index, size)
	if err != nil {
		return nil, err
	}
	return checkpoint.Proof{Index: index, Hashes: hashes, Checkpoint: signed}.Format(), nil
}

// twoNumbers reads a query of two parameters that are integers. No character of
// it may be escaped.
func twoNumbers(query, first, second string) (a, b int64, ok bool) {
	one, other, _ := strings.Cut(query, "&")
	if strings.HasPrefix(one, second+"=") {
		one, other = other, one
	}
	one, okOne := strings.CutPrefix(one, first+"=")
	other, okOther := strings.CutPrefix(other, second+"=")
	a, okA := decimal(one)
	b, okB := decimal(other)
	return a, b, okOne && okOther && okA && okB
}

// decimal reads an integer in canonical form, 0 ≤ n < 2^63.
func decimal(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
}
