package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/member"
)

// memberExits has every code of package member.
var memberExits = map[member.Code]int{
	member.CodeTrust:      exitMalformed,
	member.CodeFormat:     exitMalformed,
	member.CodeVersion:    exitMalformed,
	member.CodeOther:      exitOther,
	member.CodeCheckpoint: exitPolicy,
	member.CodeLogKeys:    exitPolicy,
	member.CodeGenesis:    exitMembership,
	member.CodeHistory:    exitMembership,
	member.CodeChange:     exitProof,
	member.CodeLeaf:       exitProof,
}

// memberFlags are the flags of verifier member.
type memberFlags struct {
	policy, genesis, changes string
	absent, json             bool
}

func memberCommand() *cobra.Command {
	var f memberFlags
	cmd := &cobra.Command{
		Use:   "member PRINCIPAL@EPOCH FILE",
		Short: "Check who was a member at an epoch, offline",
		Long: `Check that a membership proof shows a principal, a node for example, as a member
of the cluster at an epoch, and with which keys. No network connection is made.
"tally member show PRINCIPAL@EPOCH -o FILE" fetches such a proof.

A proof can also show that the principal was no member. That ends with exit code
` + strconv.Itoa(exitAbsent) + `, unless --absent says that this is what is expected; then it is the other way
round.

` + exitTable(),
		Example: "  verifier member node-4@7 node-4.tallymember --membership-policy membership.policy --genesis genesis.json",
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return runMember(cmd, f, args[0], args[1]) },
	}
	cmd.Flags().StringVar(&f.policy, "membership-policy", "", "trust policy `FILE` of the membership log (required)")
	cmd.Flags().StringVar(&f.genesis, "genesis", "", "genesis `FILE`: the first entry of the membership log (required)")
	cmd.Flags().StringVar(&f.changes, "changes", "", "`FILE` with the membership log, its entry bundles in a row, to check that every change was lawful")
	cmd.Flags().BoolVar(&f.absent, "absent", false, "expect that the principal is no member")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
	return cmd
}

func runMember(cmd *cobra.Command, f memberFlags, who, name string) error {
	question, err := parseQuestion(who)
	if err != nil {
		return wiring.Usage(cmd, err)
	}
	trust, err := f.trust(cmd)
	if err != nil {
		return err
	}
	if f.changes != "" {
		if question.Changes, err = readChanges(f.changes); err != nil {
			return err
		}
	}
	file, err := readFile("membership proof", name, membership.MaxProofFile)
	if err != nil {
		return err
	}
	report, err := member.Verify(file, trust, question)
	w := cmd.OutOrStdout()
	if f.json {
		if err := printJSON(w, report); err != nil {
			return err
		}
	} else {
		printSteps(w, report.Steps)
		if err == nil {
			printMember(w, report)
		}
	}
	if err == nil && report.Member == f.absent {
		return fail(exitAbsent, "the proof itself is good", "%s", report.Proven[0])
	}
	return err
}

// parseQuestion reads PRINCIPAL@EPOCH.
func parseQuestion(text string) (member.Question, error) {
	principal, number, ok := strings.Cut(text, "@")
	epoch, err := strconv.ParseUint(number, 10, 63)
	if !ok || err != nil || epoch == 0 || principal == "" {
		return member.Question{}, fmt.Errorf("%q is not PRINCIPAL@EPOCH, as in node-4@7", text)
	}
	return member.Question{Principal: principal, Epoch: epoch}, nil
}

// trust reads the files that say what is believed.
func (f *memberFlags) trust(cmd *cobra.Command) (trust member.Trust, err error) {
	if f.policy == "" || f.genesis == "" {
		return trust, wiring.Usage(cmd, fmt.Errorf("--membership-policy and --genesis are required: they say what is believed"))
	}
	if trust.Policy, err = readPolicy("membership policy", f.policy); err != nil {
		return trust, err
	}
	trust.Genesis, err = readFile("genesis", f.genesis, maxGenesis)
	return trust, err
}

// readChanges reads the entries of a membership log from its entry bundles.
func readChanges(name string) ([][]byte, error) {
	b, err := readFile("membership log", name, provenance.MaxBundleSize)
	if err != nil {
		return nil, err
	}
	changes, err := membership.ParseLogFile(b)
	if err != nil {
		return nil, fail(exitMalformed, "join the membership log's tile/entries/… resources in their order", "membership log %q: %w", name, err)
	}
	return changes, nil
}

func printMember(w io.Writer, r *member.Report) {
	verdict := "MEMBER"
	if !r.Member {
		verdict = "NO MEMBER"
	}
	fmt.Fprintf(w, "\nVERIFIED: %s\n\n", verdict)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("principal", "%s", r.Principal)
	row("epoch", "%d of cluster %s; the checkpoint covers %d", r.Epoch, r.Cluster, r.LastEpoch)
	if p := r.As; p != nil {
		row("kind", "%s", p.Kind)
		if p.Kind == membership.KindNode {
			row("node", "name %q, trust level %d, labels %q", p.Name, p.TrustLevel, p.Labels)
		}
		for _, k := range p.Keys {
			row("key", "%s for %s", k.ID(), joinUses(k.Uses))
		}
	}
	row("membership hash", "%s, %d principals", r.MembershipHash, r.MembershipCount)
	row("cluster identity", "%s", r.ClusterIdentityHash)
	row("membership log", "%s, size %d, root hash %s", r.Checkpoint.Origin, r.Checkpoint.Size, r.Checkpoint.RootHash)
	for _, s := range r.Checkpoint.Cosignatures {
		row("", "  cosigned by %s at %s", s.Witness, time.Unix(s.Timestamp, 0).UTC().Format(time.RFC3339))
	}
	printList(w, "Proven", r.Proven)
	printList(w, "Not proven by this proof", r.NotProven)
}

func joinUses(uses []membership.Use) string {
	parts := make([]string, len(uses))
	for i, u := range uses {
		parts[i] = string(u)
	}
	return strings.Join(parts, ", ")
}
