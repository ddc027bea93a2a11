package main

import (
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
	var dir, logsFile, server string
	var witnesses, lawful, keys []string
	var accept acceptance
	var witnessQuorum int
	f := founding{limits: contract.DefaultClusterLimits()}
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
			var err error
			if f.logs, err = readLogs(logsFile); err != nil {
				return err
			}
			list, err := parseWitnesses(witnesses)
			if err != nil {
				return wiring.Usage(cmd, err)
			}
			lawfulList, err := parseWitnesses(lawful)
			if err != nil {
				return wiring.Usage(cmd, err)
			}
			if f.keys, err = f.parseKeys(keys); err != nil {
				return wiring.Usage(cmd, err)
			}
			plan := setUp{founding: &f, witnesses: list, lawful: lawfulList, quorum: witnessQuorum, server: server}
			if err := plan.check(); err != nil {
				return err
			}
			accepted, err := accept.refuse(plan.weaknesses())
			if err != nil {
				return err
			}
			if err := found(dir, f); err != nil {
				return err
			}
			if err := policies(dir, f.logs, cosigners{witnesses: list, quorum: witnessQuorum, lawful: lawfulList}); err != nil {
				return err
			}
			if err := profiles(dir, server, f); err != nil {
				return err
			}
			return a.printer.value(map[string]any{"dir": dir, "cluster": f.cluster, "accepted_weaknesses": namesOf(accepted)}, func(w io.Writer) {
				fmt.Fprintf(w, "cluster %q is in %s: genesis.json, audit.policy, membership.policy, keys/, and a profile for each user\n", f.cluster, dir)
				for _, weak := range accepted {
					fmt.Fprintf(w, "accepted weakness %q: %s\n", weak.name, weak.what)
				}
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&dir, "dir", ".", "`folder` to write into")
	fl.StringVar(&f.cluster, "cluster", "", "the cluster's `id`")
	fl.StringVar(&logsFile, "logs", "", "`file` with the logs' keys: logs.json, which controlapi init wrote")
	fl.StringVar(&server, "server", "http://127.0.0.1:8420", "`URL` of the control plane, for the profiles")
	fl.StringArrayVar(&f.admins, "admin", nil, "`id` of an admin; may be repeated")
	fl.StringArrayVar(&f.nodes, "node", nil, "`id` of a node; may be repeated")
	fl.StringArrayVar(&f.tenants, "tenant", nil, "`id` of a tenant; may be repeated")
	fl.StringArrayVar(&f.auditors, "auditor", nil, "`id` of an auditor; may be repeated")
	fl.Uint64Var(&f.threshold, "admin-threshold", 0, "`number` of admins that must sign a change (default more than half)")
	fl.Uint64Var(&f.nodeQuorum, "node-quorum", 0, "`number` of nodes that must be members for work to be accepted (default more than half)")
	fl.StringArrayVar(&witnesses, "witness", nil, "a witness, `NAME=VKEY[,URL]`; may be repeated")
	fl.StringArrayVar(&lawful, "lawful-witness", nil, "a cosigner of lawful membership, whose cosignature the membership log needs in addition, `NAME=VKEY[,URL]`; may be repeated")
	fl.IntVar(&witnessQuorum, "witness-quorum", 0, "`number` of witnesses that must cosign (default more than half)")
	fl.StringArrayVar(&keys, "key", nil, "a key that exists, `PRINCIPAL/USE=KEY`: a PEM file, or a URI in a key management service; may be repeated")
	fl.StringSliceVar(&accept.names, "accept", nil, "`names` of weaknesses of the set-up to take on: "+strings.Join(weaknessNames(), ", "))
	fl.BoolVar(&accept.all, "development", false, "take on every weakness: the cluster is for development only")
	for _, name := range []string{"cluster", "logs", "admin"} {
		_ = cmd.MarkFlagRequired(name)
	}
	cmd.PreRun = func(*cobra.Command, []string) {
		if f.threshold == 0 {
			f.threshold = uint64(len(f.admins)/2 + 1)
		}
		if f.nodeQuorum == 0 {
			f.nodeQuorum = uint64(len(f.nodes)/2 + 1)
		}
		if witnessQuorum == 0 && len(witnesses) > 0 {
			witnessQuorum = len(witnesses)/2 + 1
		}
	}
	return cmd
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
