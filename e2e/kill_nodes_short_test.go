//go:build e2e && !slow

package e2e

// killedExecutions is how many executions TestKillNodes asks for.
const killedExecutions = 300
