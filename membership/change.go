package membership

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
)

// PayloadType is the DSSE payload type of changes.
const PayloadType = "application/vnd.tallystick.change.v1+json"

// A Change is the payload of one signed change. A parsed one is well formed;
// whether it is lawful is for [State.Apply] to say.
type Change struct {
	Cluster             string
	ClusterIdentityHash digest.Digest // of the state it makes
	Effect              Effect
	Epoch               uint64        // that it makes
	MembershipCount     uint64        // of the state it makes
	MembershipHash      digest.Digest // of the state it makes
	Previous            digest.Digest // of the payload of the change before; zero for genesis
	ProtocolVersion     string
}

// wireChange is the payload as JSON.
type wireChange struct {
	Change              wireEffect    `json:"change"`
	Cluster             string        `json:"cluster"`
	ClusterIdentityHash digest.Digest `json:"cluster_identity_hash"`
	Epoch               uint64        `json:"epoch"`
	MembershipCount     uint64        `json:"membership_count"`
	MembershipHash      digest.Digest `json:"membership_hash"`
	Previous            digest.Digest `json:"previous"`
	ProtocolVersion     string        `json:"protocol_version"`
}

// wireEffect has the members of all kinds of change. Which of them a kind has
// is what its wire method sets; effectOf holds input to that.
type wireEffect struct {
	Add            *Key                    `json:"add,omitempty"`
	AdminThreshold *uint64                 `json:"admin_threshold,omitempty"`
	Checkpoint     *string                 `json:"checkpoint,omitempty"`
	ID             *string                 `json:"id,omitempty"`
	Keys           *[]string               `json:"keys,omitempty"`
	Kind           EffectKind              `json:"kind"`
	Labels         map[string]string       `json:"labels,omitempty"`
	Limits         *contract.ClusterLimits `json:"limits,omitempty"`
	Log            *LogName                `json:"log,omitempty"`
	Logs           *Logs                   `json:"logs,omitempty"`
	Name           string                  `json:"name,omitempty"`
	NewKeys        *[]string               `json:"new_keys,omitempty"`
	NewOrigin      *string                 `json:"new_origin,omitempty"`
	NewReceiptKeys []string                `json:"new_receipt_keys,omitempty"`
	NodeQuorum     *uint64                 `json:"node_quorum,omitempty"`
	Principal      *Principal              `json:"principal,omitempty"`
	Principals     *[]Principal            `json:"principals,omitempty"`
	Quorum         *uint64                 `json:"quorum,omitempty"`
	ReceiptKeys    []string                `json:"receipt_keys,omitempty"`
	Remove         string                  `json:"remove,omitempty"`
	Threshold      *uint64                 `json:"threshold,omitempty"`
	TrustLevel     uint64                  `json:"trust_level,omitempty"`
	Version        *string                 `json:"version,omitempty"`
}

// ParseChange reads the payload of a change. It accepts exactly what the format
// allows, at most dsse.MaxPayload bytes. The error is a [*RefusalError] with
// code RefusedSyntax, RefusedVersion or RefusedValue. The payload is untrusted:
// nothing here says who signed it.
func ParseChange(payload []byte) (Change, error) {
	w, effect, err := readChange(payload)
	if err != nil {
		return Change{}, err
	}
	if err := validateID("cluster", w.Cluster); err != nil {
		return Change{}, refuseCause(RefusedValue, err)
	}
	if w.Epoch == 0 {
		return Change{}, refuse(RefusedValue, "epoch is 0; epochs count from 1")
	}
	if err := effect.validate(w.Cluster); err != nil {
		return Change{}, refuseCause(RefusedValue, err)
	}
	return Change{
		Cluster:             w.Cluster,
		ClusterIdentityHash: w.ClusterIdentityHash,
		Effect:              effect,
		Epoch:               w.Epoch,
		MembershipCount:     w.MembershipCount,
		MembershipHash:      w.MembershipHash,
		Previous:            w.Previous,
		ProtocolVersion:     w.ProtocolVersion,
	}, nil
}

// readChange reads the members. A change under another version is refused for
// that before anything else, as it may well have other members and kinds.
func readChange(payload []byte) (wireChange, Effect, error) {
	var w wireChange
	err := strictjson.Unmarshal(payload, &w, dsse.MaxPayload)
	version, known := w.ProtocolVersion, true
	if err != nil {
		version, known = strictjson.Text(payload, "protocol_version", dsse.MaxPayload)
	}
	if known && version != ProtocolVersion {
		return w, nil, refuse(RefusedVersion, "the change is made under protocol version %.64q, known is %q", version, ProtocolVersion)
	}
	if err != nil {
		return w, nil, refuseCause(RefusedSyntax, err)
	}
	effect, err := effectOf(w.Change)
	if err != nil {
		return w, nil, refuseCause(RefusedSyntax, err)
	}
	return w, effect, nil
}

// payload returns the canonical form. It is what signers sign, and is never
// made again from a parsed change: hashes are of the bytes received.
func (c Change) payload() ([]byte, error) {
	return strictjson.Marshal(wireChange{
		Change:              c.Effect.wire(),
		Cluster:             c.Cluster,
		ClusterIdentityHash: c.ClusterIdentityHash,
		Epoch:               c.Epoch,
		MembershipCount:     c.MembershipCount,
		MembershipHash:      c.MembershipHash,
		Previous:            c.Previous,
		ProtocolVersion:     c.ProtocolVersion,
	})
}

// effectOf reads the members of the change's kind, and requires that writing
// the effect again sets the very same ones: none is missing, none left over.
func effectOf(w wireEffect) (Effect, error) {
	effect, ok := readEffect(w)
	if !ok {
		return nil, fmt.Errorf("unknown kind of change %q", w.Kind)
	}
	have, want := reflect.ValueOf(w), reflect.ValueOf(effect.wire())
	for i := range have.NumField() {
		if have.Field(i).IsZero() == want.Field(i).IsZero() {
			continue
		}
		name, _, _ := strings.Cut(have.Type().Field(i).Tag.Get("json"), ",")
		if have.Field(i).IsZero() {
			return nil, fmt.Errorf("change of kind %q lacks member %q", w.Kind, name)
		}
		return nil, fmt.Errorf("change of kind %q has no member %q", w.Kind, name)
	}
	return effect, nil
}

func readEffect(w wireEffect) (Effect, bool) {
	switch w.Kind {
	case KindGenesis:
		return Founding{
			AdminThreshold: value(w.AdminThreshold),
			Limits:         value(w.Limits),
			Logs:           value(w.Logs),
			NodeQuorum:     value(w.NodeQuorum),
			Principals:     value(w.Principals),
		}, true
	case KindAddPrincipal:
		return AddPrincipal{value(w.Principal)}, true
	case KindRemovePrincipal:
		return RemovePrincipal{value(w.ID)}, true
	case KindUpdatePrincipal:
		return UpdatePrincipal{value(w.ID), w.Labels, w.Name, w.TrustLevel}, true
	case KindRotateKey:
		return RotateKey{value(w.ID), w.Add, w.Remove}, true
	case KindSetAdminThreshold:
		return SetAdminThreshold{value(w.Threshold)}, true
	case KindSetNodeQuorum:
		return SetNodeQuorum{value(w.Quorum)}, true
	case KindSetClusterLimits:
		return SetClusterLimits{value(w.Limits)}, true
	case KindSetProtocolVersion:
		return SetProtocolVersion{value(w.Version)}, true
	case KindSetLogKeys:
		return SetLogKeys{value(w.Log), value(w.Keys), w.ReceiptKeys}, true
	case KindConfirmSuccessorLog:
		return ConfirmSuccessorLog{value(w.Log), value(w.Checkpoint), value(w.NewOrigin), value(w.NewKeys), w.NewReceiptKeys}, true
	}
	return nil, false
}

// value returns what p points to, or a zero value.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (e Founding) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), AdminThreshold: &e.AdminThreshold, Limits: &e.Limits, Logs: &e.Logs,
		NodeQuorum: &e.NodeQuorum, Principals: &e.Principals}
}

func (e AddPrincipal) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), Principal: &e.Principal}
}

func (e RemovePrincipal) wire() wireEffect { return wireEffect{Kind: e.Kind(), ID: &e.ID} }

func (e UpdatePrincipal) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), ID: &e.ID, Labels: e.Labels, Name: e.Name, TrustLevel: e.TrustLevel}
}

func (e RotateKey) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), ID: &e.ID, Add: e.Add, Remove: e.Remove}
}

func (e SetAdminThreshold) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), Threshold: &e.Threshold}
}

func (e SetNodeQuorum) wire() wireEffect { return wireEffect{Kind: e.Kind(), Quorum: &e.Quorum} }

func (e SetClusterLimits) wire() wireEffect { return wireEffect{Kind: e.Kind(), Limits: &e.Limits} }

func (e SetProtocolVersion) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), Version: &e.Version}
}

func (e SetLogKeys) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), Log: &e.Log, Keys: &e.Keys, ReceiptKeys: e.ReceiptKeys}
}

func (e ConfirmSuccessorLog) wire() wireEffect {
	return wireEffect{Kind: e.Kind(), Log: &e.Log, Checkpoint: &e.Checkpoint, NewOrigin: &e.NewOrigin,
		NewKeys: &e.NewKeys, NewReceiptKeys: e.NewReceiptKeys}
}
