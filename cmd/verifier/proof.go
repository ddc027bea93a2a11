package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
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
			return trust, opts, wiring.Usage(cmd, fmt.Errorf("--%s is required: it says what is believed", name))
		}
	}
	if f.execution != "" {
		if _, err := digest.Parse(f.execution); err != nil {
			return trust, opts, wiring.Usage(cmd, fmt.Errorf("--execution %q: an execution id has 64 lowercase hexadecimal characters", f.execution))
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
	var attestations string
	cmd := &cobra.Command{
		Use:   "proof BUNDLE",
		Short: "Check a proof bundle, offline",
		Long: `Check that a proof bundle proves an execution. No network connection is made.

With --attestations the nodes' attestations are written to a folder, for tools
that know in-toto and DSSE and nothing of logs: for each node NODE.intoto.json, the
envelope, and NODE.pem, the public key that signed it, which the membership in the
bundle names.

` + exitTable(),
		Example: "  verifier proof run.tallyproof --policy audit.policy --membership-policy membership.policy --genesis genesis.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := f.verify(cmd, args[0])
			if report == nil {
				return err
			}
			if attestations != "" && proven(err) {
				if err := writeAttestations(attestations, report); err != nil {
					return err
				}
			}
			w := cmd.OutOrStdout()
			if f.json {
				return firstError(err, printJSON(w, report))
			}
			printSteps(w, report.Steps)
			if proven(err) {
				printSummary(w, report)
			}
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&attestations, "attestations", "", "`FOLDER` to write the attestations and the nodes' public keys to")
	return cmd
}

// proven reports whether everything in a bundle was proven, be it that there is
// no result.
func proven(err error) bool { return err == nil || errors.Is(err, verifier.CodeNoResult) }

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
