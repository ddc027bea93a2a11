package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxNameSize bounds an origin and a key name, in bytes: the length prefixes of
// the message that an ML-DSA-44 cosignature signs are one byte wide.
const MaxNameSize = 255

// EmptyRoot is the root hash of the tree without leaves, SHA-256 of the empty
// string (RFC 6962, section 2.1).
var EmptyRoot = tlog.Hash(sha256.Sum256(nil))

// strictBase64 is the encoding of RFC 4648, section 4, in its only canonical
// form: spare bits in the last character are zero.
var strictBase64 = base64.StdEncoding.Strict()

// Checkpoint is what a log says about its tree at one size: the three lines of
// the note text of c2sp.org/tlog-checkpoint. Logs of this project write no
// extension lines.
type Checkpoint struct {
	Origin string    // unique name of the log, 1 to MaxNameSize bytes of UTF-8
	Size   int64     // number of leaves, 0 ≤ Size ≤ 2^63-1
	Root   tlog.Hash // RFC 6962 root hash of the first Size leaves
}

// Tree returns size and root hash without the origin.
func (c Checkpoint) Tree() tlog.Tree {
	return tlog.Tree{N: c.Size, Hash: c.Root}
}

// Body returns the note text of c, which is what signatures cover.
func (c Checkpoint) Body() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// Valid reports whether Parse accepts c.Body(), and if not, why.
func (c Checkpoint) Valid() error {
	parsed, err := Parse(c.Body())
	if err != nil {
		return err
	}
	if parsed != c {
		return malformed("checkpoint: origin %q holds a line break", c.Origin)
	}
	return nil
}

// Parse reads the note text of a checkpoint that has no extension lines. There
// is exactly one text for each checkpoint: anything else is ErrMalformed, and
// extension lines are ErrExtension. The result is well formed, not verified.
func Parse(body []byte) (Checkpoint, error) {
	c, err := ParseAny(body)
	if err != nil {
		return Checkpoint{}, err
	}
	if bytes.Count(body, []byte("\n")) > 3 {
		return Checkpoint{}, ErrExtension
	}
	if (c.Size == 0) != (c.Root == EmptyRoot) {
		return Checkpoint{}, malformed("checkpoint: tree size %d does not go with root hash %v", c.Size, c.Root)
	}
	return c, nil
}

// ParseAny reads the note text of any log's checkpoint. Unlike Parse it admits
// extension lines, which it checks for form and drops, and it leaves it to the
// caller to compare the root hash of an empty tree with EmptyRoot, since the
// witness protocol answers that case in a way of its own.
func ParseAny(body []byte) (Checkpoint, error) {
	if len(body) > MaxNoteSize {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint of %d bytes, at most %d", ErrTooLarge, len(body), MaxNoteSize)
	}
	if err := checkText(body); err != nil {
		return Checkpoint{}, err
	}
	text, terminated := strings.CutSuffix(string(body), "\n")
	if !terminated {
		return Checkpoint{}, malformed("checkpoint: last line is not terminated")
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 3 {
		return Checkpoint{}, malformed("checkpoint: %d lines, at least 3 expected", len(lines))
	}
	for i, line := range lines {
		if line == "" {
			return Checkpoint{}, malformed("checkpoint: line %d is empty", i+1)
		}
	}
	if len(lines[0]) > MaxNameSize {
		return Checkpoint{}, fmt.Errorf("%w: origin of %d bytes, at most %d", ErrTooLarge, len(lines[0]), MaxNameSize)
	}
	size, err := parseDecimal(lines[1])
	if err != nil {
		return Checkpoint{}, malformed("checkpoint: tree size: %v", err)
	}
	root, err := parseHash(lines[2])
	if err != nil {
		return Checkpoint{}, malformed("checkpoint: root hash: %v", err)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}

// checkText enforces the character set of c2sp.org/signed-note: valid UTF-8 and
// no ASCII control characters other than newline.
func checkText(text []byte) error {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return malformed("byte %d is not UTF-8", i)
		}
		if r < 0x20 && r != '\n' {
			return malformed("byte %d is control character %#02x", i, r)
		}
		i += n
	}
	return nil
}

// parseDecimal reads an ASCII decimal without sign and without leading zeroes,
// 0 ≤ n ≤ 2^63-1.
func parseDecimal(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt64 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a decimal from 0 to 2^63-1 without leading zeroes", s)
	}
	return int64(n), nil
}

// parseHash reads a SHA-256 hash in its only canonical base64 form.
func parseHash(s string) (tlog.Hash, error) {
	var h tlog.Hash
	if len(s) != base64.StdEncoding.EncodedLen(len(h)) {
		return h, fmt.Errorf("%.60q is not the base64 of 32 bytes", s)
	}
	b, err := strictBase64.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%.60q is not the base64 of 32 bytes", s)
	}
	return tlog.Hash(b), nil
}
