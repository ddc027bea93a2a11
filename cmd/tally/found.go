package main

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// founding is what a new cluster begins with.
type founding struct {
	cluster    string
	logs       membership.Logs
	admins     []string
	nodes      []string
	tenants    []string
	auditors   []string
	threshold  uint64
	nodeQuorum uint64
	limits     contract.ClusterLimits
	// keys names, by "principal/use", private keys that exist already: files, or
	// URIs in a key management service. All others are made.
	keys map[string]string
}

// keyName is where the private key of a principal for one use is: what the
// founding names for it, or a file below dir.
func (f *founding) keyName(dir, principal string, use membership.Use) string {
	if name, ok := f.keys[principal+"/"+string(use)]; ok {
		return name
	}
	return filepath.Join(dir, keyPath(principal, use))
}

// Names of the files that founding writes into a cluster's folder.
const (
	genesisName          = "genesis.json"
	auditPolicyName      = "audit.policy"
	membershipPolicyName = "membership.policy"
	keysName             = "keys"
	maxLogsFile          = 64 << 10
)

// keyPath is where the private key of a principal for one use lives, relative
// to the cluster's folder.
func keyPath(principal string, use membership.Use) string {
	return filepath.Join(keysName, principal+"-"+string(use)+".pem")
}

// usesByKind says which keys founding makes: one for each use, so that a
// stolen one signs nothing else.
var usesByKind = map[membership.Kind][]membership.Use{
	membership.KindAdmin:   {membership.UseChange, membership.UseToken},
	membership.KindAuditor: {membership.UseToken},
	membership.KindNode:    {membership.UseAttestation, membership.UseToken},
	membership.KindTenant:  {membership.UseContract, membership.UseSubmission, membership.UseToken},
}

// readLogs reads the "logs" object that `controlapi init` wrote.
func readLogs(path string) (membership.Logs, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return membership.Logs{}, fmt.Errorf("reading the logs' keys: %w", err)
	}
	var logs membership.Logs
	if err := strictjson.Unmarshal(data, &logs, maxLogsFile); err != nil {
		return membership.Logs{}, fmt.Errorf("%q: %w", path, err)
	}
	return logs, nil
}

// found makes a key for each use of each principal under dir/keys, or loads the
// one that is there, and writes the signed genesis.
func found(dir string, f founding) error {
	var principals []membership.Principal
	var signers []dsse.Signer
	add := func(kind membership.Kind, ids []string) error {
		for _, id := range ids {
			p := membership.Principal{ID: id, Kind: kind}
			if kind == membership.KindNode {
				p.Labels = map[string]string{"arch": runtime.GOARCH}
			}
			for _, use := range usesByKind[kind] {
				key, err := loadOrCreate(f.keyName(dir, id, use))
				if err != nil {
					return err
				}
				signer, err := dsse.NewSigner(key)
				if err != nil {
					return err
				}
				signers = append(signers, signer)
				p.Keys = append(p.Keys, membership.Key{
					Algorithm: membership.AlgorithmEd25519,
					PublicKey: signer.Public(),
					Uses:      []membership.Use{use},
				})
			}
			principals = append(principals, p)
		}
		return nil
	}
	for _, group := range []struct {
		kind membership.Kind
		ids  []string
	}{
		{membership.KindAdmin, f.admins}, {membership.KindNode, f.nodes},
		{membership.KindTenant, f.tenants}, {membership.KindAuditor, f.auditors},
	} {
		if err := add(group.kind, group.ids); err != nil {
			return err
		}
	}
	payload, err := membership.ProposeGenesis(f.cluster, membership.Founding{
		AdminThreshold: f.threshold,
		Limits:         f.limits,
		Logs:           f.logs,
		NodeQuorum:     f.nodeQuorum,
		Principals:     principals,
	})
	if err != nil {
		return fmt.Errorf("genesis: %w", err)
	}
	envelope, err := dsse.Sign(membership.PayloadType, payload, signers...)
	if err != nil {
		return fmt.Errorf("signing the genesis: %w", err)
	}
	data, err := envelope.Marshal()
	if err != nil {
		return err
	}
	if _, _, err := membership.Genesis(data); err != nil {
		return fmt.Errorf("the genesis would be refused: %w", err)
	}
	path := filepath.Join(dir, genesisName)
	if there, err := os.ReadFile(path); err == nil && !bytes.Equal(there, data) {
		return withHint(fmt.Errorf("%q is the genesis of a cluster already, another than this one would be", path),
			"change the members of a running cluster with `tally member propose`; found another cluster in another folder")
	}
	return writeFile(path, data)
}

// loadOrCreate returns the key in a file, which it makes when there is none.
func loadOrCreate(path string) (crypto.Signer, error) {
	if inKMS(path) {
		return loadKey(path)
	}
	if _, err := os.Stat(path); err == nil {
		return keyfile.LoadEd25519(path, passphraseFromEnv())
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return createKey(path, nil)
}

// cosigners are whom the policies of a cluster trust.
type cosigners struct {
	witnesses []checkpoint.Witness // of both logs
	quorum    int                  // of the witnesses, that must cosign
	// lawful are cosigners of lawful membership. More than half of them must cosign
	// the membership log, beside the quorum; none if it is empty.
	lawful []checkpoint.Witness
}

// policies writes one policy file for each log.
func policies(dir string, logs membership.Logs, trusted cosigners) error {
	for name, log := range map[string]membership.Log{auditPolicyName: logs.Audit, membershipPolicyName: logs.Membership} {
		var keys []checkpoint.LogKey
		for _, vkey := range log.Keys {
			keys = append(keys, checkpoint.LogKey{Vkey: vkey, Origin: log.Origin})
		}
		text, err := checkpoint.FormatPolicy(keys, trusted.witnesses, trusted.quorum)
		if err == nil && name == membershipPolicyName && len(trusted.lawful) > 0 {
			text, err = trusted.requireLawful(text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := writeFile(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	return nil
}

// requireLawful adds to the text of a policy that more than half of the cosigners
// of lawful membership must have cosigned too.
func (c cosigners) requireLawful(text []byte) ([]byte, error) {
	// The quorum line is the last one; a witness may be named so too.
	end := bytes.LastIndex(text, []byte("quorum "))
	if end < 0 {
		return nil, errors.New("the policy has no quorum line")
	}
	quorum := string(bytes.TrimSpace(text[end+len("quorum "):]))
	var b bytes.Buffer
	b.Write(text[:end])
	names := ""
	for _, w := range c.lawful {
		fmt.Fprintf(&b, "witness %s %s %s\n", w.Name, w.Vkey, w.URL)
		names += " " + w.Name
	}
	fmt.Fprintf(&b, "group lawful-membership %d%s\n", len(c.lawful)/2+1, names)
	if len(c.witnesses) == 0 {
		b.WriteString("quorum lawful-membership\n") // the other quorum is "none", no member of a group
	} else {
		fmt.Fprintf(&b, "group witnessed-and-lawful all %s lawful-membership\n", quorum)
		b.WriteString("quorum witnessed-and-lawful\n")
	}
	if _, err := checkpoint.ParsePolicy(b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// profiles writes a profile for each principal of the kinds that use tally:
// PRINCIPAL.json in dir, as if server were the control plane's address.
func profiles(dir, server string, f founding) error {
	write := func(kind membership.Kind, ids []string) error {
		for _, id := range ids {
			p := &profile{
				Server: server, Cluster: f.cluster, Principal: id, Keys: map[string]string{},
				Genesis: genesisName, AuditPolicy: auditPolicyName, MembershipPolicy: membershipPolicyName,
			}
			for _, use := range usesByKind[kind] {
				name := keyPath(id, use)
				if own, ok := f.keys[id+"/"+string(use)]; ok {
					name = own
				}
				p.Keys[string(use)] = name
			}
			if err := writeProfile(filepath.Join(dir, id+".json"), p); err != nil {
				return err
			}
		}
		return nil
	}
	if err := write(membership.KindTenant, f.tenants); err != nil {
		return err
	}
	if err := write(membership.KindAdmin, f.admins); err != nil {
		return err
	}
	return write(membership.KindAuditor, f.auditors)
}
