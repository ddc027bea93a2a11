package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// decide returns the first rule that allows c, or why none does: the reason of
// the last rule for its tool.
func (p *policy) decide(c call) (ruleID, reason string) {
	reason = fmt.Sprintf("no rule for tool %q", c.tool)
	for _, r := range p.rules {
		if !r.matches(c.tool) {
			continue
		}
		why := r.refuses(c)
		if why == "" {
			r.calls++
			return r.id, ""
		}
		reason = fmt.Sprintf("rule %q: %s", r.id, why)
	}
	return "", reason
}

func (r *rule) matches(tool string) bool {
	if prefix, ok := strings.CutSuffix(r.tool, "*"); ok {
		return strings.HasPrefix(tool, prefix)
	}
	return tool == r.tool
}

// refuses says why the rule does not allow a call of its tool.
func (r *rule) refuses(c call) string {
	for _, name := range r.required {
		if _, ok := c.arguments[name]; !ok {
			return fmt.Sprintf("argument %q is missing", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.arguments)) {
		check, ok := r.arguments[name]
		if !ok {
			if !r.others {
				return fmt.Sprintf("argument %q is not allowed", name)
			}
			continue
		}
		if why := check(c.arguments[name]); why != "" {
			return fmt.Sprintf("argument %q %s", name, why)
		}
	}
	if r.maxCalls > 0 && r.calls == r.maxCalls {
		return fmt.Sprintf("all %d calls are used up", r.maxCalls)
	}
	return ""
}
