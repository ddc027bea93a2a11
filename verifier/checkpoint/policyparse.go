package checkpoint

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of a policy file. The specification asks for 32 logs, witnesses and
// groups at least.
const (
	// MaxPolicySize bounds the file, in bytes.
	MaxPolicySize = 1 << 20
	// MaxPolicyLogs is generous, since a witness's policy lists every log that it
	// cosigns for.
	MaxPolicyLogs = 4096
	// MaxPolicyWitnesses stays below MaxSignatures, so that one note can carry
	// the cosignatures of all witnesses.
	MaxPolicyWitnesses = 64
	// MaxPolicyGroups is what 64 witnesses in groups of two can need.
	MaxPolicyGroups = 64
)

// ParsePolicy reads a policy file according to c2sp.org/tlog-policy. Whatever
// the specification does not allow is an error, a *PolicyError that names the
// line. A policy may have any number of logs, of any origins.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicySize {
		return nil, &PolicyError{Reason: fmt.Sprintf("%d bytes, at most %d", len(text), MaxPolicySize)}
	}
	p := &policyParser{names: map[string]bool{}, keys: map[string]bool{}, ids: map[string]bool{}, members: map[string]bool{}}
	for number := 1; len(text) > 0; number++ {
		line, rest, terminated := bytes.Cut(text, []byte("\n"))
		err := checkPolicyChars(line)
		if err == nil && !terminated {
			err = fmt.Errorf("the last line is not terminated by a newline")
		}
		if err == nil {
			err = p.line(string(line))
		}
		if err != nil {
			return nil, &PolicyError{Line: number, Reason: err.Error()}
		}
		text = rest
	}
	if p.quorum == "" {
		return nil, &PolicyError{Reason: "no quorum line"}
	}
	return &p.Policy, nil
}

// policyParser collects a policy line by line.
type policyParser struct {
	Policy
	names   map[string]bool // defined witnesses and groups
	keys    map[string]bool // public keys seen, by role and key material
	ids     map[string]bool // key names and IDs seen, by role
	members map[string]bool // names that are a member of some group
}

// checkPolicyChars enforces "Character set": tab and newline are the only
// control characters; octets above 0x7F are opaque.
func checkPolicyChars(line []byte) error {
	for i, c := range line {
		if c < 0x20 && c != '\t' || c == 0x7F {
			return fmt.Errorf("octet %#02x in column %d is not allowed", c, i+1)
		}
	}
	return nil
}

// line reads one line without its newline.
func (p *policyParser) line(line string) error {
	// Spaces and tabs only: strings.Fields would split at Unicode spaces too.
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return nil
	}
	keyword, args := fields[0], fields[1:]
	switch keyword {
	case "log":
		return p.log(args)
	case "witness":
		return p.witness(args)
	case "group":
		return p.group(args)
	case "quorum":
		return p.setQuorum(args)
	}
	return fmt.Errorf("%.40q is none of log, witness, group, quorum", keyword)
}

// log reads "log <vkey> [<url>]".
func (p *policyParser) log(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("a log line is: log <vkey> [<url>]")
	}
	if len(p.logs) == MaxPolicyLogs {
		return fmt.Errorf("more than %d logs", MaxPolicyLogs)
	}
	key, err := ParseLogVkey(args[0])
	if err != nil {
		return err
	}
	if err := p.addKey("log", key); err != nil {
		return err
	}
	l := LogKey{Vkey: args[0], Origin: key.name, Key: key}
	if len(args) == 2 {
		l.URL = args[1]
	}
	p.logs = append(p.logs, l)
	return nil
}

// witness reads "witness <name> <vkey> [<url>]".
func (p *policyParser) witness(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return fmt.Errorf("a witness line is: witness <name> <vkey> [<url>]")
	}
	if len(p.witnesses) == MaxPolicyWitnesses {
		return fmt.Errorf("more than %d witnesses", MaxPolicyWitnesses)
	}
	if err := p.define(args[0]); err != nil {
		return err
	}
	key, err := ParseCosignerVkey(args[1])
	if err != nil {
		return err
	}
	if err := p.addKey("witness", key); err != nil {
		return err
	}
	w := Witness{Name: args[0], Vkey: args[1], Key: key}
	if len(args) == 3 {
		w.URL = args[2]
	}
	p.witnesses = append(p.witnesses, w)
	return nil
}

// group reads "group <name> all|any|<k> <name>...".
func (p *policyParser) group(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("a group line is: group <name> all|any|<k> <members>")
	}
	if len(p.groups) == MaxPolicyGroups {
		return fmt.Errorf("more than %d groups", MaxPolicyGroups)
	}
	g := group{name: args[0], members: args[2:]}
	var err error
	if g.k, err = threshold(args[1], len(g.members)); err != nil {
		return err
	}
	// The members come before the group's own name, which none of them can be.
	for _, member := range g.members {
		if !p.names[member] {
			return fmt.Errorf("member %.80q is not defined on an earlier line", member)
		}
		if p.members[member] {
			return fmt.Errorf("%.80q is a group member already", member)
		}
		p.members[member] = true
	}
	if err := p.define(g.name); err != nil {
		return err
	}
	p.groups = append(p.groups, g)
	return nil
}

// threshold reads the k of a group with n members.
func threshold(s string, n int) (int, error) {
	switch s {
	case "any":
		return 1, nil
	case "all":
		return n, nil
	}
	k, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(k) != s || k < 1 || k > n {
		return 0, fmt.Errorf("threshold %.40q is not all, any, or a decimal from 1 to the number of members, %d", s, n)
	}
	return k, nil
}

// setQuorum reads "quorum <name>".
func (p *policyParser) setQuorum(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("a quorum line is: quorum <name>")
	}
	if p.quorum != "" {
		return fmt.Errorf("a second quorum line")
	}
	if args[0] != quorumNone && !p.names[args[0]] {
		return fmt.Errorf("quorum %.80q is not defined on an earlier line", args[0])
	}
	p.quorum = args[0]
	return nil
}

// define enters a name into the namespace that witnesses and groups share.
func (p *policyParser) define(name string) error {
	if name == quorumNone {
		return fmt.Errorf("the name %q is predefined", name)
	}
	if p.names[name] {
		return fmt.Errorf("the name %.80q is defined already", name)
	}
	p.names[name] = true
	return nil
}

// addKey refuses a second line with the same public key for the same role, even
// under another name or signature type. It also refuses two keys that a note
// could not tell apart.
func (p *policyParser) addKey(role string, key *Key) error {
	material := role + "\n" + string(key.public)
	if p.keys[material] {
		return fmt.Errorf("duplicate %s: the public key of %.80q is on an earlier line", role, key.name)
	}
	id := fmt.Sprintf("%s\n%s\n%08x", role, key.name, key.id)
	if p.ids[id] {
		return fmt.Errorf("another %s has the key name %.80q and key ID %08x", role, key.name, key.id)
	}
	p.keys[material], p.ids[id] = true, true
	return nil
}

// FormatPolicy writes a policy file for the given logs and witnesses that is
// satisfied by any k of the witnesses, or without any if k is 0. Of a log it
// uses Vkey and URL, of a witness also Name.
func FormatPolicy(logs []LogKey, witnesses []Witness, k int) ([]byte, error) {
	const groupName = "quorum-of-witnesses"
	var b bytes.Buffer
	line := func(fields ...string) {
		b.WriteString(strings.TrimRight(strings.Join(fields, " "), " ") + "\n")
	}
	for _, l := range logs {
		line("log", l.Vkey, l.URL)
	}
	for _, w := range witnesses {
		line("witness", w.Name, w.Vkey, w.URL)
	}
	if k == 0 {
		line("quorum", quorumNone)
	} else {
		fields := []string{"group", groupName, strconv.Itoa(k)}
		for _, w := range witnesses {
			fields = append(fields, w.Name)
		}
		line(fields...)
		line("quorum", groupName)
	}
	p, err := ParsePolicy(b.Bytes())
	if err != nil {
		return nil, err
	}
	if !p.lists(logs, witnesses) {
		return nil, &PolicyError{Reason: "a name, verifier key or URL cannot be written: it is empty or holds white space"}
	}
	return b.Bytes(), nil
}

// lists reports whether p has exactly these logs and witnesses.
func (p *Policy) lists(logs []LogKey, witnesses []Witness) bool {
	return slices.EqualFunc(p.logs, logs, func(a, b LogKey) bool {
		return a.Vkey == b.Vkey && a.URL == b.URL
	}) && slices.EqualFunc(p.witnesses, witnesses, func(a, b Witness) bool {
		return a.Name == b.Name && a.Vkey == b.Vkey && a.URL == b.URL
	})
}
