package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

func contractCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "contract",
		Short: "Make, sign, register and retire contracts",
		Long: `A contract says which WebAssembly module may run, with which capabilities and
limits, on how many nodes, and how many of them must agree. Make one with "new",
read it, sign it with "sign", and hand it in with "register".`,
	}
	cmd.AddCommand(contractNewCommand(a), contractSignCommand(a), contractRegisterCommand(a),
		contractListCommand(a), contractRetireCommand(a))
	return cmd
}

func contractSignCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "sign FILE",
		Short: "Sign a contract with the profile's contract key",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadProfile(a.profilePath)
			if err != nil {
				return err
			}
			payload, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			c, err := contract.ParseContract(payload)
			if err != nil {
				return fmt.Errorf("%q: %w", args[0], err)
			}
			if c.Tenant != p.Principal || c.Cluster != p.Cluster {
				return fmt.Errorf("the contract is of tenant %q in cluster %q, the profile of %q in %q", c.Tenant, c.Cluster, p.Principal, p.Cluster)
			}
			envelope, err := signPayload(p, "contract", contract.ContractType, payload)
			if err != nil {
				return err
			}
			if output == "" {
				output = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ".dsse"
			}
			if err := writeFile(output, envelope); err != nil {
				return err
			}
			return a.printer.value(map[string]any{"file": output, "contract_hash": digest.Of(payload)}, func(w io.Writer) {
				fmt.Fprintf(w, "signed    %s\n", output)
				fmt.Fprintf(w, "contract  %s\n", digest.Of(payload))
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write (default FILE with the extension .dsse)")
	return cmd
}

// signPayload signs bytes exactly as they are.
func signPayload(p *profile, use, payloadType string, payload []byte) ([]byte, error) {
	key, err := p.key(use)
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewSigner(key)
	if err != nil {
		return nil, err
	}
	envelope, err := dsse.Sign(payloadType, payload, signer)
	if err != nil {
		return nil, err
	}
	return envelope.Marshal()
}

func contractRegisterCommand(a *app) *cobra.Command {
	var modulePath string
	cmd := &cobra.Command{
		Use:   "register FILE --module FILE",
		Short: "Register a signed contract",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			envelope, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			req := &pb.RegisterContractRequest{Envelope: envelope}
			if modulePath != "" {
				if req.Module, err = readInput(modulePath); err != nil {
					return err
				}
			}
			bar := newProgress()
			bar.show("registering: the control plane checks the module")
			res, err := c.Control.RegisterContract(cmd.Context(), connect.NewRequest(req))
			bar.done()
			if err != nil {
				return err
			}
			if err := checkReceipt(cmd.Context(), p, c, res.Msg.Receipt, envelope); err != nil {
				return err
			}
			return a.printer.message(res.Msg, func(w io.Writer) {
				again := ""
				if res.Msg.Duplicate {
					again = " (it was registered before)"
				}
				fmt.Fprintf(w, "contract %s is record %d of the audit log%s\n", res.Msg.ContractHash, res.Msg.Receipt.GetIndex(), again)
			})
		},
	}
	cmd.Flags().StringVar(&modulePath, "module", "", "the module, unless it was stored with `tally blob put`")
	return cmd
}

func contractListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List your contracts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, c, err := a.client()
			if err != nil {
				return err
			}
			list := &pb.ListContractsResponse{}
			for req := (&pb.ListContractsRequest{PageSize: 100}); ; {
				res, err := c.Control.ListContracts(cmd.Context(), connect.NewRequest(req))
				if err != nil {
					return err
				}
				list.Contracts = append(list.Contracts, res.Msg.Contracts...)
				if req.PageToken = res.Msg.NextPageToken; req.PageToken == "" {
					break
				}
			}
			return a.printer.message(list, func(w io.Writer) {
				var rows [][]string
				for _, s := range list.Contracts {
					state := "valid"
					if s.Retired {
						state = "retired"
					}
					rows = append(rows, []string{s.ContractHash, s.Name, s.Version, s.Tenant, state})
				}
				table(w, "CONTRACT|NAME|VERSION|TENANT|STATE", rows)
			})
		},
	}
}

func contractRetireCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "retire CONTRACT",
		Short: "Withdraw a contract: no more requests under it",
		Long: `Withdraw a contract: from the retirement's record on no request is accepted under it.
What was requested before goes on; "tally cancel" ends it. Retiring again changes
nothing. A retired contract cannot be taken back: register another one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			hash, err := contractHash(p, args[0])
			if err != nil {
				return err
			}
			payload, err := (&contract.Retirement{Cluster: p.Cluster, Contract: hash, ProtocolVersion: contract.ProtocolVersion, Tenant: p.Principal}).Marshal()
			if err != nil {
				return err
			}
			envelope, err := signPayload(p, "contract", contract.RetirementType, payload)
			if err != nil {
				return err
			}
			res, err := c.Control.RetireContract(cmd.Context(), connect.NewRequest(&pb.RetireContractRequest{Envelope: envelope}))
			if err != nil {
				return err
			}
			return a.printer.message(res.Msg, func(w io.Writer) { fmt.Fprintf(w, "contract %s is retired\n", hash) })
		},
	}
}

// contractHash takes a hash, or the file of a contract, signed or not.
func contractHash(p *profile, arg string) (digest.Digest, error) {
	if d, err := digest.Parse(arg); err == nil {
		return d, nil
	}
	data, err := os.ReadFile(arg)
	if err != nil {
		return digest.Digest{}, withHint(fmt.Errorf("%q is neither a contract hash nor a file", arg), "`tally contract list` shows the hashes")
	}
	payload := data
	if envelope, err := dsse.Parse(data); err == nil {
		payload = envelope.Payload
	}
	c, err := contract.ParseContract(payload)
	if err != nil {
		return digest.Digest{}, fmt.Errorf("%q: %w", arg, err)
	}
	if c.Cluster != p.Cluster {
		return digest.Digest{}, fmt.Errorf("%q is a contract for cluster %q, the profile is for %q", arg, c.Cluster, p.Cluster)
	}
	return digest.Of(payload), nil
}
