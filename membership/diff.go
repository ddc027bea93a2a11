package membership

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/contract"
)

// A Difference is one thing in which two states of a cluster differ.
type Difference struct {
	// What differs: "principal", "key", "description", "admin_threshold",
	// "node_quorum", "limit", "log" or "protocol_version".
	What string `json:"what"`
	// ID names it: the principal, the limit or the log. Empty where there is one.
	ID string `json:"id,omitempty"`
	// Before and After say in words what it was and is; empty where it is not there.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// String says the difference in words.
func (d Difference) String() string {
	name := strings.ReplaceAll(d.What, "_", " ")
	if d.ID != "" {
		name += fmt.Sprintf(" %q", d.ID)
	}
	switch {
	case d.Before == "":
		return fmt.Sprintf("+ %s: %s", name, d.After)
	case d.After == "":
		return fmt.Sprintf("- %s: %s", name, d.Before)
	}
	return fmt.Sprintf("~ %s: %s; was %s", name, d.After, d.Before)
}

// Diff returns everything in which after differs from s, principals first,
// ascending by id. States with the same cluster identity hash do not differ.
func (s *State) Diff(after *State) []Difference {
	list := diffMembers(s.members, after.members)
	number := func(what string, before, now uint64) {
		if before != now {
			list = append(list, Difference{What: what, Before: fmt.Sprint(before), After: fmt.Sprint(now)})
		}
	}
	number("admin_threshold", s.adminThreshold, after.adminThreshold)
	number("node_quorum", s.nodeQuorum, after.nodeQuorum)
	list = append(list, diffLimits(s.limits, after.limits)...)
	for _, name := range []LogName{LogAudit, LogMembership} {
		before, now := inWords(s.logs.Named(name)), inWords(after.logs.Named(name))
		if before != now {
			list = append(list, Difference{What: "log", ID: string(name), Before: before, After: now})
		}
	}
	if s.protocolVersion != after.protocolVersion {
		list = append(list, Difference{What: "protocol_version", Before: s.protocolVersion, After: after.protocolVersion})
	}
	return list
}

func inWords(l Log) string {
	text := fmt.Sprintf("%q signed by %s", l.Origin, strings.Join(l.Keys, " or "))
	if len(l.ReceiptKeys) > 0 {
		text += ", receipts by " + strings.Join(l.ReceiptKeys, " or ")
	}
	return text
}

// diffMembers walks both lists, which are ascending by id, side by side.
func diffMembers(before, after sorted[*member]) (list []Difference) {
	nextOld, stopOld := iter.Pull(before.from(0))
	defer stopOld()
	nextNew, stopNew := iter.Pull(after.from(0))
	defer stopNew()
	old, haveOld := nextOld()
	now, haveNow := nextNew()
	for haveOld || haveNow {
		switch {
		case !haveNow || haveOld && old.ID < now.ID:
			list = append(list, Difference{What: "principal", ID: old.ID, Before: describePrincipal(old.Principal)})
			list = append(list, diffKeys(old.ID, old.Keys, nil)...)
			old, haveOld = nextOld()
		case !haveOld || now.ID < old.ID:
			list = append(list, Difference{What: "principal", ID: now.ID, After: describePrincipal(now.Principal)})
			list = append(list, diffKeys(now.ID, nil, now.Keys)...)
			now, haveNow = nextNew()
		default:
			if old.leaf != now.leaf {
				list = append(list, diffPrincipal(old.Principal, now.Principal)...)
			}
			old, haveOld = nextOld()
			now, haveNow = nextNew()
		}
	}
	return list
}

// diffPrincipal compares two principals with one id.
func diffPrincipal(before, after Principal) (list []Difference) {
	if before.Kind != after.Kind {
		list = append(list, Difference{What: "principal", ID: after.ID, Before: describePrincipal(before), After: describePrincipal(after)})
	} else if was, is := describeNode(before.Name, before.TrustLevel, before.Labels), describeNode(after.Name, after.TrustLevel, after.Labels); was != is {
		list = append(list, Difference{What: "description", ID: after.ID, Before: was, After: is})
	}
	return append(list, diffKeys(after.ID, before.Keys, after.Keys)...)
}

// diffKeys compares the keys of one principal: by their ids, and then by uses.
func diffKeys(id string, before, after []Key) (list []Difference) {
	find := func(keys []Key, k Key) string {
		i := slices.IndexFunc(keys, func(other Key) bool { return compareKeys(other, k) == 0 })
		if i < 0 {
			return ""
		}
		return describeKey(keys[i])
	}
	for _, k := range before {
		if was, is := describeKey(k), find(after, k); was != is {
			list = append(list, Difference{What: "key", ID: id, Before: was, After: is})
		}
	}
	for _, k := range after {
		if find(before, k) == "" {
			list = append(list, Difference{What: "key", ID: id, After: describeKey(k)})
		}
	}
	return list
}

func diffLimits(before, after contract.ClusterLimits) (list []Difference) {
	for _, l := range []struct {
		name    string
		was, is uint64
	}{
		{"argument_bytes", before.ArgumentBytes, after.ArgumentBytes},
		{"diagnostics_bytes", before.DiagnosticsBytes, after.DiagnosticsBytes},
		{"frames", before.Frames, after.Frames},
		{"gas", before.Gas, after.Gas},
		{"input_bytes", before.InputBytes, after.InputBytes},
		{"max_assigned", before.MaxAssigned, after.MaxAssigned},
		{"memory_pages", before.MemoryPages, after.MemoryPages},
		{"module_bytes", before.ModuleBytes, after.ModuleBytes},
		{"output_bytes", before.OutputBytes, after.OutputBytes},
	} {
		if l.was != l.is {
			list = append(list, Difference{What: "limit", ID: l.name, Before: fmt.Sprint(l.was), After: fmt.Sprint(l.is)})
		}
	}
	return list
}
