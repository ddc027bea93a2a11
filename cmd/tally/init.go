package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func clusterCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Found a cluster"}
	cmd.AddCommand(clusterInitCommand(a))
	return cmd
}

func clusterInitCommand(a *app) *cobra.Command {
	n := newCluster{founding: founding{limits: contract.DefaultClusterLimits()}}
	cmd := &cobra.Command{
		Use:   "init --cluster ID --logs FILE --admin ID...",
		Short: "Make the keys, genesis, policies and profiles of a new cluster",
		Long: `Make a cluster: keys for every principal named, a genesis that all of them sign,
one policy file for each log, and a profile for each admin, tenant and auditor.
The logs' keys come from "controlapi init". Afterwards give the control plane
genesis.json and the policies, each node its two keys, and keep the admins' keys
apart from each other and from the servers.

A witness is NAME=VKEY[,URL], with the submission prefix as URL. --key takes a key
that exists already, for example one in a key management service:

  --key ada/change=awskms:///alias/ada

Set-ups that only look safe are refused, with the reason; --accept NAME takes one
weakness on, and --development all of them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := n.plan(cmd)
			if err != nil {
				return err
			}
			if err := plan.check(); err != nil {
				return err
			}
			accepted, err := n.accept.refuse(plan.weaknesses())
			if err != nil {
				return err
			}
			if err := n.write(plan); err != nil {
				return err
			}
			return a.printer.value(map[string]any{"dir": n.dir, "cluster": n.cluster, "accepted_weaknesses": namesOf(accepted)}, func(w io.Writer) {
				fmt.Fprintf(w, "cluster %q is in %s: genesis.json, audit.policy, membership.policy, keys/, and a profile for each user\n", n.cluster, n.dir)
				for _, weak := range accepted {
					fmt.Fprintf(w, "accepted weakness %q: %s\n", weak.name, weak.what)
				}
			})
		},
	}
	n.register(cmd)
	return cmd
}

// newCluster is what the flags of cluster init say.
type newCluster struct {
	founding         // but for logs and keys, which plan reads
	dir              string
	logsFile, server string
	witnesses        []string // NAME=VKEY[,URL]
	lawful           []string // the same
	existing         []string // keys, PRINCIPAL/USE=KEY
	witnessQuorum    int      // 0 for more than half
	accept           acceptance
}

func (n *newCluster) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&n.dir, "dir", ".", "`folder` to write into")
	f.StringVar(&n.cluster, "cluster", "", "the cluster's `id`")
	f.StringVar(&n.logsFile, "logs", "", "`file` with the logs' keys: logs.json, which controlapi init wrote")
	f.StringVar(&n.server, "server", "http://127.0.0.1:8420", "`URL` of the control plane, for the profiles")
	f.StringArrayVar(&n.admins, "admin", nil, "`id` of an admin; may be repeated")
	f.StringArrayVar(&n.nodes, "node", nil, "`id` of a node; may be repeated")
	f.StringArrayVar(&n.tenants, "tenant", nil, "`id` of a tenant; may be repeated")
	f.StringArrayVar(&n.auditors, "auditor", nil, "`id` of an auditor; may be repeated")
	f.Uint64Var(&n.threshold, "admin-threshold", 0, "`number` of admins that must sign a change (default more than half)")
	f.Uint64Var(&n.nodeQuorum, "node-quorum", 0, "`number` of nodes that must be members for work to be accepted (default more than half)")
	f.StringArrayVar(&n.witnesses, "witness", nil, "a witness, `NAME=VKEY[,URL]`; may be repeated")
	f.StringArrayVar(&n.lawful, "lawful-witness", nil, "a cosigner of lawful membership, whose cosignature the membership log needs in addition, `NAME=VKEY[,URL]`; may be repeated")
	f.IntVar(&n.witnessQuorum, "witness-quorum", 0, "`number` of witnesses that must cosign (default more than half)")
	f.StringArrayVar(&n.existing, "key", nil, "a key that exists, `PRINCIPAL/USE=KEY`: a PEM file, or a URI in a key management service; may be repeated")
	f.StringSliceVar(&n.accept.names, "accept", nil, "`names` of weaknesses of the set-up to take on: "+strings.Join(weaknessNames(), ", "))
	f.BoolVar(&n.accept.all, "development", false, "take on every weakness: the cluster is for development only")
	for _, name := range []string{"cluster", "logs", "admin"} {
		_ = cmd.MarkFlagRequired(name)
	}
}

// plan reads what the flags name, and fills in what they leave open.
func (n *newCluster) plan(cmd *cobra.Command) (*setUp, error) {
	majority := func(count int) uint64 { return uint64(count/2 + 1) }
	n.threshold = cmp.Or(n.threshold, majority(len(n.admins)))
	n.nodeQuorum = cmp.Or(n.nodeQuorum, majority(len(n.nodes)))
	if n.witnessQuorum == 0 && len(n.witnesses) > 0 {
		n.witnessQuorum = int(majority(len(n.witnesses)))
	}
	plan := &setUp{founding: &n.founding, quorum: n.witnessQuorum, server: n.server}
	var err error
	if n.logs, err = readLogs(n.logsFile); err != nil {
		return nil, err
	}
	if plan.witnesses, err = parseWitnesses(n.witnesses); err != nil {
		return nil, wiring.Usage(cmd, err)
	}
	if plan.lawful, err = parseWitnesses(n.lawful); err != nil {
		return nil, wiring.Usage(cmd, err)
	}
	if n.keys, err = n.parseKeys(n.existing); err != nil {
		return nil, wiring.Usage(cmd, err)
	}
	return plan, nil
}

// write makes the keys and files of the cluster.
func (n *newCluster) write(plan *setUp) error {
	if err := found(n.dir, n.founding); err != nil {
		return err
	}
	if err := policies(n.dir, n.logs, cosigners{witnesses: plan.witnesses, quorum: plan.quorum, lawful: plan.lawful}); err != nil {
		return err
	}
	return profiles(n.dir, n.server, n.founding)
}

func parseWitnesses(specs []string) ([]checkpoint.Witness, error) {
	var list []checkpoint.Witness
	for _, spec := range specs {
		name, rest, ok := strings.Cut(spec, "=")
		if !ok {
			return nil, fmt.Errorf("witness %q is not NAME=VKEY[,URL]", spec)
		}
		vkey, url, _ := strings.Cut(rest, ",")
		key, err := checkpoint.ParseCosignerVkey(vkey)
		if err != nil {
			return nil, fmt.Errorf("witness %q: %w", name, err)
		}
		list = append(list, checkpoint.Witness{Name: name, Vkey: vkey, Key: key, URL: url})
	}
	return list, nil
}
