//go:build e2e && slow

package e2e

import "testing"

func TestKillNodesLong(t *testing.T) { killNodes(t, 1000) }
