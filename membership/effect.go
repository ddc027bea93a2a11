package membership

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/dsse"
)

// ProtocolVersion is the one that this package speaks.
const ProtocolVersion = "1.0"

// EffectKind names what a change does. The set is closed.
type EffectKind string

// The kinds of change.
const (
	KindGenesis             EffectKind = "genesis"
	KindAddPrincipal        EffectKind = "add_principal"
	KindRemovePrincipal     EffectKind = "remove_principal"
	KindUpdatePrincipal     EffectKind = "update_principal"
	KindRotateKey           EffectKind = "rotate_key"
	KindSetAdminThreshold   EffectKind = "set_admin_threshold"
	KindSetNodeQuorum       EffectKind = "set_node_quorum"
	KindSetClusterLimits    EffectKind = "set_cluster_limits"
	KindSetProtocolVersion  EffectKind = "set_protocol_version"
	KindSetLogKeys          EffectKind = "set_log_keys"
	KindConfirmSuccessorLog EffectKind = "confirm_successor_log"
)

// An Effect is what one change does to the state: one of the types of this
// file, and no other.
type Effect interface {
	Kind() EffectKind

	wire() wireEffect                // as the payload writes it
	normal() Effect                  // lists in the order that the format wants
	validate(cluster string) error   // what holds whatever the state
	apply(d *draft) error            // a *RefusalError when the state does not allow it
	describe(before *State) []string // in words; before is nil when unknown
}

// A Founding begins a cluster: epoch 1, and only there.
type Founding struct {
	AdminThreshold uint64
	Limits         contract.ClusterLimits
	Logs           Logs
	NodeQuorum     uint64
	Principals     []Principal // ascending by id; at least AdminThreshold admins
}

// AddPrincipal admits a principal whose id and keys are new.
type AddPrincipal struct{ Principal Principal }

// RemovePrincipal ends a membership and revokes every key that it ever had.
type RemovePrincipal struct{ ID string }

// UpdatePrincipal sets the description of a node. What is empty here is empty
// afterwards: it states the whole description, not a difference.
type UpdatePrincipal struct {
	ID         string
	Labels     map[string]string
	Name       string
	TrustLevel uint64
}

// RotateKey adds a key, removes one, or both. Both at once is a rotation: what
// the old key signed before stays good. A removal alone revokes.
type RotateKey struct {
	ID     string
	Add    *Key   // nil adds none
	Remove string // key id; "" removes none
}

// SetAdminThreshold sets how many admins must sign a change.
type SetAdminThreshold struct{ Threshold uint64 }

// SetNodeQuorum sets how many nodes must be members for executions to be
// accepted.
type SetNodeQuorum struct{ Quorum uint64 }

// SetClusterLimits replaces what contracts may ask for.
type SetClusterLimits struct{ Limits contract.ClusterLimits }

// SetProtocolVersion moves the cluster to another protocol version. A program
// that does not know the version stops there.
type SetProtocolVersion struct{ Version string }

// SetLogKeys replaces the keys of a log, which keeps its origin.
type SetLogKeys struct {
	Log         LogName
	Keys        []string
	ReceiptKeys []string
}

// ConfirmSuccessorLog says that a log is continued by another one.
type ConfirmSuccessorLog struct {
	Log            LogName
	Checkpoint     string // last cosigned checkpoint of the old log, a signed note
	NewOrigin      string // <cluster>/ and more, not that of a current log
	NewKeys        []string
	NewReceiptKeys []string
}

// Kind names the change.
func (Founding) Kind() EffectKind { return KindGenesis }

// Kind names the change.
func (AddPrincipal) Kind() EffectKind { return KindAddPrincipal }

// Kind names the change.
func (RemovePrincipal) Kind() EffectKind { return KindRemovePrincipal }

// Kind names the change.
func (UpdatePrincipal) Kind() EffectKind { return KindUpdatePrincipal }

// Kind names the change.
func (RotateKey) Kind() EffectKind { return KindRotateKey }

// Kind names the change.
func (SetAdminThreshold) Kind() EffectKind { return KindSetAdminThreshold }

// Kind names the change.
func (SetNodeQuorum) Kind() EffectKind { return KindSetNodeQuorum }

// Kind names the change.
func (SetClusterLimits) Kind() EffectKind { return KindSetClusterLimits }

// Kind names the change.
func (SetProtocolVersion) Kind() EffectKind { return KindSetProtocolVersion }

// Kind names the change.
func (SetLogKeys) Kind() EffectKind { return KindSetLogKeys }

// Kind names the change.
func (ConfirmSuccessorLog) Kind() EffectKind { return KindConfirmSuccessorLog }

func (e Founding) normal() Effect {
	e.Principals = slices.Clone(e.Principals)
	for i, p := range e.Principals {
		e.Principals[i] = p.normal()
	}
	slices.SortStableFunc(e.Principals, func(a, b Principal) int { return cmp.Compare(a.ID, b.ID) })
	e.Logs = Logs{Audit: e.Logs.Audit.normal(), Membership: e.Logs.Membership.normal()}
	return e
}

func (e AddPrincipal) normal() Effect { return AddPrincipal{e.Principal.normal()} }

func (e RotateKey) normal() Effect {
	if e.Add != nil {
		k := *e.Add
		k.Uses = slices.Sorted(slices.Values(k.Uses))
		e.Add = &k
	}
	return e
}

func (e SetLogKeys) normal() Effect {
	e.Keys, e.ReceiptKeys = sortedTexts(e.Keys), sortedTexts(e.ReceiptKeys)
	return e
}

func (e ConfirmSuccessorLog) normal() Effect {
	e.NewKeys, e.NewReceiptKeys = sortedTexts(e.NewKeys), sortedTexts(e.NewReceiptKeys)
	return e
}

func (e RemovePrincipal) normal() Effect    { return e }
func (e UpdatePrincipal) normal() Effect    { return e }
func (e SetAdminThreshold) normal() Effect  { return e }
func (e SetNodeQuorum) normal() Effect      { return e }
func (e SetClusterLimits) normal() Effect   { return e }
func (e SetProtocolVersion) normal() Effect { return e }

func (e Founding) validate(cluster string) error {
	for _, name := range []LogName{LogAudit, LogMembership} {
		log := e.Logs.Named(name)
		if log.Origin != Origin(cluster, name) {
			return fmt.Errorf("%s log has origin %q, want %q at genesis", name, log.Origin, Origin(cluster, name))
		}
		if err := log.validate(); err != nil {
			return err
		}
	}
	if err := cmp.Or(e.Limits.Validate(), validateThreshold(e.AdminThreshold), validateQuorum(e.NodeQuorum)); err != nil {
		return err
	}
	for i, p := range e.Principals {
		if err := p.validate(); err != nil {
			return err
		}
		if i > 0 && e.Principals[i-1].ID >= p.ID {
			return fmt.Errorf("principals are not ascending by id, each once: %q before %q", e.Principals[i-1].ID, p.ID)
		}
	}
	return nil
}

func (e AddPrincipal) validate(string) error      { return e.Principal.validate() }
func (e RemovePrincipal) validate(string) error   { return validateID("principal id", e.ID) }
func (e SetAdminThreshold) validate(string) error { return validateThreshold(e.Threshold) }
func (e SetNodeQuorum) validate(string) error     { return validateQuorum(e.Quorum) }
func (e SetClusterLimits) validate(string) error  { return e.Limits.Validate() }

func (e UpdatePrincipal) validate(string) error {
	if err := validateID("principal id", e.ID); err != nil {
		return err
	}
	return validateDescription(e.Name, e.TrustLevel, e.Labels)
}

func (e RotateKey) validate(string) error {
	if err := validateID("principal id", e.ID); err != nil {
		return err
	}
	if e.Add == nil && e.Remove == "" {
		return errors.New("rotate_key neither adds nor removes a key")
	}
	if e.Remove != "" && !keyIDForm.MatchString(e.Remove) {
		return fmt.Errorf("key id is %q, want 64 lowercase hexadecimal characters", e.Remove)
	}
	return nil // the added key is checked against the principal's kind
}

func (e SetProtocolVersion) validate(string) error {
	if !versionForm.MatchString(e.Version) {
		return fmt.Errorf("protocol version is %q, want two numbers with a point between", e.Version)
	}
	return nil
}

// validate checks the name only: the keys are checked against the log's origin.
func (e SetLogKeys) validate(string) error { return e.Log.validate() }

func (e ConfirmSuccessorLog) validate(cluster string) error {
	if err := e.Log.validate(); err != nil {
		return err
	}
	if len(e.NewOrigin) <= len(cluster)+1 || e.NewOrigin[:len(cluster)+1] != cluster+"/" {
		return fmt.Errorf("new origin is %q, want it to begin with %q", e.NewOrigin, cluster+"/")
	}
	return Log{Origin: e.NewOrigin, Keys: e.NewKeys, ReceiptKeys: e.NewReceiptKeys}.validate()
}

var (
	keyIDForm   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	versionForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$`)
)

// validateThreshold bounds what can ever be met; the state decides the rest.
func validateThreshold(t uint64) error {
	if t < 1 || t > MaxAdminThreshold {
		return fmt.Errorf("admin threshold is %d, want 1 to %d: an envelope holds %d signatures, and a change may add %d keys that sign it too",
			t, MaxAdminThreshold, dsse.MaxSignatures, MaxKeys)
	}
	return nil
}

func validateQuorum(q uint64) error {
	if q < 1 || q > MaxPrincipals {
		return fmt.Errorf("node quorum is %d, want 1 to %d", q, MaxPrincipals)
	}
	return nil
}

func (l Log) normal() Log {
	l.Keys, l.ReceiptKeys = sortedTexts(l.Keys), sortedTexts(l.ReceiptKeys)
	return l
}

func sortedTexts(list []string) []string { return slices.Sorted(slices.Values(list)) }
