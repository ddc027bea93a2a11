package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Config is what a witness is made of.
type Config struct {
	// Dir is the witness's directory. Its subdirectories are created if absent.
	Dir string
	// Keys cosign, each once per checkpoint and all at the same time.
	Keys *Keys
	// Policy lists the logs to cosign for; its witnesses and quorum are ignored.
	Policy *checkpoint.Policy
	// Logger receives one line a request. Required.
	Logger *slog.Logger
	// Now is the clock of the cosignatures; nil means time.Now.
	Now func() time.Time
}

// Witness cosigns checkpoints. Its fields do not change after Open, but for
// what logState and evidenceDir guard themselves.
type Witness struct {
	keys     *Keys
	logs     map[string]*logState // by origin
	byHash   map[string]*logState // by origin hash
	evidence *evidenceDir
	logger   *slog.Logger
	now      func() time.Time
	lock     *os.File

	// beforeSwap is called between the checks and the swap, for tests that
	// provoke a race. It is set before the first request, or nil.
	beforeSwap func(checkpoint.Checkpoint)
}

// Open takes the directory for this process and loads the head of every log of
// the policy. A head that cannot be read is an error: without it the witness
// could cosign a second history.
func Open(config Config) (*Witness, error) { return open(config, osDisk{}) }

func open(config Config, d disk) (_ *Witness, err error) {
	w := &Witness{
		keys:   config.Keys,
		logs:   map[string]*logState{},
		byHash: map[string]*logState{},
		logger: config.Logger,
		now:    config.Now,
	}
	if w.now == nil {
		w.now = time.Now
	}
	if len(config.Policy.Logs()) == 0 {
		return nil, errors.New("the policy has no log line, so there is nothing to cosign")
	}
	if w.lock, err = lockDir(config.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.lock.Close()
		}
	}()
	heads, evidence := filepath.Join(config.Dir, "heads"), filepath.Join(config.Dir, "evidence")
	for _, dir := range []string{heads, evidence} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("creating directory: %w", err)
		}
	}
	// A head is only as durable as the directory that it is in.
	if err := d.SyncDir(config.Dir); err != nil {
		return nil, fmt.Errorf("syncing directory: %w", err)
	}
	if w.evidence, err = openEvidence(evidence, d, w.logger); err != nil {
		return nil, err
	}
	for _, key := range config.Policy.Logs() {
		l := w.logs[key.Origin]
		if l == nil {
			sum := sha256.Sum256([]byte(key.Origin))
			l = &logState{origin: key.Origin, hash: hex.EncodeToString(sum[:]), dir: heads, disk: d, own: w.keys.public()}
			if err := l.load(); err != nil {
				return nil, err
			}
			w.logs[key.Origin], w.byHash[l.hash] = l, l
		}
		l.keys, l.vkeys = append(l.keys, key.Key), append(l.vkeys, key.Vkey)
	}
	// A process that died between renaming a head and syncing the directory has left
	// one that is readable and yet not durable.
	if err := d.SyncDir(heads); err != nil {
		return nil, fmt.Errorf("syncing directory: %w", err)
	}
	return w, nil
}

// Close gives the directory back. Requests must have ended.
func (w *Witness) Close() error { return w.lock.Close() }

// maxRaces bounds how often a request is checked again because another one has
// moved the head. Usually the second check ends in a conflict; only refreshes of
// the same checkpoint can lose more than one race.
const maxRaces = 8

// AddCheckpoint answers the body of an add-checkpoint request with the
// cosignatures of all keys, in the order of Keys, or with one of the errors of
// this package. The order of the checks is that of the specification.
func (w *Witness) AddCheckpoint(body []byte) ([]checkpoint.Signature, error) {
	req, err := checkpoint.ParseAddRequest(body)
	if err != nil {
		return nil, requestError(err)
	}
	n, err := parseSubmitted(req.Checkpoint)
	if err != nil {
		return nil, requestError(err)
	}
	c, err := checkpoint.ParseAny(n.Text)
	if err != nil {
		return nil, requestError(err)
	}

	// "If the checkpoint origin is unknown, the witness MUST respond with a 404."
	l := w.logs[c.Origin]
	if l == nil {
		return nil, fmt.Errorf("%w %q", ErrUnknownOrigin, c.Origin)
	}
	// "403 if either no signature from a trusted key for the origin is present, or
	// a signature line's key name and ID match a trusted key but the signature
	// itself fails to verify."
	logSigs, err := n.Verified(l.keys)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if len(logSigs) == 0 {
		return nil, fmt.Errorf("%w: none by a known key of %q", ErrSignature, c.Origin)
	}
	// "The old size MUST be equal to or lower than the checkpoint size."
	if req.OldSize > c.Size {
		return nil, fmt.Errorf("%w: %d > %d", ErrOldSize, req.OldSize, c.Size)
	}

	// Only what was verified is kept: unknown signatures could be anything.
	signed := assemble(n.Text, logSigs)
	for range maxRaces {
		cur, err := l.current()
		if err != nil {
			return nil, w.unavailable(l, err)
		}
		if err := w.check(l, cur, c, req, signed); err != nil {
			return nil, err
		}
		now := w.now().Unix()
		if cur != nil && cur.timestamp == now && bytes.Equal(cur.body, n.Text) {
			// Cosigned and stored within this second already, perhaps through another
			// submission prefix: there is nothing new to say.
			return cur.sigs, nil
		}
		// The cosignatures are made but not shown before swap has succeeded. A crash
		// up to there leaves the old head and nobody who has seen the new one; a crash
		// after it leaves the new head, which a client gets cosigned again.
		next, err := w.keys.cosign(c, n.Text, signed, now)
		if err != nil {
			return nil, w.unavailable(l, err)
		}
		if w.beforeSwap != nil {
			w.beforeSwap(c)
		}
		err = l.swap(cur, next)
		if errors.Is(err, errHeadMoved) {
			continue // somebody else was faster: check against what is there now
		}
		if err != nil {
			return nil, w.unavailable(l, err)
		}
		w.logger.Info("cosigned", "origin", c.Origin, "size", c.Size, "root", c.Root.String())
		return next.sigs, nil
	}
	return nil, w.unavailable(l, errHeadMoved)
}

// check compares a signed request with the head.
func (w *Witness) check(l *logState, cur *head, c checkpoint.Checkpoint, req *checkpoint.AddRequest, signed []byte) error {
	latest := cur.tree()
	// Two root hashes for one size are worth keeping whatever the answer is.
	if cur != nil && c.Size == latest.N && c.Root != latest.Hash {
		w.keepEvidence(l, cur, c, req, signed)
	}
	// "The witness MUST check that the old size matches the size of the latest
	// checkpoint it cosigned for the checkpoint's origin (or zero)."
	if req.OldSize != latest.N {
		return &ConflictError{Size: latest.N}
	}
	// The rest is 422: "A checkpoint of size zero MUST have the root hash of the
	// empty tree"; "If the old size is zero, the consistency proof MUST be empty";
	// "if a Merkle Consistency Proof doesn't verify"; "If the old size matches the
	// checkpoint size, the witness MUST check that the root hashes are also
	// identical." VerifyConsistency checks all of them.
	if err := checkpoint.VerifyConsistency(latest, c.Tree(), req.Hashes); err != nil {
		if cur != nil && c.Size != latest.N {
			w.keepEvidence(l, cur, c, req, signed)
		}
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	return nil
}

func (w *Witness) keepEvidence(l *logState, cur *head, c checkpoint.Checkpoint, req *checkpoint.AddRequest, signed []byte) {
	w.evidence.keep(l, &checkpoint.Evidence{
		Vkeys:     l.vkeys,
		Known:     cur.signed,
		Submitted: signed,
		Hashes:    req.Hashes,
	}, cur.checkpoint, c)
}

// unavailable logs what is wrong for the operator and tells the client only that
// something is.
func (w *Witness) unavailable(l *logState, err error) error {
	w.logger.Error("cannot cosign", "origin", l.origin, "error", err)
	return ErrUnavailable
}

// Latest returns the signed note that was cosigned last for the log with this
// origin hash (SHA-256 of the origin in lower-case hexadecimal), with the log's
// signatures and all cosignatures. It is ErrUnknownOrigin if there is none.
func (w *Witness) Latest(originHash string) ([]byte, error) {
	l := w.byHash[originHash]
	if l == nil {
		return nil, ErrUnknownOrigin
	}
	cur, err := l.current()
	if err != nil {
		return nil, w.unavailable(l, err)
	}
	if cur == nil {
		return nil, ErrUnknownOrigin
	}
	return cur.signed, nil
}

// Healthy returns nil if the witness can cosign for all its logs, and
// ErrUnavailable if it can't read or write the head of one.
func (w *Witness) Healthy() error {
	for _, l := range w.logs {
		if _, err := l.current(); err != nil {
			return w.unavailable(l, err)
		}
	}
	return nil
}

// requestError turns a parser's error into the answer to give.
func requestError(err error) error {
	if errors.Is(err, checkpoint.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// parseSubmitted takes a submitted checkpoint apart. Unlike a note it may come
// without any signature: the specification has an answer for that, and it is not
// "malformed".
func parseSubmitted(signed []byte) (*checkpoint.Note, error) {
	if text, ok := bytes.CutSuffix(signed, []byte("\n\n")); ok {
		return &checkpoint.Note{Text: append(bytes.Clone(text), '\n')}, nil
	}
	return checkpoint.ParseNote(signed)
}

// maxLogSignatures bounds the log signatures that a head keeps, so that with the
// cosignatures it stays a note that every reader accepts. A log that is changing
// its key has two.
const maxLogSignatures = 14

// assemble writes a note from its text and verified signatures, one of each key.
// A signature line that was repeated must not make the head unreadable.
func assemble(text []byte, sigs []checkpoint.Signature) []byte {
	out := append(bytes.Clone(text), '\n')
	type key struct {
		name string
		id   uint32
	}
	seen := map[key]bool{}
	for _, sig := range sigs {
		k := key{sig.Name, sig.KeyID}
		if !seen[k] && len(seen) < maxLogSignatures {
			seen[k] = true
			out = append(out, sig.Line()...)
		}
	}
	return out
}
