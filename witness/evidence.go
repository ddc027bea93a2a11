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
)

// How many evidence files are kept for one origin. A fork is the log's own
// doing, so a log can only fill its own share. Anybody can send a log's
// checkpoint with a proof that proves nothing, so such files are few and never
// take the place of a fork.
const (
	maxForks    = 16
	maxUnproven = 4
)

// evidenceDir keeps evidence files, named
// <origin hash>-<finding>-<hash of both tree heads>.json.
type evidenceDir struct {
	dir    string
	disk   disk
	logger *slog.Logger

	mu    sync.Mutex
	files map[string]bool // names that are in dir, guarded by mu
	count map[string]int  // how many by "<origin hash>-<finding>", guarded by mu
}

// openEvidence lists what is there already.
func openEvidence(dir string, d disk, logger *slog.Logger) (*evidenceDir, error) {
	e := &evidenceDir{dir: dir, disk: d, logger: logger, files: map[string]bool{}, count: map[string]int{}}
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

// keep writes evidence against a log. It is best effort: the answer to the
// request does not depend on it. What the same two tree heads have been kept
// for already is not kept again.
func (e *evidenceDir) keep(l *logState, evidence *checkpoint.Evidence, known, submitted checkpoint.Checkpoint) {
	finding, err := evidence.Judge(l.keys)
	if err != nil {
		return // not evidence against the log
	}
	heads := sha256.Sum256(append(known.Body(), submitted.Body()...))
	class := l.hash + "-" + finding.String()
	name := class + "-" + hex.EncodeToString(heads[:8]) + ".json"
	limit := maxUnproven
	if finding == checkpoint.Fork {
		limit = maxForks
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.files[name] {
		return
	}
	log := e.logger.With("origin", l.origin, "finding", finding.String(),
		"known_size", known.Size, "known_root", known.Root.String(),
		"submitted_size", submitted.Size, "submitted_root", submitted.Root.String())
	if e.count[class] >= limit {
		log.Warn("evidence not kept: there is enough of its kind", "limit", limit)
		return
	}
	text, err := evidence.Format()
	if err == nil {
		err = replaceFile(e.disk, e.dir, name, text)
	}
	if err != nil {
		log.Error("evidence not kept", "error", err)
		return
	}
	e.files[name] = true
	e.count[class]++
	log.Error("log shows inconsistent checkpoints", "evidence", name)
}
