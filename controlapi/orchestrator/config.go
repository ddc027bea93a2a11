package orchestrator

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// DefaultAttemptDeadline is how long the nodes of an attempt may stay away
// before the next attempt begins. It is longer than a node lets one run take.
const DefaultAttemptDeadline = time.Minute

// DefaultMaxPayload fits the largest module, input and output of the default
// cluster limits, in bytes.
const DefaultMaxPayload = 16 << 20

// Config is what an Orchestrator is made of. Fields without a comment that says
// otherwise are required.
type Config struct {
	Cluster    string // the cluster's id
	Audit      Log    // origin <cluster>/audit
	Membership Log    // origin <cluster>/membership, held back until AllowWitness

	// The policies that checkpoints satisfy before anything is built on them:
	// those that nodes and verifiers hold, so that what is sent is not refused.
	AuditPolicy      *checkpoint.Policy
	MembershipPolicy *checkpoint.Policy

	// SigningKeys are the vkeys that sign checkpoints of each log now: two while a
	// key is rotated. The membership must name one of them. A log that is left
	// out is not checked.
	SigningKeys map[membership.LogName][]string

	// Genesis is the envelope of the first change. It is appended to an empty
	// membership log, and compared with the first entry of any other.
	Genesis []byte

	Blobs    Blobs
	Admitter Admitter

	// MaxPayload is the largest payload in bytes that nodes can put: what the API
	// carries and Blobs takes. A contract whose outputs may be larger is refused,
	// since nobody could deliver them. 0 means DefaultMaxPayload.
	MaxPayload      uint64
	AttemptDeadline time.Duration    // 0 means DefaultAttemptDeadline
	Now             func() time.Time // nil means time.Now
	Logger          *slog.Logger     // nil discards
}

// Blobs keeps payloads by owner and digest. An owner is the id of a principal;
// a digest resolves only in the namespace of its owner.
type Blobs interface {
	// Put stores data durably and returns its digest. Putting it again is no
	// error, and takes as long whether any owner has it.
	Put(ctx context.Context, owner string, data []byte) (digest.Digest, error)
	// Get returns the payload, or ErrNoBlob.
	Get(ctx context.Context, owner string, d digest.Digest) ([]byte, error)
	// Size returns the payload's length in bytes, or ErrNoBlob.
	Size(ctx context.Context, owner string, d digest.Digest) (int64, error)
	// Erase destroys the payload's key and returns when nobody can read it any
	// more. Erasing what is not there is no error.
	Erase(ctx context.Context, owner string, d digest.Digest) error
}

// The outcomes of Blobs that this package tells apart.
var (
	ErrNoBlob       = errors.New("no such payload")
	ErrBlobTooLarge = errors.New("payload over the limit")
	// ErrBlobDamaged: the payload was kept, was never erased, and cannot be had any
	// more, whatever the store does.
	ErrBlobDamaged = errors.New("payload is missing or altered")
)

// ErrNotAdmitted is wrapped by an Admitter's refusal, whose text names the
// import, feature or limit. Every other error of it is a failure of the service.
var ErrNotAdmitted = errors.New("module not admitted")

// Admitter holds a module to its contract statically and deterministically.
type Admitter interface {
	// Admit checks the module of a contract: contractPayload is the signed
	// payload, verified and well formed; moduleBytes is the cluster's limit.
	Admit(ctx context.Context, contractPayload, module []byte, moduleBytes uint64) error
}

// Actor is the authenticated principal whose operation is carried out. It goes
// into the header of the record that the operation makes.
type Actor struct {
	Principal string // id
	KeyID     string // of the token key, hexadecimal
	Method    string // full method, for example "tallystick.v1.Control/SubmitExecutionRequest"
	TokenID   string // the token's "jti"
}

// Appended is the receipt for a record: what binds the log to it before any
// witness has seen it.
type Appended struct {
	Index     int64
	Duplicate bool     // an earlier operation made the record; Head may be newer than its own
	Opening   []byte   // salt ‖ record
	Head      []byte   // signed note by the log's receipt key
	Proof     [][]byte // inclusion of the record in the tree of Head
}
