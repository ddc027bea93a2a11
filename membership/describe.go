package membership

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/contract"
)

// Describe says in words what a signer of c signs, one statement a line. The
// last lines name what the change is bound to.
func (c Change) Describe() []string { return c.describe(nil) }

// Describe says in words what a signer of c signs, with what it replaces in s,
// the state before. It does not check the change.
func (s *State) Describe(c Change) []string { return c.describe(s) }

func (c Change) describe(before *State) []string {
	lines := c.Effect.describe(before)
	lines = append(lines,
		fmt.Sprintf("cluster %q, epoch %d, protocol version %s", c.Cluster, c.Epoch, c.ProtocolVersion),
		fmt.Sprintf("%d principals afterwards, membership hash %s", c.MembershipCount, c.MembershipHash),
		fmt.Sprintf("cluster identity hash %s", c.ClusterIdentityHash))
	if c.Effect.Kind() == KindGenesis {
		return append(lines, "nothing comes before: whoever accepts this trusts every key in it")
	}
	return append(lines, fmt.Sprintf("follows payload %s", c.Previous))
}

func (e Founding) describe(*State) []string {
	lines := []string{
		fmt.Sprintf("begin a new cluster with %d principals; %s must sign each change",
			len(e.Principals), plural(e.AdminThreshold, "admin")),
		fmt.Sprintf("executions need %s", plural(e.NodeQuorum, "member node")),
	}
	for _, p := range e.Principals {
		lines = append(lines, "with "+describePrincipal(p))
		lines = append(lines, describeKeys(p.Keys)...)
	}
	for _, name := range []LogName{LogAudit, LogMembership} {
		log := e.Logs.Named(name)
		lines = append(lines, describeLog(fmt.Sprintf("%s log %q is signed", name, log.Origin), log.Keys, log.ReceiptKeys)...)
	}
	return append(lines, describeLimits(e.Limits)...)
}

func (e AddPrincipal) describe(*State) []string {
	return append([]string{"add " + describePrincipal(e.Principal)}, describeKeys(e.Principal.Keys)...)
}

func (e RemovePrincipal) describe(before *State) []string {
	lines := []string{fmt.Sprintf("remove %q; every key that it ever had is revoked", e.ID)}
	if p, ok := known(before, e.ID); ok {
		lines = append(lines, "it is "+describePrincipal(p))
		lines = append(lines, describeKeys(p.Keys)...)
	}
	return lines
}

func (e UpdatePrincipal) describe(before *State) []string {
	lines := []string{fmt.Sprintf("describe node %q: %s", e.ID, describeNode(e.Name, e.TrustLevel, e.Labels))}
	if p, ok := known(before, e.ID); ok {
		lines = append(lines, "it was: "+describeNode(p.Name, p.TrustLevel, p.Labels))
	}
	return lines
}

func (e RotateKey) describe(before *State) []string {
	var lines []string
	switch {
	case e.Add != nil && e.Remove != "":
		lines = []string{fmt.Sprintf("replace a key of %q; what the old key signed stays good", e.ID)}
	case e.Add != nil:
		lines = []string{fmt.Sprintf("add a key to %q", e.ID)}
	default:
		lines = []string{fmt.Sprintf("remove a key of %q and revoke it", e.ID)}
	}
	if p, ok := known(before, e.ID); ok {
		lines[0] += fmt.Sprintf(" (kind %s, %s)", p.Kind, plural(uint64(len(p.Keys)), "key"))
	}
	if e.Add != nil {
		lines = append(lines, "  new "+describeKey(*e.Add))
	}
	if e.Remove != "" {
		old := "key " + e.Remove
		if p, ok := known(before, e.ID); ok {
			if k, ok := p.Key(e.Remove); ok {
				old = describeKey(k)
			}
		}
		lines = append(lines, "  old "+old)
	}
	return lines
}

func (e SetAdminThreshold) describe(before *State) []string {
	line := fmt.Sprintf("from now on %s must sign each change", plural(e.Threshold, "admin"))
	if before != nil {
		line += fmt.Sprintf(" (so far %d, of %d)", before.adminThreshold, before.changers)
	}
	return []string{line}
}

func (e SetNodeQuorum) describe(before *State) []string {
	line := fmt.Sprintf("executions need %s", plural(e.Quorum, "member node"))
	if before != nil {
		line += fmt.Sprintf(" (so far %d; %d are members)", before.nodeQuorum, before.nodes)
	}
	return []string{line}
}

func (e SetClusterLimits) describe(before *State) []string {
	lines := describeLimits(e.Limits)
	if before == nil {
		return lines
	}
	for _, d := range diffLimits(before.limits, e.Limits) {
		lines = append(lines, fmt.Sprintf("so far %s %s", strings.ReplaceAll(d.ID, "_", " "), d.Before))
	}
	return lines
}

func (e SetProtocolVersion) describe(before *State) []string {
	line := fmt.Sprintf("move to protocol version %s; programs that do not know it stop", e.Version)
	if before != nil {
		line += fmt.Sprintf(" (so far %s)", before.protocolVersion)
	}
	return []string{line}
}

func (e SetLogKeys) describe(before *State) []string {
	what, old := fmt.Sprintf("%s log", e.Log), Log{}
	if before != nil {
		old = before.logs.Named(e.Log)
		what = fmt.Sprintf("%s log %q", e.Log, old.Origin)
	}
	lines := describeLog(what+" is from now on signed only", e.Keys, e.ReceiptKeys)
	for _, list := range []struct {
		what        string
		before, now []string
	}{{"no longer: ", old.Keys, e.Keys}, {"no longer, receipts: ", old.ReceiptKeys, e.ReceiptKeys}} {
		for _, k := range list.before {
			if !slices.Contains(list.now, k) {
				lines = append(lines, "  "+list.what+k)
			}
		}
	}
	return lines
}

func (e ConfirmSuccessorLog) describe(before *State) []string {
	line := fmt.Sprintf("the %s log ends and is continued by %q", e.Log, e.NewOrigin)
	if before != nil {
		line = fmt.Sprintf("the %s log %q ends and is continued by %q", e.Log, before.logs.Named(e.Log).Origin, e.NewOrigin)
	}
	lines := append([]string{line}, describeLog("the new log is signed", e.NewKeys, e.NewReceiptKeys)...)
	lines = append(lines, "last checkpoint of the old log:")
	for text := range strings.Lines(e.Checkpoint) {
		// Quoted: the text is anybody's and goes to a terminal.
		lines = append(lines, "  "+strconv.Quote(strings.TrimSuffix(text, "\n")))
	}
	return lines
}

func known(s *State, id string) (Principal, bool) {
	if s == nil {
		return Principal{}, false
	}
	return s.Principal(id)
}

func describePrincipal(p Principal) string {
	line := fmt.Sprintf("%s %q, %s", p.Kind, p.ID, plural(uint64(len(p.Keys)), "key"))
	if p.Kind == KindNode {
		line += ": " + describeNode(p.Name, p.TrustLevel, p.Labels)
	}
	return line
}

func describeNode(name string, trustLevel uint64, labels map[string]string) string {
	parts := []string{"no name"}
	if name != "" {
		parts[0] = fmt.Sprintf("name %q", name)
	}
	parts = append(parts, fmt.Sprintf("trust level %d", trustLevel))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, fmt.Sprintf("label %q = %q", key, labels[key]))
	}
	if len(labels) == 0 {
		parts = append(parts, "no labels")
	}
	return strings.Join(parts, ", ")
}

func describeKeys(keys []Key) []string {
	lines := make([]string, len(keys))
	for i, k := range keys {
		lines[i] = "  " + describeKey(k)
	}
	return lines
}

func describeKey(k Key) string {
	uses := make([]string, len(k.Uses))
	for i, u := range k.Uses {
		uses[i] = inASCII(string(u))
	}
	return fmt.Sprintf("key %s for %s", k.ID(), strings.Join(uses, ", "))
}

func describeLog(what string, keys, receiptKeys []string) []string {
	lines := []string{what + " by:"}
	for _, k := range keys {
		lines = append(lines, "  "+inASCII(k))
	}
	for _, k := range receiptKeys {
		lines = append(lines, "  receipts only: "+inASCII(k))
	}
	return lines
}

// inASCII returns printable ASCII as it is and quotes anything else: what the
// rules have not looked at yet may hold line breaks or commands for a terminal.
func inASCII(text string) string {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return strconv.QuoteToASCII(text)
		}
	}
	return text
}

func describeLimits(l contract.ClusterLimits) []string {
	return []string{
		"contracts may ask for at most:",
		fmt.Sprintf("  gas %d, frames %d, memory pages %d, nodes assigned %d", l.Gas, l.Frames, l.MemoryPages, l.MaxAssigned),
		fmt.Sprintf("  bytes: module %d, arguments %d, input %d, output %d, diagnostics %d",
			l.ModuleBytes, l.ArgumentBytes, l.InputBytes, l.OutputBytes, l.DiagnosticsBytes),
	}
}

func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
