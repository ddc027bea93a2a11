package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

func statusCommand(a *app) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status EXECUTION",
		Short: "Show how an execution stands",
		Args:  oneDigest("execution", "an id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			var status *pb.ExecutionStatus
			if watch {
				status, err = await(cmd.Context(), c, args[0])
			} else {
				status, err = query(cmd.Context(), c, args[0])
			}
			if err != nil {
				return err
			}
			if err := a.printer.message(status, func(w io.Writer) { printStatus(w, status) }); err != nil {
				return err
			}
			return endedWell(status)
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "wait until it has ended")
	return cmd
}

func query(ctx context.Context, c *client.Client, id string) (*pb.ExecutionStatus, error) {
	res, err := c.Control.QueryExecutionStatus(ctx, connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Status, nil
}

// await follows an execution until it has ended, complete or not, and its proof
// can be retrieved. A broken stream is taken up again.
func await(ctx context.Context, c *client.Client, id string) (*pb.ExecutionStatus, error) {
	bar := newProgress()
	defer bar.done()
	var last *pb.ExecutionStatus
	for {
		stream, err := c.Control.WatchExecution(ctx, connect.NewRequest(&pb.WatchExecutionRequest{ExecutionId: id}))
		if err != nil {
			return nil, err
		}
		for stream.Receive() {
			last = stream.Msg().Status
			bar.show(describe(last))
		}
		err = stream.Err()
		_ = stream.Close()
		if last != nil && ended(last) {
			return last, nil
		}
		if connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable {
			return nil, err // an answer, not a lost connection
		}
		bar.show("connection lost, trying again")
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// ended reports whether nothing more comes: the proof is there too.
func ended(s *pb.ExecutionStatus) bool {
	switch s.State {
	case pb.ExecutionState_EXECUTION_STATE_OPEN, pb.ExecutionState_EXECUTION_STATE_UNSPECIFIED:
		return false
	}
	return s.ProofReady
}

func endedWell(s *pb.ExecutionStatus) error {
	switch s.State {
	case pb.ExecutionState_EXECUTION_STATE_OPEN, pb.ExecutionState_EXECUTION_STATE_COMPLETE:
		return nil
	}
	return &codeError{fmt.Errorf("the execution is %s", stateName(s.State)), exitFailed}
}

func stateName(s pb.ExecutionState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "EXECUTION_STATE_"))
}

// describe is one line for the progress display.
func describe(s *pb.ExecutionStatus) string {
	switch {
	case s.State == pb.ExecutionState_EXECUTION_STATE_COMPLETE && !s.ProofReady:
		return "agreed; waiting for witnesses to cosign the provenance record"
	case s.State != pb.ExecutionState_EXECUTION_STATE_OPEN && !s.ProofReady:
		return stateName(s.State) + "; waiting for witnesses to cosign the record of it"
	case s.State != pb.ExecutionState_EXECUTION_STATE_OPEN:
		return stateName(s.State)
	case !s.Witnessed:
		return "requested; waiting for witnesses to cosign the request"
	}
	return fmt.Sprintf("attempt %d on %s: %d of them reported", s.Attempt, strings.Join(s.AssignedNodes, ", "), len(s.Reports))
}

func printStatus(w io.Writer, s *pb.ExecutionStatus) {
	fmt.Fprintf(w, "execution       %s\n", s.ExecutionId)
	fmt.Fprintf(w, "state           %s\n", stateName(s.State))
	fmt.Fprintf(w, "contract        %s\n", s.ContractHash)
	fmt.Fprintf(w, "input           %s\n", s.InputDigest)
	fmt.Fprintf(w, "request         index %d, epoch %d, witnessed %t\n", s.RequestIndex, s.Epoch, s.Witnessed)
	fmt.Fprintf(w, "schedule        %s, attempt %d\n", s.ClusterScheduleHash, s.Attempt)
	fmt.Fprintf(w, "assigned        %s\n", strings.Join(s.AssignedNodes, ", "))
	for _, r := range s.Reports {
		if r.Abandoned != "" {
			fmt.Fprintf(w, "  %-14s will not report: %s\n", r.Node, r.Abandoned)
			continue
		}
		fmt.Fprintf(w, "  %-14s result %s  index %d  %s\n", r.Node, short(r.ResultDigest), r.Index, stanceNote(r))
	}
	if o := s.Outcome; o != nil {
		outcome := o.Kind
		if o.ExitCode != nil {
			outcome += fmt.Sprintf(" (code %d)", *o.ExitCode)
		}
		fmt.Fprintf(w, "outcome         %s, output %d bytes, %d pages of memory\n", outcome, o.OutputLength, o.PeakPages)
		fmt.Fprintf(w, "output          %s\n", o.OutputDigest)
		fmt.Fprintf(w, "result digest   %s\n", o.ResultDigest)
		fmt.Fprintf(w, "execution proof %s\n", s.ExecutionProof)
		if s.ProofReady {
			fmt.Fprintf(w, "\nfetch the proof with: tally proof %s\n", s.ExecutionId)
		}
	}
	explainEnd(w, s)
}

// stanceNote says how a report stands to what the execution came to.
func stanceNote(r *pb.NodeReport) string {
	late := ""
	if r.Evidence {
		late = ", after the execution was decided"
	}
	switch provenance.Stance(r.Stance) {
	case provenance.StanceAgrees:
		return "agrees"
	case provenance.StanceLate:
		return "the same, after the others had agreed"
	case provenance.StanceDiffers:
		return "DIFFERS from what was agreed" + late
	case provenance.StanceCheckpoint:
		return "DIFFERS: the result that was agreed, on another request checkpoint" + late
	case provenance.StanceDisputed:
		return "disputed" + late
	case provenance.StanceVoid:
		return "VOID: the node said two different things" + late
	}
	return strings.TrimPrefix(late, ", ")
}

// explainEnd says why an execution ended without a result, and what to do next.
func explainEnd(w io.Writer, s *pb.ExecutionStatus) {
	switch s.State {
	case pb.ExecutionState_EXECUTION_STATE_DIVERGED:
		results := map[string]bool{}
		for _, r := range s.Reports {
			if r.Stance == string(provenance.StanceDisputed) && !r.Evidence {
				results[r.ResultDigest] = true
			}
		}
		fmt.Fprintf(w, "\nno agreement is possible any more: %d different results. What each node signed is\n"+
			"proven by `tally proof %s`; re-execute to see who is wrong, and ask again\n"+
			"with a new submission\n", len(results), s.ExecutionId)
	case pb.ExecutionState_EXECUTION_STATE_CANCELLED:
		fmt.Fprintf(w, "\nits tenant cancelled it; what nodes said afterwards is evidence only\n")
	case pb.ExecutionState_EXECUTION_STATE_EXPIRED:
		fmt.Fprintf(w, "\nevery node that its contract allows was asked, and too few answered in time: see\n"+
			"`tally nodes`, and ask again with a new submission\n")
	}
}

func executionsCommand(a *app) *cobra.Command {
	var all bool
	var state, divergent string
	cmd := &cobra.Command{
		Use:   "executions",
		Short: "List executions, newest first",
		Long: `List executions, newest first: your tenant's, or as an auditor or admin all of
them. --divergent NODE lists the evidence against a node: those about which it said
something else than was agreed, or two different things, and those that failed as
diverged with it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			list := &pb.ListExecutionsResponse{}
			req := &pb.ListExecutionsRequest{PageSize: 100, DivergentNode: divergent}
			if state != "" {
				number, ok := pb.ExecutionState_value["EXECUTION_STATE_"+strings.ToUpper(state)]
				if !ok || number == 0 {
					return wiring.Usage(cmd, fmt.Errorf("no state %q: want open, complete, diverged, cancelled or expired", state))
				}
				req.State = pb.ExecutionState(number)
			}
			for {
				res, err := c.Control.ListExecutions(cmd.Context(), connect.NewRequest(req))
				if err != nil {
					return err
				}
				list.ProtocolVersion = res.Msg.ProtocolVersion
				list.Executions = append(list.Executions, res.Msg.Executions...)
				req.PageToken = res.Msg.NextPageToken
				if !all || req.PageToken == "" {
					break
				}
			}
			list.NextPageToken = req.PageToken
			return a.printer.message(list, func(w io.Writer) {
				var rows [][]string
				for _, s := range list.Executions {
					rows = append(rows, []string{s.ExecutionId, stateName(s.State), short(s.ContractHash),
						time.UnixMilli(int64(s.SubmittedUnixMs)).UTC().Format(time.RFC3339)})
				}
				table(w, "EXECUTION|STATE|CONTRACT|SUBMITTED", rows)
				if list.NextPageToken != "" {
					fmt.Fprintln(w, "\nthere are more: use --all")
				}
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every execution, not only the newest 100")
	cmd.Flags().StringVar(&state, "state", "", "only those in this `STATE`: open, complete, diverged, cancelled or expired")
	cmd.Flags().StringVar(&divergent, "divergent", "", "only those in which this `NODE` diverged")
	return cmd
}

func proofCommand(a *app) *cobra.Command {
	var output string
	var wait, ancestors bool
	cmd := &cobra.Command{
		Use:   "proof EXECUTION",
		Short: "Fetch the proof bundle of an execution",
		Long: `Fetch the proof bundle: one file that "verifier proof" checks offline with the
two policies and the genesis. An execution that diverged, was cancelled or expired
has one too, which proves that.

With --with-ancestors the file also proves every execution whose output went into
the input, and the ones before it.`,
		Args: oneDigest("execution", "an id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			id := args[0]
			var noResult error
			if wait {
				status, err := await(cmd.Context(), c, id)
				if err != nil {
					return err
				}
				noResult = endedWell(status)
			}
			res, err := c.Control.RetrieveExecutionProof(cmd.Context(),
				connect.NewRequest(&pb.RetrieveExecutionProofRequest{ExecutionId: id, WithAncestors: ancestors}))
			if err != nil {
				return errors.Join(noResult, err)
			}
			if output == "" {
				output = short(id) + ".tallyproof"
			}
			if err := a.save(output, res.Msg.Bundle, "proof bundle"); err != nil {
				return err
			}
			return noResult
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write, - for standard output (default the id's first 16 characters and .tallyproof)")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the execution has ended and the proof is there")
	cmd.Flags().BoolVar(&ancestors, "with-ancestors", false, "prove the executions that it descends from as well")
	return cmd
}

// save writes data to a file or standard output and says so.
func (a *app) save(path string, data []byte, what string) error {
	if path == "-" {
		_, err := a.printer.out.Write(data)
		return err
	}
	if err := writeFile(path, data); err != nil {
		return fmt.Errorf("writing %s: %w", what, err)
	}
	return a.printer.value(map[string]any{"file": path, "bytes": len(data)}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s (%d bytes)\n", what, path, len(data))
	})
}

func blobCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "blob", Short: "Store and fetch payloads of your tenant"}
	put := &cobra.Command{
		Use:   "put FILE",
		Short: "Store a payload and print its digest",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			data, err := readInput(args[0])
			if err != nil {
				return err
			}
			res, err := c.Control.PutBlob(cmd.Context(), connect.NewRequest(&pb.PutBlobRequest{Data: data}))
			if err != nil {
				return err
			}
			return a.printer.message(res.Msg, func(w io.Writer) { fmt.Fprintln(w, res.Msg.Digest) })
		},
	}
	var output string
	get := &cobra.Command{
		Use:   "get DIGEST",
		Short: "Fetch a payload by its digest, for example an execution's output",
		Args:  oneDigest("payload", "a digest"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			res, err := c.Control.GetBlob(cmd.Context(), connect.NewRequest(&pb.GetBlobRequest{Digest: args[0]}))
			if err != nil {
				return err
			}
			if got := digestOf(res.Msg.Data); got != args[0] {
				return fmt.Errorf("the server answered with other bytes: their digest is %s", got)
			}
			return a.save(output, res.Msg.Data, "payload")
		},
	}
	get.Flags().StringVarP(&output, "output", "o", "-", "file to write, - for standard output")
	cmd.AddCommand(put, get)
	return cmd
}

// maxInput bounds what is read from a file or standard input, in bytes.
const maxInput = 64 << 20

// readInput reads a file, or standard input for "-".
func readInput(path string) ([]byte, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	data, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxInput {
		return nil, errors.New("the input is larger than 64 MiB, which no cluster takes")
	}
	return data, nil
}
