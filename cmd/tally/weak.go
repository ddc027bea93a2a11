package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// What a cluster needs to be safe from any one of its people and machines.
const (
	leastAdmins    = 2
	leastWitnesses = 3
)

// A setUp is what `tally cluster init` is about to make.
type setUp struct {
	*founding
	witnesses []checkpoint.Witness
	lawful    []checkpoint.Witness // cosigners of lawful membership
	quorum    int                  // witnesses that must cosign
	server    string               // URL of the control plane
}

// check refuses what cannot work, or what nobody can mean.
func (s *setUp) check() error {
	if s.quorum < 0 || s.quorum > len(s.witnesses) || s.quorum == 0 && len(s.witnesses) > 0 {
		return fmt.Errorf("a quorum of %d of %d witnesses cannot be", s.quorum, len(s.witnesses))
	}
	seen := map[string]string{} // what a public key is, by its bytes
	note := func(what string, public []byte) error {
		if other, ok := seen[string(public)]; ok {
			return withHint(fmt.Errorf("%s and %s have the same key: one who holds it is both", other, what), "make a key for each")
		}
		seen[string(public)] = what
		return nil
	}
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		log := s.logs.Named(name)
		for _, vkey := range slices.Concat(log.Keys, log.ReceiptKeys) {
			public, err := vkeyBytes(vkey)
			if err != nil {
				return fmt.Errorf("%s log: %w", name, err)
			}
			if err := note("the log key "+vkey, public); err != nil {
				return err
			}
		}
	}
	for _, w := range slices.Concat(s.witnesses, s.lawful) {
		if err := note(fmt.Sprintf("the witness %q", w.Name), w.Key.PublicKey()); err != nil {
			return err
		}
	}
	return nil
}

// vkeyBytes returns the public key of a log's vkey.
func vkeyBytes(vkey string) ([]byte, error) {
	_, encoded, _ := bytes.Cut([]byte(vkey), []byte("+"))
	_, encoded, _ = bytes.Cut(encoded, []byte("+"))
	raw, err := base64.StdEncoding.DecodeString(string(encoded))
	if err != nil || len(raw) < 2 {
		return nil, fmt.Errorf("key %q is not a vkey", vkey)
	}
	return raw[1:], nil
}

// A weakness is a way in which a set-up looks safe and is not.
type weakness struct {
	name string // for --accept
	what string
	hint string
}

// The weaknesses, by name.
const (
	weakOneAdmin       = "one-admin"
	weakLowThreshold   = "low-threshold"
	weakNoSpareAdmin   = "no-spare-admin"
	weakFewWitnesses   = "few-witnesses"
	weakWitnessQuorum  = "witness-quorum"
	weakOwnWitnessHost = "own-witness"
)

func weaknessNames() []string {
	return []string{weakOneAdmin, weakLowThreshold, weakNoSpareAdmin, weakFewWitnesses, weakWitnessQuorum, weakOwnWitnessHost}
}

// weaknesses returns what is weak about a set-up, the worst first.
func (s *setUp) weaknesses() (list []weakness) {
	add := func(name, hint, what string, args ...any) {
		list = append(list, weakness{name, fmt.Sprintf(what, args...), hint})
	}
	admins, witnesses := len(s.admins), len(s.witnesses)
	switch {
	case admins < leastAdmins:
		add(weakOneAdmin, "name at least three with --admin", "one admin governs alone: who steals that key has the cluster, and who loses it has lost it")
	case s.threshold == 1:
		add(weakLowThreshold, "take at least 2 as --admin-threshold", "a threshold of 1 with %d admins: each could remove the others", admins)
	case s.threshold == uint64(admins):
		add(weakNoSpareAdmin, "name one more --admin than the threshold asks for", "all %d admins must sign each change: one lost key, and nothing can be changed any more", admins)
	}
	switch {
	case witnesses == 0:
		add(weakFewWitnesses, "name at least three with --witness", "no witness: nothing would keep the logs from showing two histories")
	case witnesses < leastWitnesses:
		add(weakFewWitnesses, "name at least three with --witness", "%d of the %d witnesses that let one be away and one be wrong", witnesses, leastWitnesses)
	}
	if witnesses > 0 && 2*s.quorum <= witnesses {
		add(weakWitnessQuorum, "take more than half as --witness-quorum", "a quorum of %d of %d witnesses lets two histories be witnessed", s.quorum, witnesses)
	}
	if own := s.ownWitnesses(); own > 0 && own >= s.quorum {
		add(weakOwnWitnessHost, "take witnesses of independent operators", "%d witnesses are on the control plane's own host: its operator alone satisfies the policy", own)
	}
	return list
}

// ownWitnesses counts the witnesses on the control plane's host. On loopback
// everything is, which is plain to see and said nowhere to be safe.
func (s *setUp) ownWitnesses() (n int) {
	server, err := url.Parse(s.server)
	if err != nil || loopbackHost(server.Hostname()) {
		return 0
	}
	for _, w := range s.witnesses {
		if u, err := url.Parse(w.URL); err == nil && strings.EqualFold(u.Hostname(), server.Hostname()) {
			n++
		}
	}
	return n
}

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// acceptance says which weaknesses the founder takes on.
type acceptance struct {
	names []string
	all   bool
}

// refuse returns the weaknesses that are taken on, or an error that names those
// that are not.
func (a *acceptance) refuse(list []weakness) (accepted []weakness, err error) {
	for _, name := range a.names {
		if !slices.Contains(weaknessNames(), name) {
			return nil, fmt.Errorf("%q is no weakness, known are %s", name, strings.Join(weaknessNames(), ", "))
		}
	}
	var reasons, hints []string
	for _, w := range list {
		if a.all || slices.Contains(a.names, w.name) {
			accepted = append(accepted, w)
			continue
		}
		reasons = append(reasons, fmt.Sprintf("%s (%s)", w.what, w.name))
		hints = append(hints, w.hint)
	}
	if reasons == nil {
		return accepted, nil
	}
	return nil, withHint(errors.New("the set-up is weak: "+strings.Join(reasons, "; ")),
		strings.Join(hints, "; ")+"; or take it on with --accept NAME, or --development for a cluster that is for nothing else")
}

func namesOf(list []weakness) []string {
	names := []string{}
	for _, w := range list {
		names = append(names, w.name)
	}
	return names
}

// parseKeys reads PRINCIPAL/USE=FILE-or-URI.
func (f *founding) parseKeys(specs []string) (map[string]string, error) {
	keys := map[string]string{}
	for _, spec := range specs {
		whose, name, ok := strings.Cut(spec, "=")
		principal, use, named := strings.Cut(whose, "/")
		if !ok || !named || name == "" {
			return nil, fmt.Errorf("key %q is not PRINCIPAL/USE=FILE or =URI", spec)
		}
		if !f.hasKey(principal, membership.Use(use)) {
			return nil, fmt.Errorf("key %q: no principal %q with a key for %q is named", spec, principal, use)
		}
		if !inKMS(name) {
			// Profiles name files relative to their own folder.
			var err error
			if name, err = filepath.Abs(name); err != nil {
				return nil, err
			}
		}
		keys[whose] = name
	}
	return keys, nil
}

// hasKey reports whether a principal is named that gets a key with this use.
func (f *founding) hasKey(principal string, use membership.Use) bool {
	for kind, ids := range map[membership.Kind][]string{
		membership.KindAdmin: f.admins, membership.KindNode: f.nodes, membership.KindTenant: f.tenants, membership.KindAuditor: f.auditors,
	} {
		if slices.Contains(ids, principal) && slices.Contains(usesByKind[kind], use) {
			return true
		}
	}
	return false
}
