package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// ControlPlane is what a node asks of the control plane, with the names of the
// generated Connect clients. Nothing that it answers is believed. Calls carry
// the node's token.
type ControlPlane interface {
	Dispatcher
	Payloads
}

// Dispatcher hands out work and hears what becomes of it.
type Dispatcher interface {
	WatchAssignments(context.Context, *connect.Request[pb.WatchAssignmentsRequest]) (*connect.ServerStreamForClient[pb.WatchAssignmentsResponse], error)
	RecordExecutionProvenance(context.Context, *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error)
	AbandonAssignment(context.Context, *connect.Request[pb.AbandonAssignmentRequest]) (*connect.Response[pb.AbandonAssignmentResponse], error)
	ReportNodeStatus(context.Context, *connect.Request[pb.ReportNodeStatusRequest]) (*connect.Response[pb.ReportNodeStatusResponse], error)
}

// Payloads are modules, inputs and outputs by digest.
type Payloads interface {
	GetBlob(context.Context, *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error)
	PutBlob(context.Context, *connect.Request[pb.PutBlobRequest]) (*connect.Response[pb.PutBlobResponse], error)
}

// LogSource reads the public resources of the cluster's two logs
// (c2sp.org/tlog-tiles). What it returns is suspect until it has been hashed.
type LogSource interface {
	// Get returns a resource of at most limit bytes, for example "checkpoint" or
	// "tile/0/000". An absent one is ErrNotFound.
	Get(ctx context.Context, log membership.LogName, path string, limit int64) ([]byte, error)
}

// ErrNotFound says that a log does not have a resource.
var ErrNotFound = errors.New("no such resource")

// Runner runs modules. It is trusted to find the same outcome for the same run
// on every machine.
type Runner interface {
	// Supports reports why this runner cannot run contracts with these versions,
	// nil if it can.
	Supports(contract.Versions) error
	// Run runs the module. An error that wraps ErrNotAdmitted is a property of the
	// module, ErrStopped says that Run.Timeout passed, and any other (a worker that
	// died, an engine fault) is one of this machine.
	Run(ctx context.Context, run Run) (*Result, error)
}

// ErrNotAdmitted is what a Runner's error wraps when the module itself may not
// run under the contract.
var ErrNotAdmitted = errors.New("module not admitted")

// A Run is one application of a contract's module to an input, all of it
// verified. The runner must not change it.
type Run struct {
	Contract *contract.Contract
	Module   []byte
	Input    []byte // standard input: the parents' outputs and the submission's own input
	// Timeout is after how long the runner stops it.
	Timeout time.Duration
}

// A Result is an outcome with the bytes that it covers.
type Result struct {
	Outcome             contract.Outcome
	Output, Diagnostics []byte
	RewrittenModule     *digest.Digest // nil with rewriter 0
}

// Config is what a node is made of. Fields are required unless they say what
// their zero value means.
type Config struct {
	ID  string // principal id
	Dir string // the node's own directory, see Open
	// AttestationKey signs statements: an Ed25519 key that the membership lists
	// for the node with use "attestation".
	AttestationKey crypto.Signer
	// Trust is what the node believes without proof.
	Trust verifier.Trust
	// MaxAge is how old the cosignatures of the membership checkpoint may be; 0
	// means DefaultMaxAge.
	MaxAge time.Duration

	ControlPlane ControlPlane
	Logs         LogSource
	Runner       Runner

	// Limits is the most this node takes, whatever the cluster allows; the zero
	// value means contract.DefaultClusterLimits.
	Limits contract.ClusterLimits
	// Capacity is how many modules run at a time; 0 means as many as there are
	// processors. Further assignments are prepared and handed in meanwhile; with
	// their payloads a node holds (4·Capacity+8) × (input + output limit) of memory
	// at worst, and 64 MiB of outputs that could not be handed in yet.
	Capacity int
	// RunTimeout is after how long a run is stopped, by the clock; 0 means
	// DefaultRunTimeout, and for a contract of rewriter 0 DefaultUnmeteredTimeout. It
	// then has no outcome, and this node does not try it again.
	RunTimeout time.Duration
	// KeepAttestations is how many attestations are kept in Dir, give or take a
	// tenth: some 4 KiB of disk each. 0 means DefaultKeepAttestations. What was
	// requested before the oldest one was and has none is not attested any more, so
	// it should be what the node does in hours.
	KeepAttestations int
	// Info is told to the control plane, for people. Capacity is filled in.
	Info *pb.NodeInfo
	// Timing has its defaults where it is zero.
	Timing Timing

	Now    func() time.Time // nil means time.Now
	Logger *slog.Logger     // nil discards
}

// Timing says how long a node waits.
type Timing struct {
	BackoffMin time.Duration // first pause after a failure; 0 means 500 ms
	BackoffMax time.Duration // longest pause; 0 means 30 s
	// Idle is how long the stream may be silent, keep-alive messages included,
	// before it is given up; 0 means 90 s.
	Idle time.Duration
	// Call bounds one call to the control plane or a log; 0 means 60 s.
	Call time.Duration
	// Report is the pause between reports of how the node is; 0 means 15 s.
	Report time.Duration
	// Drain bounds the time that work in progress gets when the node is stopped;
	// 0 means 60 s. A run may take longer, by its gas or on a busy machine: it is
	// then cancelled and given back.
	Drain time.Duration
	// Retry is for how long an assignment is tried while something is not
	// available, before it is left to others; 0 means 10 minutes, longer than
	// attempts usually last. An assignment has no end that a node could know of.
	Retry time.Duration
}

// DefaultMaxAge is how old the cosignatures of a membership checkpoint may be.
const DefaultMaxAge = checkpoint.DefaultMaxAge

// DefaultRunTimeout is several times what the gas of a contract at the cluster's
// default limits lasts (some 40 s of a processor), since the guard goes by the
// clock and other nodes may have their share of the machine: a metered contract
// ends by its gas, the same on every machine, and the guard is for faults. It is
// shorter than the control plane waits for a node that says that it works: the
// five minutes of an attempt whose deadline of one was put off four times.
const DefaultRunTimeout = 4 * time.Minute

// DefaultUnmeteredTimeout is the guard of runs of rewriter 0, which nothing else
// ends.
const DefaultUnmeteredTimeout = time.Minute

// DefaultKeepAttestations is how many attestations a node keeps: 400 MB.
const DefaultKeepAttestations = 100_000

func (c *Config) validate() error {
	switch {
	case !contract.ValidIdentifier(c.ID):
		return fmt.Errorf("node: id %q is no identifier", c.ID)
	case c.AttestationKey == nil:
		return errors.New("node: no attestation key")
	case c.Trust.AuditPolicy == nil || c.Trust.MembershipPolicy == nil:
		return errors.New("node: a policy is missing")
	case c.ControlPlane == nil || c.Logs == nil || c.Runner == nil:
		return errors.New("node: control plane, logs or runner is missing")
	}
	if c.Limits == (contract.ClusterLimits{}) {
		c.Limits = contract.DefaultClusterLimits()
	}
	if err := c.Limits.Validate(); err != nil {
		return fmt.Errorf("node: limits: %w", err)
	}
	if c.Capacity <= 0 {
		c.Capacity = runtime.GOMAXPROCS(0)
	}
	if c.KeepAttestations <= 0 {
		c.KeepAttestations = DefaultKeepAttestations
	}
	orDuration(&c.MaxAge, DefaultMaxAge)
	orDuration(&c.Timing.BackoffMin, 500*time.Millisecond)
	orDuration(&c.Timing.BackoffMax, 30*time.Second)
	orDuration(&c.Timing.Idle, 90*time.Second)
	orDuration(&c.Timing.Call, time.Minute)
	orDuration(&c.Timing.Report, 15*time.Second)
	orDuration(&c.Timing.Drain, time.Minute)
	orDuration(&c.Timing.Retry, 10*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// guard is after how long a run of a contract with these versions is stopped.
func (c *Config) guard(v contract.Versions) time.Duration {
	switch {
	case c.RunTimeout > 0:
		return c.RunTimeout
	case v.Rewriter == 0:
		return DefaultUnmeteredTimeout
	}
	return DefaultRunTimeout
}

func orDuration(d *time.Duration, otherwise time.Duration) {
	if *d <= 0 {
		*d = otherwise
	}
}
