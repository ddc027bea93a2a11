package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
)

// trustFlags are what proof and replay have in common.
type trustFlags struct {
	auditPolicy, membershipPolicy, genesis string
	execution                              string
	changes                                string
	json                                   bool
}

func (f *trustFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.auditPolicy, "policy", "", "trust policy `FILE` of the audit log (required)")
	cmd.Flags().StringVar(&f.membershipPolicy, "membership-policy", "", "trust policy `FILE` of the membership log (required)")
	cmd.Flags().StringVar(&f.genesis, "genesis", "", "genesis `FILE`: the first entry of the membership log (required)")
	cmd.Flags().StringVar(&f.execution, "execution", "", "accept only the bundle of the execution with this `ID`")
	cmd.Flags().StringVar(&f.changes, "changes", "", "`FILE` with the membership log, its entry bundles in a row, for bundles that leave it out")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
}

// trust reads the files that the flags name.
func (f *trustFlags) trust(cmd *cobra.Command) (verifier.Trust, verifier.Options, error) {
	var trust verifier.Trust
	opts := verifier.Options{Execution: f.execution}
	for name, value := range map[string]string{"policy": f.auditPolicy, "membership-policy": f.membershipPolicy, "genesis": f.genesis} {
		if value == "" {
			return trust, opts, usage(cmd, fmt.Errorf("--%s is required: it says what is believed", name))
		}
	}
	if f.execution != "" {
		if _, err := digest.Parse(f.execution); err != nil {
			return trust, opts, usage(cmd, fmt.Errorf("--execution %q: an execution id has 64 lowercase hexadecimal characters", f.execution))
		}
	}
	var err error
	if trust.AuditPolicy, err = readPolicy("audit policy", f.auditPolicy); err != nil {
		return trust, opts, err
	}
	if trust.MembershipPolicy, err = readPolicy("membership policy", f.membershipPolicy); err != nil {
		return trust, opts, err
	}
	if trust.Genesis, err = readFile("genesis", f.genesis, maxGenesis); err != nil {
		return trust, opts, err
	}
	if f.changes != "" {
		if opts.Changes, err = readChanges(f.changes); err != nil {
			return trust, opts, err
		}
	}
	return trust, opts, nil
}

// verify verifies the bundle in a file.
func (f *trustFlags) verify(cmd *cobra.Command, name string) (*verifier.Report, error) {
	trust, opts, err := f.trust(cmd)
	if err != nil {
		return nil, err
	}
	file, err := readFile("bundle", name, provenance.MaxBundleSize)
	if err != nil {
		return nil, err
	}
	return verifier.VerifyBundle(file, trust, opts)
}

func proofCommand() *cobra.Command {
	var f trustFlags
	cmd := &cobra.Command{
		Use:   "proof BUNDLE",
		Short: "Check a proof bundle, offline",
		Long: `Check that a proof bundle proves an execution. No network connection is made.

` + exitTable(),
		Example: "  verifier proof run.tallyproof --policy audit.policy --membership-policy membership.policy --genesis genesis.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := f.verify(cmd, args[0])
			if report == nil {
				return err
			}
			w := cmd.OutOrStdout()
			if f.json {
				return firstError(err, printJSON(w, report))
			}
			printSteps(w, report.Steps)
			if err == nil {
				printSummary(w, report)
			}
			return err
		},
	}
	f.register(cmd)
	return cmd
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func printSteps(w io.Writer, steps []verifier.Step) {
	for i, step := range steps {
		verdict := "ok"
		if !step.OK {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%d. %-12s %-6s  %s\n", i+1, step.Name, verdict, step.Title)
		fmt.Fprintf(w, "                        %s\n", step.Detail)
	}
}

func printSummary(w io.Writer, r *verifier.Report) {
	e := r.Execution
	fmt.Fprintf(w, "\nVERIFIED\n\n")
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("execution", "%s", e.ID)
	row("cluster", "%s, epoch %d, membership hash %s", r.Cluster, e.Epoch, e.MembershipHash)
	row("tenant", "%s", e.Tenant)
	row("contract", "%s %s, hash %s", e.ContractName, e.ContractVersion, e.ContractHash)
	row("module", "%s", e.ModuleDigest)
	row("input", "%s", e.InputDigest)
	for _, p := range e.Parents {
		row("parent", "%s, output %s", p.ID, p.OutputDigest)
	}
	outcome := string(e.Outcome.Kind)
	if e.Outcome.ExitCode != 0 {
		outcome += fmt.Sprintf(" %d", e.Outcome.ExitCode)
	}
	row("outcome", "%s, %d bytes of output", outcome, e.Outcome.OutputLength)
	row("output", "%s", e.Outcome.OutputDigest)
	row("result", "%s", e.ResultDigest)
	row("schedule", "%s", e.ScheduleHash)
	for _, n := range e.Nodes {
		row("node", "%s, attestation %s at index %d", n.ID, n.AttestationDigest, n.Index)
	}
	row("execution proof", "%s", e.ExecutionProof)
	row("chain", "%s, %d records", e.ChainHead, e.ChainLength)
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

func printList(w io.Writer, title string, lines []string) {
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, line := range lines {
		fmt.Fprintf(w, "  - %s\n", line)
	}
}
