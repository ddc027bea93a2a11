package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

func logCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "log", Short: "Read the audit and membership logs"}
	cmd.AddCommand(logCheckpointCommand(a), logRecordsCommand(a), logProofCommand(a), logOpeningsCommand(a), logPayloadsCommand(a))
	return cmd
}

func logName(membership bool) pb.LogName {
	if membership {
		return pb.LogName_LOG_NAME_MEMBERSHIP
	}
	return pb.LogName_LOG_NAME_AUDIT
}

func logCheckpointCommand(a *app) *cobra.Command {
	var membership bool
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the published checkpoint, checked against the profile's policy",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			res, err := c.Log.GetCheckpoint(cmd.Context(), connect.NewRequest(&pb.GetCheckpointRequest{Log: logName(membership)}))
			if err != nil {
				return err
			}
			if membership {
				trust, err := p.membershipTrust()
				if err == nil {
					_, err = trust.VerifyCheckpoint(res.Msg.Checkpoint)
				}
				if err != nil {
					return err
				}
			} else if _, err := p.verify(p.AuditPolicy, res.Msg.Checkpoint); err != nil {
				return err
			}
			return a.printer.message(res.Msg, func(w io.Writer) { _, _ = w.Write(res.Msg.Checkpoint) })
		},
	}
	cmd.Flags().BoolVar(&membership, "membership", false, "of the membership log instead of the audit log")
	return cmd
}

func logProofCommand(a *app) *cobra.Command {
	var membership bool
	var output string
	cmd := &cobra.Command{
		Use:   "proof INDEX",
		Short: "Fetch the c2sp.org/tlog-proof of one entry",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			index, err := strconv.ParseUint(args[0], 10, 63)
			if err != nil {
				return wiring.Usage(cmd, fmt.Errorf("index %q is not a number", args[0]))
			}
			res, err := c.Log.GetTlogProof(cmd.Context(), connect.NewRequest(&pb.GetTlogProofRequest{Log: logName(membership), Index: index}))
			if err != nil {
				return err
			}
			return a.save(output, res.Msg.TlogProof, "proof")
		},
	}
	cmd.Flags().BoolVar(&membership, "membership", false, "of the membership log instead of the audit log")
	cmd.Flags().StringVarP(&output, "output", "o", "-", "file to write, - for standard output")
	return cmd
}

func logRecordsCommand(a *app) *cobra.Command {
	var start uint64
	var most int
	cmd := &cobra.Command{
		Use:   "records",
		Short: "List the records of the audit log that you may see",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if most < 1 {
				return wiring.Usage(cmd, fmt.Errorf("--number %d: want 1 or more", most))
			}
			_, c, err := a.client()
			if err != nil {
				return err
			}
			var rows [][]string
			all := &pb.ListRecordsResponse{}
			for next := start; len(all.Records) < most; {
				size := uint32(min(1000, most-len(all.Records)))
				res, err := c.Log.ListRecords(cmd.Context(), connect.NewRequest(&pb.ListRecordsRequest{Start: next, PageSize: size}))
				if err != nil {
					return err
				}
				for _, r := range res.Msg.Records {
					row, err := recordRow(r)
					if err != nil {
						return fmt.Errorf("record %d: %w", r.Index, err)
					}
					rows = append(rows, row)
				}
				all.Records = append(all.Records, res.Msg.Records...)
				next = res.Msg.Next
				all.Next = next
				if next == 0 {
					break
				}
			}
			return a.printer.message(all, func(w io.Writer) { table(w, "INDEX|TIME|KIND|ACTOR|WHAT", rows) })
		},
	}
	cmd.Flags().Uint64Var(&start, "start", 0, "first index")
	cmd.Flags().IntVarP(&most, "number", "n", 100, "at most this many, 1 or more")
	return cmd
}

// recordRow opens a record and says in a line what it is.
func recordRow(r *pb.ProvenRecord) ([]string, error) {
	opening, err := record.ParseOpening(r.Opening)
	if err != nil {
		return nil, err
	}
	rec, err := record.Parse(opening.Record())
	if err != nil {
		return nil, err
	}
	kind, what := summary(rec)
	return []string{strconv.FormatUint(r.Index, 10), time.UnixMilli(int64(rec.TimeUnixMs)).UTC().Format("2006-01-02 15:04:05"),
		kind, rec.GetActor().GetPrincipal(), what}, nil
}

func summary(rec *pb.Record) (kind, what string) {
	switch b := rec.Body.(type) {
	case *pb.Record_Epoch:
		return "epoch", fmt.Sprintf("epoch %d", b.Epoch.Epoch)
	case *pb.Record_Contract:
		return "contract", fmt.Sprintf("%s of %s", shortHex(b.Contract.ContractHash), b.Contract.Tenant)
	case *pb.Record_Retirement:
		return "retirement", shortHex(b.Retirement.ContractHash)
	case *pb.Record_Request:
		return "request", fmt.Sprintf("%s at epoch %d", shortHex(b.Request.ExecutionId), b.Request.Epoch)
	case *pb.Record_Cancellation:
		return "cancellation", shortHex(b.Cancellation.ExecutionId)
	case *pb.Record_Reschedule:
		return "reschedule", fmt.Sprintf("%s attempt %d", shortHex(b.Reschedule.ExecutionId), b.Reschedule.Attempt)
	case *pb.Record_Attestation:
		return "attestation", fmt.Sprintf("%s by %s", shortHex(b.Attestation.ExecutionId), b.Attestation.Node)
	case *pb.Record_Divergence:
		return "divergence", shortHex(b.Divergence.ExecutionId)
	case *pb.Record_Provenance:
		return "provenance", fmt.Sprintf("%s proof %s", shortHex(b.Provenance.ExecutionId), shortHex(b.Provenance.ExecutionProof))
	case *pb.Record_Expired:
		return "expired", shortHex(b.Expired.ExecutionId)
	case *pb.Record_Operation:
		return "operation", fmt.Sprintf("%s: %s", rec.GetActor().GetMethod(), b.Operation.Code)
	case *pb.Record_OperationBatch:
		n := uint64(0)
		for _, item := range b.OperationBatch.Items {
			n += item.Count
		}
		return "operation batch", fmt.Sprintf("%s of %s", count(int(n), "operation"), b.OperationBatch.Tenant)
	case *pb.Record_Unauthenticated:
		return "unauthenticated", count(len(b.Unauthenticated.Counts), "kind") + " of refusals"
	case *pb.Record_Erasure:
		return "erasure", shortHex(b.Erasure.Digest)
	}
	return "unknown", ""
}

func shortHex(b []byte) string { return short(fmt.Sprintf("%x", b)) }
