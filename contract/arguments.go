package contract

import "strings"

// maxArguments bounds argv, and the environment, by number.
const maxArguments = 64

// argumentBytes is what argument_bytes limits: the bytes of all arguments and
// of all names and values, without separators.
func (c *Contract) argumentBytes() uint64 {
	n := 0
	for _, arg := range c.Argv {
		n += len(arg)
	}
	for _, pair := range c.Environment {
		n += len(pair[0]) + len(pair[1])
	}
	return uint64(n)
}

func (c *Contract) checkArguments() error {
	if len(c.Argv) > maxArguments || len(c.Environment) > maxArguments {
		return refuse(RefusedArguments, "%d arguments and %d variables, want at most %d of each", len(c.Argv), len(c.Environment), maxArguments)
	}
	if n := c.argumentBytes(); n > MaxArgumentBytes {
		return refuse(RefusedArguments, "argv and environment have %d bytes, want at most %d", n, MaxArgumentBytes)
	}
	for _, arg := range c.Argv {
		if strings.ContainsRune(arg, 0) {
			return refuse(RefusedArguments, "argument %q contains NUL", arg)
		}
	}
	seen := make(map[string]bool, len(c.Environment))
	for _, pair := range c.Environment {
		name, value := pair[0], pair[1]
		switch {
		case !validVariable(name):
			return refuse(RefusedArguments, "variable name %q, want [A-Za-z_][A-Za-z0-9_]*", name)
		case seen[name]:
			return refuse(RefusedArguments, "variable %q occurs twice", name)
		case strings.ContainsRune(value, 0):
			return refuse(RefusedArguments, "value of variable %q contains NUL", name)
		}
		seen[name] = true
	}
	return nil
}

func validVariable(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if digit := c >= '0' && c <= '9'; !letter && (!digit || i == 0) {
			return false
		}
	}
	return name != ""
}
