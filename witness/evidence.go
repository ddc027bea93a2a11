package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	lawfulness "github.com/tallystick/tallystick/verifier/lawful"
)

// How many evidence files are kept for one origin. A fork is the log's own
// doing, and so is an unlawful change, so a log can only fill its own share.
// Anybody can send a log's checkpoint with a proof that proves nothing, so such
// files are few and never take the place of a fork.
const (
	maxForks    = 16
	maxUnproven = 4
	maxUnlawful = 4 // each has a whole history in it
)

// findingUnlawful names evidence of an unlawful change, beside the findings of
// checkpoint.Evidence.
const findingUnlawful = "unlawful"

// evidenceDir keeps evidence files, named
// <origin hash>-<finding>-<hash of what it is about>.json.
type evidenceDir struct {
	dir     string
	disk    disk
	logger  *slog.Logger
	metrics *metrics

	mu    sync.Mutex
	files map[string]bool // names that are in dir, guarded by mu
	count map[string]int  // how many by "<origin hash>-<finding>", guarded by mu
}

// openEvidence lists what is there already.
func openEvidence(dir string, d disk, logger *slog.Logger, m *metrics) (*evidenceDir, error) {
	e := &evidenceDir{dir: dir, disk: d, logger: logger, metrics: m, files: map[string]bool{}, count: map[string]int{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading evidence directory: %w", err)
	}
	for _, entry := range entries {
		if i := strings.LastIndexByte(entry.Name(), '-'); i > 0 && strings.HasSuffix(entry.Name(), ".json") {
			e.files[entry.Name()] = true
			e.count[entry.Name()[:i]]++
		}
	}
	return e, nil
}

// keepFork writes evidence of two checkpoints of a log. What the same two tree
// heads have been kept for already is not kept again.
func (e *evidenceDir) keepFork(l *watched, evidence *checkpoint.Evidence, known, submitted checkpoint.Checkpoint) {
	finding, err := evidence.Judge(l.keys)
	if err != nil {
		return // not evidence against the log
	}
	limit := maxUnproven
	if finding == checkpoint.Fork {
		limit = maxForks
	}
	e.keep(found{
		origin: l.slot.origin, finding: finding.String(), limit: limit,
		about: append(known.Body(), submitted.Body()...), format: evidence.Format,
		log: e.logger.With("origin", l.slot.origin, "finding", finding.String(),
			"known_size", known.Size, "known_root", known.Root.String(),
			"submitted_size", submitted.Size, "submitted_root", submitted.Root.String()),
		message: "log shows inconsistent checkpoints",
	})
}

// keepUnlawful writes evidence of an unlawful change, once however the log goes
// on after it. Evidence is nil if there is none to keep.
func (e *evidenceDir) keepUnlawful(l *watched, evidence *lawfulness.Evidence, submitted checkpoint.Checkpoint) {
	log := e.logger.With("origin", l.slot.origin, "finding", findingUnlawful, "size", submitted.Size, "root", submitted.Root.String())
	if evidence == nil {
		log.Error("membership log has an unlawful change")
		return
	}
	v, err := evidence.Judge(evidence.Genesis)
	if err != nil {
		log.Error("evidence not kept: it would not hold", "error", err)
		return
	}
	e.keep(found{
		origin: l.slot.origin, finding: findingUnlawful, limit: maxUnlawful,
		about: fmt.Appendf(nil, "%d %x", v.Index, v.Entry), format: evidence.Format,
		log:     log.With("index", v.Index, "code", string(v.Code), "detail", v.Detail),
		message: "membership log has an unlawful change",
	})
}

// found is a finding on its way to a file.
type found struct {
	origin, finding string
	limit           int
	about           []byte // the same for findings of which one is enough
	format          func() ([]byte, error)
	log             *slog.Logger
	message         string
}

// keep writes evidence against a log. It is best effort: the answer to the
// request does not depend on it.
func (e *evidenceDir) keep(f found) {
	about := sha256.Sum256(f.about)
	class := originHash(f.origin) + "-" + f.finding
	name := class + "-" + hex.EncodeToString(about[:8]) + ".json"
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.files[name] {
		return
	}
	if e.count[class] >= f.limit {
		f.log.Warn("evidence not kept: there is enough of its kind", "limit", f.limit)
		return
	}
	text, err := f.format()
	if err == nil {
		err = replaceFile(e.disk, e.dir, name, text)
	}
	if err != nil {
		f.log.Error("evidence not kept", "error", err)
		return
	}
	e.files[name] = true
	e.count[class]++
	e.metrics.evidence.WithLabelValues(f.finding).Inc()
	f.log.Error(f.message, "evidence", name)
}
