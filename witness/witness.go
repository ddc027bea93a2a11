package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Config is what a witness is made of.
type Config struct {
	// Dir is the witness's directory, which Init has made.
	Dir string
	// Keys cosign, each alone or all at the same time, as the client asks.
	Keys *Keys
	// Policy lists the logs to cosign for; its witnesses and quorum are ignored.
	Policy *checkpoint.Policy
	// Lawful, if not nil, makes this a cosigner of lawful membership. The directory
	// is bound to its genesis then, and is never an ordinary witness's.
	Lawful *LawfulConfig
	// Logger receives one line a cosigned checkpoint, and what is wrong. Required.
	Logger *slog.Logger
	// Now is the clock of the cosignatures; nil means time.Now.
	Now func() time.Time
}

// Witness cosigns checkpoints. Its fields do not change after Open, but for
// what store, lawful and evidenceDir guard themselves, and policy.
type Witness struct {
	keys     *Keys
	store    *store
	policy   atomic.Pointer[logSet] // replaced as a whole by SetPolicy
	lawful   *lawful                // nil in an ordinary witness
	evidence *evidenceDir
	metrics  *metrics
	logger   *slog.Logger
	now      func() time.Time
	lock     *os.File

	// beforeSwap is called between the checks and the swap, for tests that
	// provoke a race. It is set before the first request, or nil.
	beforeSwap func(checkpoint.Checkpoint)
}

// logSet is what a policy says of the logs, by origin. It is not changed.
type logSet map[string]*watched

// watched is one log that the policy names.
type watched struct {
	slot  *slot
	keys  []note.Verifier // the log's keys
	vkeys []string        // the same as text
}

// Open takes the directory for this process and loads the heads. A head that
// cannot be read is an error: without it the witness could cosign a second
// history.
func Open(config Config) (*Witness, error) { return open(config, osDisk{}) }

func open(config Config, d disk) (_ *Witness, err error) {
	w := &Witness{keys: config.Keys, logger: config.Logger, now: config.Now}
	if w.now == nil {
		w.now = time.Now
	}
	if w.lock, err = lockDir(config.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	evidence := filepath.Join(config.Dir, "evidence")
	if err := os.MkdirAll(evidence, 0o700); err != nil {
		return nil, fmt.Errorf("creating directory: %w", err)
	}
	w.metrics = newMetrics(w)
	if w.store, err = openStore(config.Dir, d, w.keys.public(), w.logger, w.metrics); err != nil {
		return nil, err
	}
	if w.evidence, err = openEvidence(evidence, d, w.logger, w.metrics); err != nil {
		return nil, err
	}
	if w.lawful, err = openLawful(config, w.store, d, w.metrics); err != nil {
		return nil, err
	}
	return w, w.SetPolicy(config.Policy)
}

// SetPolicy makes the witness cosign for the logs of another policy from the
// next request on. When it is refused the one before stays. Logs that it leaves
// out are cosigned no more and not forgotten: should they return, they have to
// extend what was cosigned last.
func (w *Witness) SetPolicy(policy *checkpoint.Policy) error {
	if len(policy.Logs()) == 0 {
		return errors.New("the policy has no log line, so there is nothing to cosign")
	}
	if w.lawful != nil {
		if err := w.lawful.checkPolicy(policy); err != nil {
			return err
		}
	}
	set := logSet{}
	for _, key := range policy.Logs() {
		l := set[key.Origin]
		if l == nil {
			l = &watched{slot: w.store.slot(key.Origin)}
			set[key.Origin] = l
		}
		l.keys, l.vkeys = append(l.keys, key.Key), append(l.vkeys, key.Vkey)
	}
	w.policy.Store(&set)
	return nil
}

// Close gives the directory back. Requests must have ended.
func (w *Witness) Close() error {
	var err error
	if w.store != nil {
		err = w.store.close()
	}
	if w.lawful != nil {
		err = errors.Join(err, w.lawful.close())
	}
	return errors.Join(err, w.lock.Close())
}

// maxRaces bounds how often a request is checked again because another one has
// moved the head. Usually the second check ends in a conflict; only refreshes of
// the same checkpoint can lose more than one race.
const maxRaces = 8

// Submission is an add-checkpoint request.
type Submission struct {
	// Body is the body of the request, suspect in every byte.
	Body []byte
	// Keys are the places, in [Keys.Vkeys], of those that are to cosign; nil means
	// all of them.
	Keys []int
}

// AddCheckpoint answers an add-checkpoint request with the signature lines of
// the keys asked for, in the order of Keys.Vkeys, or with one of the errors of
// this package. The order of the checks is that of the specification. Ctx ends
// the reading of a membership log, and nothing else.
func (w *Witness) AddCheckpoint(ctx context.Context, s Submission) ([]byte, error) {
	req, err := checkpoint.ParseAddRequest(s.Body)
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
	l := (*w.policy.Load())[c.Origin]
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
	if s.Keys == nil {
		s.Keys = w.keys.places()
	}

	// Only what was verified is kept: unknown signatures could be anything.
	r := &request{log: l, add: req, checkpoint: c, signed: assemble(n.Text, logSigs), signatures: logSigs}
	for range maxRaces {
		cur := l.slot.current()
		if err := w.check(cur, r); err != nil {
			return nil, err
		}
		// Reading the log takes its time, and no lock: other requests go on meanwhile.
		if err := w.checkLawful(ctx, cur, r); err != nil {
			return nil, err
		}
		now := w.now().Unix()
		if cur != nil && string(cur.body) == string(n.Text) {
			// Cosigned and stored within this second already, perhaps through another
			// submission prefix: there may be nothing new to say.
			if lines, all := cur.lines(s.Keys, now); all {
				return lines, nil
			}
		}
		// The cosignatures are made but not shown before swap has succeeded. A crash
		// up to there leaves the old head, or the new one that nobody has seen; a crash
		// after it leaves the new head, which a client gets cosigned again.
		next, err := w.keys.newHead(cur, c, r.signed, s.Keys, now)
		if err != nil {
			return nil, w.unavailable(l, err)
		}
		if w.beforeSwap != nil {
			w.beforeSwap(c)
		}
		err = w.store.swap(l.slot, cur, next)
		if errors.Is(err, errHeadMoved) {
			continue // somebody else was faster: check against what is there now
		}
		if err != nil {
			return nil, w.unavailable(l, err)
		}
		w.logger.Info("cosigned", "origin", c.Origin, "size", c.Size, "root", c.Root.String())
		lines, _ := next.lines(s.Keys, now)
		return lines, nil
	}
	return nil, w.unavailable(l, errHeadMoved)
}

// request is a submission whose signature was verified.
type request struct {
	log        *watched
	add        *checkpoint.AddRequest
	checkpoint checkpoint.Checkpoint
	signed     []byte                 // the note with nothing but signatures of the log
	signatures []checkpoint.Signature // those signatures
}

// check compares a signed request with the head.
func (w *Witness) check(cur *head, r *request) error {
	latest, c := cur.tree(), r.checkpoint
	// Two root hashes for one size are worth keeping whatever the answer is.
	if cur != nil && c.Size == latest.N && c.Root != latest.Hash {
		w.keepEvidence(cur, r)
	}
	// "The witness MUST check that the old size matches the size of the latest
	// checkpoint it cosigned for the checkpoint's origin (or zero)."
	if r.add.OldSize != latest.N {
		return &ConflictError{Size: latest.N}
	}
	// The rest is 422: "A checkpoint of size zero MUST have the root hash of the
	// empty tree"; "If the old size is zero, the consistency proof MUST be empty";
	// "if a Merkle Consistency Proof doesn't verify"; "If the old size matches the
	// checkpoint size, the witness MUST check that the root hashes are also
	// identical." VerifyConsistency checks all of them.
	if err := checkpoint.VerifyConsistency(latest, c.Tree(), r.add.Hashes); err != nil {
		if cur != nil && c.Size != latest.N {
			w.keepEvidence(cur, r)
		}
		return fmt.Errorf("%w: %w", ErrInconsistent, err)
	}
	return nil
}

func (w *Witness) keepEvidence(cur *head, r *request) {
	w.evidence.keepFork(r.log, &checkpoint.Evidence{
		Vkeys:     r.log.vkeys,
		Known:     cur.signed,
		Submitted: r.signed,
		Hashes:    r.add.Hashes,
	}, cur.checkpoint, r.checkpoint)
}

// checkLawful holds a request to the rules of membership, in a cosigner that
// looks at them.
func (w *Witness) checkLawful(ctx context.Context, cur *head, r *request) error {
	if w.lawful == nil {
		return nil
	}
	err := w.lawful.check(ctx, cur.tree(), r)
	var unlawful *unlawfulError
	switch {
	case errors.As(err, &unlawful):
		w.evidence.keepUnlawful(r.log, unlawful.evidence, r.checkpoint)
	case errors.Is(err, ErrUnreadable):
		w.logger.Error("cannot read the membership log", "origin", r.checkpoint.Origin, "size", r.checkpoint.Size, "error", err)
	}
	return err
}

// unavailable logs what is wrong for the operator and tells the client only that
// something is.
func (w *Witness) unavailable(l *watched, err error) error {
	w.logger.Error("cannot cosign", "origin", l.slot.origin, "error", err)
	return ErrUnavailable
}

// Latest returns the signed note that was cosigned last for the log with this
// origin hash (SHA-256 of the origin in lower-case hexadecimal), with the log's
// signatures and the cosignatures that were given for it. It is ErrUnknownOrigin
// if there is none.
func (w *Witness) Latest(originHash string) ([]byte, error) {
	h := w.store.find(originHash)
	if h == nil {
		return nil, ErrUnknownOrigin
	}
	return h.signed, nil
}

// Healthy returns nil if the witness can cosign, and ErrUnavailable if it can't
// write heads. A disk that failed is tried again first.
func (w *Witness) Healthy() error {
	if err := w.store.probe(); err != nil {
		w.logger.Error("cannot cosign", "error", err)
		return ErrUnavailable
	}
	return nil
}

// requestError turns a parser's error into the answer to give. The parser's own
// word for malformed, and that it read a request, would only be said twice.
func requestError(err error) error {
	outcome, kind := ErrMalformed, checkpoint.ErrMalformed
	if errors.Is(err, checkpoint.ErrTooLarge) {
		outcome, kind = ErrTooLarge, checkpoint.ErrTooLarge
	}
	text := strings.TrimPrefix(err.Error(), kind.Error()+": ")
	return fmt.Errorf("%w: %s", outcome, strings.TrimPrefix(text, "request: "))
}
