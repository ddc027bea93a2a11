package checkpoint

import (
	"fmt"
	"strings"
)

// Quorum says in words which cosignatures the policy asks for: "none", the name
// of a witness, or "k of a, b, c" with groups in parentheses. It is for people;
// programs ask CouldSatisfy.
func (p *Policy) Quorum() string { return p.describe(p.quorum) }

func (p *Policy) describe(name string) string {
	for _, g := range p.groups {
		if g.name != name {
			continue
		}
		members := make([]string, len(g.members))
		for i, m := range g.members {
			members[i] = p.describe(m)
			if strings.Contains(members[i], " of ") {
				members[i] = "(" + members[i] + ")"
			}
		}
		return fmt.Sprintf("%d of %s", g.k, strings.Join(members, ", "))
	}
	return name
}
