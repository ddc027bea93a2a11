package main

import (
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

func provenanceCommand(a *app) *cobra.Command {
	var chain bool
	cmd := &cobra.Command{
		Use:   "provenance EXECUTION",
		Short: "Show the provenance record of an execution, or its chain",
		Long: `Show the provenance record as the server tells it, or with --chain the links of
the provenance chain. To have it proven, fetch the bundle with "tally proof" and
check it with "verifier proof".`,
		Args: oneDigest("execution", "an id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			if chain {
				res, err := c.Provenance.VerifyProvenanceChain(cmd.Context(), connect.NewRequest(&pb.VerifyProvenanceChainRequest{ExecutionId: args[0]}))
				if err != nil {
					return err
				}
				return a.printer.message(res.Msg, func(w io.Writer) {
					var rows [][]string
					for _, l := range res.Msg.Links {
						row, err := recordRow(l.Record)
						if err != nil {
							row = []string{fmt.Sprint(l.Record.Index), "", "unreadable", "", err.Error()}
						}
						rows = append(rows, append(row, fmt.Sprintf("%x", l.Hash)))
					}
					table(w, "INDEX|TIME|KIND|ACTOR|WHAT|CHAIN", rows)
				})
			}
			res, err := c.Provenance.GetExecutionProvenance(cmd.Context(), connect.NewRequest(&pb.GetExecutionProvenanceRequest{ExecutionId: args[0]}))
			if err != nil {
				return err
			}
			return a.printer.message(res.Msg, func(w io.Writer) { printProvenance(w, res.Msg.Provenance) })
		},
	}
	cmd.Flags().BoolVar(&chain, "chain", false, "the links of the provenance chain")
	return cmd
}

func printProvenance(w io.Writer, p *pb.ProvenanceRecord) {
	fmt.Fprintf(w, "execution        %x\n", p.ExecutionId)
	fmt.Fprintf(w, "tenant           %s\n", p.Tenant)
	fmt.Fprintf(w, "contract         %x\n", p.ContractHash)
	fmt.Fprintf(w, "nodes            %s\n", strings.Join(p.Nodes, ", "))
	fmt.Fprintf(w, "schedule         %x\n", p.ClusterScheduleHash)
	fmt.Fprintf(w, "audit root       size %d, root hash %x\n", p.GetAuditRoot().GetSize(), p.GetAuditRoot().GetRootHash())
	fmt.Fprintf(w, "epoch            %d, membership hash %x\n", p.Epoch, p.MembershipHash)
	fmt.Fprintf(w, "input            %x\n", p.InputDigest)
	fmt.Fprintf(w, "output           %x\n", p.OutputDigest)
	fmt.Fprintf(w, "result digest    %x\n", p.ResultDigest)
	fmt.Fprintf(w, "execution proof  %x\n", p.ExecutionProof)
	for _, parent := range p.Parents {
		fmt.Fprintf(w, "parent           %x\n", parent)
	}
}
