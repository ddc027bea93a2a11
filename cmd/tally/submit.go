package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// pinFor is how many epochs beyond the current one a submission may be pinned:
// a few, so that a membership change or two in between does not void it.
const pinFor = 5

func submitCommand(a *app) *cobra.Command {
	var s submission
	var idFile string
	var wait, witnessed bool
	cmd := &cobra.Command{
		Use:   "submit --contract CONTRACT --input FILE",
		Short: "Ask for an execution of a contract on an input",
		Long: `Sign a submission with the profile's submission key and hand it in. The answer is
a receipt that binds the log. The execution id follows from what you sign alone:
the same contract, input, parents, nonce and last epoch are the same execution.
Without --nonce a fresh one is drawn, so that each submission is a new execution.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			req, id, err := s.request(cmd, p, c)
			if err != nil {
				return err
			}
			if witnessed {
				req.Wait = pb.Wait_WAIT_WITNESSED
			}
			res, err := c.Control.SubmitExecutionRequest(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			m := res.Msg
			if m.ExecutionId != id.String() {
				return fmt.Errorf("the server answered for execution %s, what was signed is %s", m.ExecutionId, id)
			}
			if err := checkReceipt(cmd.Context(), p, c, m.Receipt, req.Submission); err != nil {
				return err
			}
			if idFile != "" {
				if err := writeFile(idFile, []byte(m.ExecutionId+"\n")); err != nil {
					return err
				}
			}
			if !wait {
				return a.printer.message(m, func(w io.Writer) { printReceipt(w, m) })
			}
			if !a.printer.json {
				printReceipt(a.printer.out, m)
			}
			status, err := await(cmd.Context(), c, m.ExecutionId)
			if err != nil {
				return err
			}
			if err := a.printer.message(status, func(w io.Writer) { printStatus(w, status) }); err != nil {
				return err
			}
			return endedWell(status)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.contract, "contract", "", "contract hash, or file of the contract")
	f.StringVar(&s.input, "input", "", "input file, - for standard input (default no input)")
	f.StringArrayVar(&s.parents, "parent", nil, "execution whose output comes before the input")
	f.TextVar(&s.nonce, "nonce", contract.Nonce(nil), "16 to 32 bytes in hexadecimal (default random)")
	f.Uint64Var(&s.lastEpoch, "last-epoch", 0, "last epoch at which it may be pinned (default the current one and 5 more)")
	f.StringVar(&s.save, "save", "", "also write the signed submission to this file")
	f.StringVar(&s.signed, "signed", "", "hand in this signed submission instead of making one")
	f.StringVar(&idFile, "id-file", "", "write the execution id to this file")
	f.BoolVar(&wait, "wait", false, "wait until it has ended")
	f.BoolVar(&witnessed, "witnessed", false, "wait until witnesses have cosigned the request")
	cmd.MarkFlagsOneRequired("contract", "signed")
	cmd.MarkFlagsMutuallyExclusive("contract", "signed")
	return cmd
}

// submission is what the flags of submit say.
type submission struct {
	contract, input, save, signed string
	parents                       []string
	nonce                         contract.Nonce
	lastEpoch                     uint64
}

// request signs the submission, or reads a signed one, and returns the request
// with the execution id that the signed bytes imply.
func (s *submission) request(cmd *cobra.Command, p *profile, c *client.Client) (*pb.SubmitExecutionRequestRequest, digest.Digest, error) {
	none := digest.Digest{}
	var input []byte
	if s.input != "" {
		var err error
		if input, err = readInput(s.input); err != nil {
			return nil, none, err
		}
	}
	if s.signed != "" {
		envelope, err := os.ReadFile(s.signed)
		if err != nil {
			return nil, none, err
		}
		id, err := submittedID(envelope)
		return &pb.SubmitExecutionRequestRequest{Submission: envelope, Input: input}, id, err
	}
	hash, err := contractHash(p, s.contract)
	if err != nil {
		return nil, none, err
	}
	v := &contract.Submission{
		Cluster: p.Cluster, Contract: hash, Input: digest.Of(input), LastEpoch: s.lastEpoch,
		Nonce: s.nonce, ProtocolVersion: contract.ProtocolVersion, Tenant: p.Principal,
	}
	for _, parent := range s.parents {
		id, err := digest.Parse(parent)
		if err != nil {
			return nil, none, wiring.Usage(cmd, fmt.Errorf("--parent: %w", err))
		}
		v.Parents = append(v.Parents, id)
	}
	if len(v.Nonce) == 0 {
		v.Nonce = make([]byte, 16)
		_, _ = rand.Read(v.Nonce) // never fails: crypto/rand ends the program instead
	}
	if v.LastEpoch == 0 {
		root, err := c.Control.GetClusterRoot(cmd.Context(), connect.NewRequest(&pb.GetClusterRootRequest{}))
		if err != nil {
			return nil, none, err
		}
		v.LastEpoch = root.Msg.Epoch + pinFor
	}
	payload, err := v.Marshal()
	if err != nil {
		return nil, none, err
	}
	envelope, err := signPayload(p, "submission", contract.SubmissionType, payload)
	if err != nil {
		return nil, none, err
	}
	if s.save != "" {
		if err := writeFile(s.save, envelope); err != nil {
			return nil, none, err
		}
	}
	return &pb.SubmitExecutionRequestRequest{Submission: envelope, Input: input}, v.ExecutionID(), nil
}

func printReceipt(w io.Writer, m *pb.SubmitExecutionRequestResponse) {
	again := ""
	if m.Duplicate {
		again = " (it was submitted before)"
	}
	fmt.Fprintf(w, "execution %s\nrecord %d of the audit log%s\n", m.ExecutionId, m.Receipt.GetIndex(), again)
}

func cancelCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel EXECUTION",
		Short: "Cancel an open execution",
		Long: `Cancel an open execution with your tenant's signature. What nodes say of it later is
kept as evidence. Cancelling again changes nothing; what has ended otherwise stays
as it is, and the command fails and says how it ended.`,
		Args: oneDigest("execution", "an id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			id, err := digest.Parse(args[0])
			if err != nil {
				return wiring.Usage(cmd, err)
			}
			payload, err := (&contract.Cancellation{Cluster: p.Cluster, Execution: id, ProtocolVersion: contract.ProtocolVersion, Tenant: p.Principal}).Marshal()
			if err != nil {
				return err
			}
			envelope, err := signPayload(p, "submission", contract.CancellationType, payload)
			if err != nil {
				return err
			}
			res, err := c.Control.CancelExecution(cmd.Context(), connect.NewRequest(&pb.CancelExecutionRequest{Envelope: envelope}))
			if err != nil {
				return err
			}
			return a.printer.message(res.Msg, func(w io.Writer) { fmt.Fprintf(w, "execution %s is cancelled\n", id) })
		},
	}
}
