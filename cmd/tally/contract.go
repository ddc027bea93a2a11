package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/sandbox"
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

func contractNewCommand(a *app) *cobra.Command {
	c := &contract.Contract{
		ProtocolVersion: contract.ProtocolVersion,
		Versions:        sandbox.Metered(),
	}
	var modulePath, output, seed string
	var capabilities, args, env, nodeLabels []string
	var unmetered bool
	limits := sandbox.DefaultLimits()
	cmd := &cobra.Command{
		Use:   "new NAME --module FILE",
		Short: "Write an unsigned contract for a module",
		Long: `Write an unsigned contract for a WebAssembly module (a WASI preview 1 command).
The module is checked as the control plane and every node will check it. Without
--capability the contract grants exactly what the module imports.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			p, err := loadProfile(a.profilePath)
			if err != nil {
				return err
			}
			module, err := readInput(modulePath)
			if err != nil {
				return err
			}
			c.Name, c.Cluster, c.Tenant, c.Module, c.Argv = argv[0], p.Cluster, p.Principal, digest.Of(module), args
			if c.MaxAssigned < c.Nodes {
				c.MaxAssigned = c.Nodes
			}
			if c.MaxAssigned == c.Nodes {
				c.Step = 0
			}
			if seed != "" {
				if c.Seed, err = digest.Parse(seed); err != nil {
					return wiring.Usage(cmd, fmt.Errorf("--seed: %w", err))
				}
			}
			if c.Environment, err = pairs(env); err != nil {
				return wiring.Usage(cmd, err)
			}
			labels, err := pairs(nodeLabels)
			if err != nil {
				return wiring.Usage(cmd, err)
			}
			for _, l := range labels {
				if c.NodeLabels == nil {
					c.NodeLabels = map[string]string{}
				}
				c.NodeLabels[l[0]] = l[1]
			}
			grant := capabilities
			if !cmd.Flags().Changed("capability") {
				grant = allCapabilities()
			}
			if unmetered {
				c.Versions.Rewriter, c.Versions.CostTable, limits.Gas, limits.Frames = 0, 0, 0, 0
			}
			admission, err := sandbox.Admit(module, grant, limits)
			if err != nil {
				return fmt.Errorf("%q: %w", modulePath, err)
			}
			if !cmd.Flags().Changed("capability") {
				grant = admission.Needs
			}
			c.Capabilities = nil
			for _, name := range grant {
				c.Capabilities = append(c.Capabilities, contract.Capability(name))
			}
			c.Limits = contract.Limits{
				Gas: limits.Gas, Frames: limits.Frames,
				DiagnosticsBytes: uint64(limits.DiagnosticsBytes), InputBytes: uint64(limits.InputBytes),
				MemoryPages: uint64(limits.MemoryPages), OutputBytes: uint64(limits.OutputBytes),
			}
			payload, err := c.Marshal()
			if err != nil {
				return err
			}
			if output == "" {
				output = c.Name + ".json"
			}
			if err := writeFile(output, payload); err != nil {
				return err
			}
			return a.printer.value(map[string]any{"file": output, "contract_hash": digest.Of(payload), "module": c.Module}, func(w io.Writer) {
				fmt.Fprintf(w, "contract      %s (unsigned)\n", output)
				fmt.Fprintf(w, "module        %s (%d bytes, %d functions)\n", c.Module, len(module), admission.Functions)
				if unmetered {
					fmt.Fprintf(w, "gas           unmetered, for development only\n")
				} else {
					fmt.Fprintf(w, "gas           at most %d, and %d frames\n", limits.Gas, limits.Frames)
				}
				fmt.Fprintf(w, "capabilities  %s\n", strings.Join(grant, ", "))
				fmt.Fprintf(w, "agreement     %d of %d nodes, at most %d asked\n", c.Agreement, c.Nodes, c.MaxAssigned)
				fmt.Fprintf(w, "sign it with: tally contract sign %s\n", output)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&modulePath, "module", "", "the WebAssembly module")
	f.StringVarP(&output, "output", "o", "", "file to write (default NAME.json)")
	f.StringVar(&c.Version, "contract-version", "1", "your own version of the contract")
	f.StringSliceVar(&capabilities, "capability", nil, "capability to grant: args, clock, random, stdio (default what the module imports)")
	f.StringArrayVar(&args, "arg", nil, "argument of the module, the program's name first (default the contract's name)")
	f.StringArrayVar(&env, "env", nil, "NAME=VALUE in the module's environment")
	f.StringVar(&seed, "seed", "", "seed of the module's randomness, 64 hexadecimal characters (default zeros)")
	f.Uint64Var(&c.Nodes, "nodes", 3, "nodes asked at first")
	f.Uint64Var(&c.Agreement, "agreement", 2, "nodes that must agree, more than half of --nodes")
	f.Uint64Var(&c.MaxAssigned, "max-assigned", 0, "nodes asked at most when some stay away (default --nodes)")
	f.Uint64Var(&c.Step, "step", 1, "nodes that each further attempt adds")
	f.Uint64Var(&c.MinTrustLevel, "min-trust-level", 0, "least trust level of a node")
	f.StringArrayVar(&nodeLabels, "node-label", nil, "KEY=VALUE that a node must have")
	f.Uint64Var(&c.ExpiresEpoch, "expires-epoch", 0, "last epoch at which it may be used (default none)")
	f.Uint64Var(&limits.Gas, "gas", limits.Gas, "budget in units of the cost table; 10^9 is 0.1 to 0.6 s of a node's time")
	f.Uint64Var(&limits.Frames, "frames", limits.Frames, fmt.Sprintf("limit of calls nested in each other, at most %d", sandbox.MaxFrames))
	f.BoolVar(&unmetered, "unmetered", false, "run the module as it is, for development; nodes refuse that unless started with --allow-unmetered")
	f.Uint32Var(&limits.MemoryPages, "memory-pages", limits.MemoryPages, "memory limit in pages of 64 KiB")
	f.Int64Var(&limits.InputBytes, "input-bytes", limits.InputBytes, "limit of the input")
	f.Int64Var(&limits.OutputBytes, "output-bytes", limits.OutputBytes, "limit of the output")
	f.Int64Var(&limits.DiagnosticsBytes, "diagnostics-bytes", limits.DiagnosticsBytes, "how much of standard error is kept")
	_ = cmd.MarkFlagRequired("module")
	return cmd
}

func allCapabilities() []string {
	seen := map[string]bool{}
	var list []string
	for _, f := range sandbox.Capabilities() {
		if !seen[f.Capability] {
			seen[f.Capability] = true
			list = append(list, f.Capability)
		}
	}
	return list
}

// pairs splits NAME=VALUE arguments.
func pairs(list []string) ([][2]string, error) {
	var out [][2]string
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not NAME=VALUE", s)
		}
		out = append(out, [2]string{name, value})
	}
	return out, nil
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
