package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
)

// printSummary prints what a bundle proves.
func printSummary(w io.Writer, r *verifier.Report) {
	e := r.Execution
	verdict := "VERIFIED"
	if !r.Verified {
		verdict = "NO RESULT, and that is proven"
	}
	fmt.Fprintf(w, "\n%s\n\n", verdict)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("execution", "%s", e.ID)
	row("state", "%s", e.State)
	row("cluster", "%s, epoch %d, membership hash %s", r.Cluster, e.Epoch, e.MembershipHash)
	row("tenant", "%s", e.Tenant)
	row("contract", "%s %s, hash %s", e.ContractName, e.ContractVersion, e.ContractHash)
	row("module", "%s", e.ModuleDigest)
	row("input", "%s", e.InputDigest)
	for _, p := range e.Parents {
		output := "output " + p.OutputDigest
		if p.OutputDigest == "" {
			output = "nobody attested to its output"
		}
		row("parent", "%s, %s", p.ID, output)
	}
	if o := e.Outcome; e.State == provenance.StateComplete {
		row("outcome", "%s", outcomeText(o))
		row("output", "%s", o.OutputDigest)
		row("result", "%s", e.ResultDigest)
	}
	row("schedule", "%s", e.ScheduleHash)
	for _, n := range e.Nodes {
		row("node", "%s, attestation %s at index %d", n.ID, n.AttestationDigest, n.Index)
	}
	for _, d := range e.Dissent {
		how := "alone with its result"
		if d.Void {
			how = "attested twice, and differently"
		}
		row("dissent", "%s, %s: %s, output %s; attestation %s at index %d", d.ID, how, outcomeText(d.Outcome), d.Outcome.OutputDigest,
			d.AttestationDigest, d.Index)
	}
	for _, id := range e.PassedOver {
		row("passed over", "%s: a later attempt began, and no attestation of it is here", id)
	}
	if e.ExecutionProof != "" {
		row("execution proof", "%s", e.ExecutionProof)
	}
	row("chain", "%s, %d records", e.ChainHead, e.ChainLength)
	for _, a := range r.Ancestors {
		row("ancestor", "%s, %s, %s, output %s", a.ID, a.ContractName+" "+a.ContractVersion, outcomeText(a.Outcome), a.Outcome.OutputDigest)
	}
	for _, c := range []struct {
		name string
		c    *verifier.Checkpoint
	}{{"audit root", r.RequestCheckpoint}, {"audit log", r.AuditCheckpoint}, {"membership log", r.MembershipCheckpoint}} {
		row(c.name, "%s, size %d, root hash %s", c.c.Origin, c.c.Size, c.c.RootHash)
		for _, s := range c.c.Cosignatures {
			row("", "  cosigned by %s at %s", s.Witness, time.Unix(s.Timestamp, 0).UTC().Format(time.RFC3339))
		}
	}
	printList(w, "Proven", r.Proven)
	printList(w, "Not proven by a bundle", r.NotProven)
}

// outcomeText says in a few words how a run ended.
func outcomeText(o contract.Outcome) string {
	var b strings.Builder
	b.WriteString(string(o.Kind))
	if o.ExitCode != 0 {
		fmt.Fprintf(&b, " %d", o.ExitCode)
	}
	fmt.Fprintf(&b, ", %d bytes of output", o.OutputLength)
	if o.Gas != nil {
		fmt.Fprintf(&b, ", gas %d", *o.Gas)
	}
	return b.String()
}

func printList(w io.Writer, title string, lines []string) {
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, line := range lines {
		fmt.Fprintf(w, "  - %s\n", line)
	}
}
