package membership

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrLogFile says that bytes are not entry bundles in a row.
var ErrLogFile = errors.New("not a file of a membership log")

// FormatLogFile returns a file with entries of a membership log, from the first
// on: what joining the log's entry bundles (C2SP tlog-tiles) in their order
// gives. Each entry has its length before it, two bytes, big-endian; it has at
// most [MaxChangeEnvelope] bytes.
func FormatLogFile(entries [][]byte) []byte {
	var file []byte
	for _, e := range entries {
		file = append(binary.BigEndian.AppendUint16(file, uint16(len(e))), e...)
	}
	return file
}

// ParseLogFile reads such a file. The entries are untrusted and share its
// memory; whether they are lawful is for a [History] to say.
func ParseLogFile(file []byte) (entries [][]byte, err error) {
	for len(file) > 0 {
		if len(file) < 2 || len(file)-2 < int(binary.BigEndian.Uint16(file)) {
			return nil, fmt.Errorf("%w: entry %d is cut off", ErrLogFile, len(entries))
		}
		end := 2 + int(binary.BigEndian.Uint16(file))
		entries, file = append(entries, file[2:end]), file[end:]
	}
	return entries, nil
}
