package main

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/examples/internal/strictjson"
)

// A policy is an allow-list: what no rule allows is denied.
type policy struct{ rules []*rule }

// A rule allows calls of a tool whose arguments it describes.
type rule struct {
	id        string
	tool      string // exact, or a prefix if it ends in '*'
	arguments map[string]constraint
	required  []string // arguments that must be there, ascending
	others    bool     // arguments without a constraint are allowed
	maxCalls  int      // 0: any number
	calls     int      // allowed so far
}

// A constraint says which values an argument may have. It returns why not, or
// nothing.
type constraint func(v any) string

// A call is one line of the log.
type call struct {
	id, tool  string
	arguments map[string]any
}

// members reads an object with the given members; those ending in '?' may be
// missing.
func members(v any, what string, names ...string) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is not an object", what)
	}
	for _, name := range names {
		if _, ok := m[name]; !ok && !strings.HasSuffix(name, "?") {
			return nil, fmt.Errorf("%s has no %q", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(names, name) && !slices.Contains(names, name+"?") {
			return nil, fmt.Errorf("%s has an unknown member %q", what, name)
		}
	}
	return m, nil
}

func nonEmpty(m map[string]any, name string) (string, error) {
	if s, ok := m[name].(string); ok && s != "" {
		return s, nil
	}
	return "", fmt.Errorf("%q is not a string, or empty", name)
}

func parsePolicy(line []byte) (*policy, error) {
	v, err := strictjson.Parse(line)
	if err != nil {
		return nil, err
	}
	m, err := members(v, "allow-list", "allow")
	if err != nil {
		return nil, err
	}
	list, ok := m["allow"].([]any)
	if !ok {
		return nil, errors.New("\"allow\" is not an array")
	}
	p := &policy{}
	for i, v := range list {
		r, err := parseRule(v)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		if slices.ContainsFunc(p.rules, func(o *rule) bool { return o.id == r.id }) {
			return nil, fmt.Errorf("rule %d: %q is repeated", i+1, r.id)
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

func parseRule(v any) (*rule, error) {
	m, err := members(v, "rule", "id", "tool", "arguments?", "other_arguments?", "max_calls?")
	if err != nil {
		return nil, err
	}
	r := &rule{arguments: map[string]constraint{}}
	if r.id, err = nonEmpty(m, "id"); err != nil {
		return nil, err
	}
	if r.tool, err = nonEmpty(m, "tool"); err != nil {
		return nil, err
	}
	if strings.Contains(strings.TrimSuffix(r.tool, "*"), "*") {
		return nil, fmt.Errorf("tool %q has a '*' that is not at its end", r.tool)
	}
	if v, ok := m["other_arguments"]; ok {
		if r.others, ok = v.(bool); !ok {
			return nil, errors.New("\"other_arguments\" is not a boolean")
		}
	}
	if v, ok := m["max_calls"]; ok {
		f, ok := v.(float64)
		if r.maxCalls = int(f); !ok || f < 1 || f > 1e9 || float64(r.maxCalls) != f {
			return nil, errors.New("\"max_calls\" is not a whole number of at least 1")
		}
	}
	v, ok := m["arguments"]
	if !ok {
		return r, nil
	}
	arguments, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("\"arguments\" is not an object")
	}
	for _, name := range slices.Sorted(maps.Keys(arguments)) {
		c, optional, err := parseConstraint(arguments[name])
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", name, err)
		}
		r.arguments[name] = c
		if !optional {
			r.required = append(r.required, name)
		}
	}
	return r, nil
}

// parseConstraint reads an object with exactly one of the constraints, and
// whether the argument may be missing.
func parseConstraint(v any) (c constraint, optional bool, err error) {
	m, err := members(v, "constraint", "equals?", "one_of?", "prefix?", "path_under?", "at_most?", "optional?")
	if err != nil {
		return nil, false, err
	}
	if v, ok := m["optional"]; ok {
		if optional, ok = v.(bool); !ok {
			return nil, false, errors.New("\"optional\" is not a boolean")
		}
		delete(m, "optional")
	}
	if len(m) != 1 {
		return nil, false, fmt.Errorf("%d constraints, must be one", len(m))
	}
	for name, want := range m {
		c, err = newConstraint(name, want)
	}
	return c, optional, err
}

func newConstraint(name string, want any) (constraint, error) {
	text, isText := want.(string)
	switch name {
	case "equals":
		return oneOf([]any{want}), nil
	case "one_of":
		if list, ok := want.([]any); ok && len(list) > 0 {
			return oneOf(list), nil
		}
		return nil, errors.New("\"one_of\" is not an array, or empty")
	case "prefix":
		if !isText || text == "" {
			return nil, errors.New("\"prefix\" is not a string, or empty")
		}
		return func(v any) string {
			if s, ok := v.(string); ok && strings.HasPrefix(s, text) {
				return ""
			}
			return fmt.Sprintf("does not begin with %q", text)
		}, nil
	case "path_under":
		if !isText || !path.IsAbs(text) || path.Clean(text) != text {
			return nil, errors.New("\"path_under\" is not a clean absolute path")
		}
		return pathUnder(text), nil
	}
	limit, ok := want.(float64)
	if !ok {
		return nil, errors.New("\"at_most\" is not a number")
	}
	return func(v any) string {
		if f, ok := v.(float64); ok && f <= limit {
			return ""
		}
		return fmt.Sprintf("is not a number of at most %v", limit)
	}, nil
}

// oneOf compares canonical forms, so values of any type can be equal.
func oneOf(list []any) constraint {
	var forms []string
	for _, v := range list {
		forms = append(forms, string(strictjson.Append(nil, v)))
	}
	return func(v any) string {
		if slices.Contains(forms, string(strictjson.Append(nil, v))) {
			return ""
		}
		return "is none of the values allowed"
	}
}

// pathUnder wants a clean absolute path below dir: one with ".." in it never
// is, wherever it leads.
func pathUnder(dir string) constraint {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	return func(v any) string {
		s, ok := v.(string)
		if ok && path.Clean(s) == s && (s == dir || strings.HasPrefix(s, prefix)) {
			return ""
		}
		return fmt.Sprintf("is not a clean path under %q", dir)
	}
}

func parseCall(line []byte) (c call, err error) {
	v, err := strictjson.Parse(line)
	if err != nil {
		return c, err
	}
	m, err := members(v, "call", "id", "tool", "arguments")
	if err != nil {
		return c, err
	}
	if c.id, err = nonEmpty(m, "id"); err != nil {
		return c, err
	}
	if c.tool, err = nonEmpty(m, "tool"); err != nil {
		return c, err
	}
	var ok bool
	if c.arguments, ok = m["arguments"].(map[string]any); !ok {
		return c, errors.New("\"arguments\" is not an object")
	}
	return c, nil
}
