package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func nodesCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes of the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			res, err := c.Control.ListClusterNodes(cmd.Context(), connect.NewRequest(&pb.ListClusterNodesRequest{}))
			if err != nil {
				return err
			}
			return a.printer.message(res.Msg, func(w io.Writer) { printNodes(w, res.Msg) })
		},
	}
}

func printNodes(w io.Writer, m *pb.ListClusterNodesResponse) {
	var rows [][]string
	for _, n := range m.Nodes {
		info := n.GetInfo()
		running := ""
		if s := n.GetStatus(); s != nil {
			running = fmt.Sprintf("%d of %d", s.Running, info.GetCapacity())
			if waiting := s.Queued + s.Waiting; waiting > 0 {
				running += fmt.Sprintf(", %d wait", waiting)
			}
		}
		rows = append(rows, []string{n.Id, n.Name, strconv.FormatUint(n.TrustLevel, 10), labels(n.Labels), nodeState(n), running,
			seen(n.GetStatus()), strconv.FormatUint(n.ExecutionsAttested, 10), diverged(n)})
	}
	table(w, "NODE|NAME|TRUST|LABELS|STATE|RUNNING|HAS SEEN|ATTESTED|DIVERGED", rows)
	printSandboxes(w, m.Nodes)
	for _, n := range m.Nodes {
		for _, code := range n.GetStatus().GetProblems() {
			fmt.Fprintf(w, "\n%s is not well: %s", n.Id, code)
			if text := nodeProblems[code]; text != "" {
				fmt.Fprintf(w, ": %s", text)
			}
		}
	}
	for _, n := range m.Nodes {
		if n.ExecutionsDiffered+n.ExecutionsDisputed > 0 {
			printDivergence(w, n)
		}
	}
	fmt.Fprintf(w, "\nepoch %d, quorum %d of %d nodes\n", m.Epoch, m.NodeQuorum, len(m.Nodes))
}

// printSandboxes says what runs the modules and what confines them, once for all
// nodes that say the same.
func printSandboxes(w io.Writer, nodes []*pb.ClusterNode) {
	const width = 78 // of a terminal that is 80 wide
	ids := make(map[string][]string)
	var kinds []string // in the order of the nodes
	for _, n := range nodes {
		info := n.GetInfo()
		if info == nil {
			continue // away
		}
		isolation := "nothing"
		if len(info.Isolation) > 0 {
			isolation = strings.Join(info.Isolation, ", ")
		}
		kind := fmt.Sprintf("%s on %s, confined by %s", info.Engine, info.Architecture, isolation)
		if ids[kind] == nil {
			kinds = append(kinds, kind)
		}
		ids[kind] = append(ids[kind], n.Id)
	}
	for _, kind := range kinds {
		fmt.Fprintln(w)
		line := strings.Join(ids[kind], ", ") + ":"
		for word := range strings.FieldsSeq(kind) {
			if len(line)+1+len(word) > width {
				fmt.Fprintln(w, line)
				line = " "
			}
			line += " " + word
		}
		fmt.Fprintln(w, line)
	}
}

// diverged counts what a node said that others contradict.
func diverged(n *pb.ClusterNode) string {
	switch {
	case n.ExecutionsDisputed == 0:
		return strconv.FormatUint(n.ExecutionsDiffered, 10)
	case n.ExecutionsDiffered == 0:
		return fmt.Sprintf("%d disputed", n.ExecutionsDisputed)
	}
	return fmt.Sprintf("%d, %d disputed", n.ExecutionsDiffered, n.ExecutionsDisputed)
}

// printDivergence says what an operator may do about a node that diverged.
func printDivergence(w io.Writer, n *pb.ClusterNode) {
	fmt.Fprintf(w, "\n%s contradicts others or itself in %d executions and was part of %d that failed as\n"+
		"diverged: `tally executions --divergent %s` lists them. ", n.Id, n.ExecutionsDiffered, n.ExecutionsDisputed, n.Id)
	if n.ExecutionsDiffered == 0 {
		fmt.Fprintf(w, "Re-execute them to see who was wrong.\n")
		return
	}
	fmt.Fprintf(w, "To keep it from new work, admins lower\n"+
		"its trust level below what contracts ask for (`tally member propose update %s`) or\n"+
		"remove it (`tally member propose remove %s`).\n", n.Id, n.Id)
}

// nodeState is whether a node is there, and whether it says that it is well.
func nodeState(n *pb.ClusterNode) string {
	switch {
	case !n.Connected:
		return "away"
	case len(n.GetStatus().GetProblems()) > 0:
		return "NOT WELL"
	case n.GetStatus().GetDraining():
		return "draining"
	}
	return "connected"
}

// nodeProblems says in words what the codes of nodes mean, and what to do.
var nodeProblems = map[string]string{
	"fork":          "it was shown two histories of a log; the evidence is on its machine, see docs/runbooks/split-view.md",
	"contradiction": "a second run of an execution gave another result, so its machine is faulty; see docs/runbooks/a-node-is-not-well.md",
	"withheld":      "a log does not serve the tree that it has accepted; see docs/runbooks/a-node-is-not-well.md",
	"directory":     "its directory cannot be written; it works again when it has been started again",
	"not_member":    "its attestation key is not in the membership",
	"runner":        "its workers fail; see its log",
}

// seen is the sizes of the largest checkpoints that a node has accepted.
func seen(s *pb.NodeStatus) string {
	var parts []string
	for _, c := range s.GetCheckpoints() {
		parts = append(parts, fmt.Sprintf("%s:%d", path.Base(c.Origin), c.Size))
	}
	return strings.Join(parts, ",")
}

func labels(m map[string]string) string {
	var parts []string
	for _, k := range sortedKeys(m) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

func rootHashCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "root",
		Short: "Show the cluster root: membership and audit checkpoints with their cosignatures",
		Long: `Show the cluster membership root and the audit root. The checkpoints are
checked here against the profile's policies; what does not satisfy them, or a
membership checkpoint whose cosignatures are older than --max-age, is an error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			res, err := c.Control.GetClusterRoot(cmd.Context(), connect.NewRequest(&pb.GetClusterRootRequest{}))
			if err != nil {
				return err
			}
			m := res.Msg
			trust, err := p.membershipTrust()
			if err != nil {
				return err
			}
			membership, err := trust.VerifyCheckpoint(m.MembershipCheckpoint)
			if err != nil {
				return err
			}
			audit, err := p.verify(p.AuditPolicy, m.AuditCheckpoint)
			if err != nil {
				return fmt.Errorf("audit checkpoint: %w", err)
			}
			return a.printer.message(m, func(w io.Writer) {
				fmt.Fprintf(w, "cluster           %s\n", m.Cluster)
				fmt.Fprintf(w, "epoch             %d\n", m.Epoch)
				fmt.Fprintf(w, "membership hash   %s (%d principals)\n", m.MembershipHash, m.MembershipCount)
				fmt.Fprintf(w, "cluster identity  %s\n", m.ClusterIdentityHash)
				fmt.Fprintf(w, "quorum            %d of %d nodes, admin threshold %d\n", m.NodeQuorum, m.MemberNodes, m.AdminThreshold)
				printVerified(w, "membership root", membership)
				printVerified(w, "audit root", audit)
			})
		},
	}
}

// membershipTrust is what the profile's owner relies on for who the members are.
func (p *profile) membershipTrust() (client.MembershipTrust, error) {
	genesis, err := os.ReadFile(p.file(p.Genesis))
	if err != nil {
		return client.MembershipTrust{}, fmt.Errorf("reading the genesis: %w", err)
	}
	policy, err := p.policy(p.MembershipPolicy)
	if err != nil {
		return client.MembershipTrust{}, err
	}
	return client.MembershipTrust{Genesis: genesis, Policy: policy, MaxAge: p.maxAge}, nil
}

// verify checks a checkpoint against one of the profile's policies.
func (p *profile) verify(policyFile string, signed []byte) (*checkpoint.Verified, error) {
	policy, err := p.policy(policyFile)
	if err != nil {
		return nil, err
	}
	return policy.Verify(signed)
}

func printVerified(w io.Writer, title string, v *checkpoint.Verified) {
	fmt.Fprintf(w, "\n%s   size %d, root hash %s\n", title, v.Checkpoint.Size, v.Checkpoint.Root)
	for _, c := range v.Cosignatures {
		fmt.Fprintf(w, "  cosigned by %-20s %s\n", c.Witness, time.Unix(c.Timestamp, 0).UTC().Format(time.RFC3339))
	}
}

func tokenCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "token",
		Short: "Print a short-lived bearer token for other tools",
		Long: `Print a token by which the profile's principal proves itself to the control
plane for ten minutes. For example:

  curl -H "Authorization: Bearer $(tally token)" -H "Content-Type: application/json" \
       -d '{}' http://127.0.0.1:8420/tallystick.v1.Control/GetClusterRoot`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.Token()
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
}
