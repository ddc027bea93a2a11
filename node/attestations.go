package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/provenance"
)

func attestationName(execution digest.Digest) string {
	id := execution.String()
	return filepath.Join("attestations", id[:2], id)
}

// maxAttestationFile bounds an attestation's file: the envelope, and a line with a
// number of 20 digits.
const maxAttestationFile = dsse.MaxEnvelope + 22

// splitAttestation takes an attestation's file apart. One without the line, or
// damaged, is about a submission whose last epoch is not known.
func splitAttestation(file []byte) (envelope []byte, lastEpoch uint64) {
	text, ended := bytes.CutSuffix(file, []byte("\n"))
	at := bytes.LastIndexByte(text, '\n')
	if !ended || at < 0 {
		return file, foreverPinned
	}
	lastEpoch, err := strconv.ParseUint(string(text[at+1:]), 10, 64)
	if err != nil {
		return file, foreverPinned
	}
	return text[:at], lastEpoch
}

// attestation returns the envelope that was kept for an execution, nil if none.
// What it returns is durable, whatever became of the process that wrote it.
func (s *store) attestation(execution digest.Digest) ([]byte, error) {
	name := attestationName(execution)
	file, err := s.read(name, maxAttestationFile)
	if err != nil || file == nil {
		return nil, err
	}
	envelope, _ := splitAttestation(file)
	return envelope, s.write(func() error {
		dir := filepath.Join(s.dir, filepath.Dir(name))
		return errors.Join(s.syncDir(dir), s.syncDir(filepath.Dir(dir)))
	})
}

// keepAttestation stores the envelope for an execution, once: if there is one
// already, that one is returned instead. lastEpoch is its submission's.
func (s *store) keepAttestation(execution digest.Digest, envelope []byte, lastEpoch uint64) ([]byte, error) {
	err := s.create(attestationName(execution), fmt.Appendf(slices.Clip(envelope), "\n%d\n", lastEpoch))
	if errors.Is(err, fs.ErrExist) {
		return s.attestation(execution)
	}
	if err == nil {
		s.shardMu.Lock()
		s.order = append(s.order, execution)
		s.shardMu.Unlock()
	}
	return envelope, err
}

// statement reads what the kept attestation of an execution says, and the last
// epoch at which its submission can be pinned.
func (s *store) statement(id digest.Digest) (st *provenance.Statement, lastEpoch uint64, err error) {
	file, err := s.read(attestationName(id), maxAttestationFile)
	if err != nil {
		return nil, 0, err
	}
	if file == nil {
		return nil, 0, os.ErrNotExist
	}
	envelope, lastEpoch := splitAttestation(file)
	st, err = parseAttestation(id, envelope)
	return st, lastEpoch, err
}

func parseAttestation(id digest.Digest, envelope []byte) (*provenance.Statement, error) {
	e, err := dsse.Parse(envelope)
	if err != nil {
		return nil, storeError(fmt.Errorf("file %q: %w", attestationName(id), err))
	}
	st, err := provenance.ParseStatement(e.Payload)
	if err != nil {
		return nil, storeError(fmt.Errorf("file %q: %w", attestationName(id), err))
	}
	return st, nil
}

// markPut notes that the payloads of a kept attestation have been handed in, by
// making its file read-only. The mark need not last: without it the execution is
// run once more, and compared, before the attestation is handed in.
func (s *store) markPut(id digest.Digest) error {
	if err := os.Chmod(filepath.Join(s.dir, attestationName(id)), 0o400); err != nil {
		return storeError(err)
	}
	return nil
}

func (s *store) isPut(id digest.Digest) bool {
	info, err := os.Stat(filepath.Join(s.dir, attestationName(id)))
	return err == nil && info.Mode().Perm()&0o200 == 0
}
