package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
)

func contractNewCommand(a *app) *cobra.Command {
	var n newContract
	cmd := &cobra.Command{
		Use:   "new NAME --module FILE",
		Short: "Write an unsigned contract for a module",
		Long: `Write an unsigned contract for a WebAssembly module (a WASI preview 1 command).
The module is checked as the control plane and every node will check it. Without
--capability the contract grants exactly what the module imports.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadProfile(a.profilePath)
			if err != nil {
				return err
			}
			module, err := readInput(n.module)
			if err != nil {
				return err
			}
			c := &n.contract
			c.Name, c.Cluster, c.Tenant, c.Module = args[0], p.Cluster, p.Principal, digest.Of(module)
			if err := n.fill(cmd); err != nil {
				return err
			}
			admission, err := n.admit(cmd, module)
			if err != nil {
				return err
			}
			payload, err := c.Marshal()
			if err != nil {
				return err
			}
			if n.output == "" {
				n.output = c.Name + ".json"
			}
			if err := writeFile(n.output, payload); err != nil {
				return err
			}
			return a.printer.value(map[string]any{"file": n.output, "contract_hash": digest.Of(payload), "module": c.Module}, func(w io.Writer) {
				n.print(w, admission)
			})
		},
	}
	n.register(cmd)
	return cmd
}

// newContract is what the flags of contract new say.
type newContract struct {
	contract                            contract.Contract // as far as flags give it as it is
	limits                              sandbox.Limits
	module, output                      string // files
	seed                                string
	capabilities, args, env, nodeLabels []string
	unmetered                           bool
}

func (n *newContract) register(cmd *cobra.Command) {
	f, c := cmd.Flags(), &n.contract
	n.limits = sandbox.DefaultLimits()
	f.StringVar(&n.module, "module", "", "the WebAssembly module")
	f.StringVarP(&n.output, "output", "o", "", "file to write (default NAME.json)")
	f.StringVar(&c.Version, "contract-version", "1", "your own version of the contract")
	f.StringSliceVar(&n.capabilities, "capability", nil, "capability to grant: args, clock, random, stdio (default what the module imports)")
	f.StringArrayVar(&n.args, "arg", nil, "argument of the module, the program's name first (default the contract's name)")
	f.StringArrayVar(&n.env, "env", nil, "NAME=VALUE in the module's environment")
	f.StringVar(&n.seed, "seed", "", "seed of the module's randomness, 64 hexadecimal characters (default zeros)")
	f.Uint64Var(&c.Nodes, "nodes", 3, "nodes asked at first")
	f.Uint64Var(&c.Agreement, "agreement", 2, "nodes that must agree, more than half of --nodes")
	f.Uint64Var(&c.MaxAssigned, "max-assigned", 0, "nodes asked at most when some stay away (default --nodes)")
	f.Uint64Var(&c.Step, "step", 1, "nodes that each further attempt adds")
	f.Uint64Var(&c.MinTrustLevel, "min-trust-level", 0, "least trust level of a node")
	f.StringArrayVar(&n.nodeLabels, "node-label", nil, "KEY=VALUE that a node must have")
	f.Uint64Var(&c.ExpiresEpoch, "expires-epoch", 0, "last epoch at which it may be used (default none)")
	f.Uint64Var(&n.limits.Gas, "gas", n.limits.Gas, "budget in units of the cost table; 10^9 is 0.1 to 0.6 s of a node's time")
	f.Uint64Var(&n.limits.Frames, "frames", n.limits.Frames, fmt.Sprintf("limit of calls nested in each other, at most %d", sandbox.MaxFrames))
	f.BoolVar(&n.unmetered, "unmetered", false, "run the module as it is, for development; nodes refuse that unless started with --allow-unmetered")
	f.Uint32Var(&n.limits.MemoryPages, "memory-pages", n.limits.MemoryPages, "memory limit in pages of 64 KiB")
	f.Int64Var(&n.limits.InputBytes, "input-bytes", n.limits.InputBytes, "limit of the input")
	f.Int64Var(&n.limits.OutputBytes, "output-bytes", n.limits.OutputBytes, "limit of the output")
	f.Int64Var(&n.limits.DiagnosticsBytes, "diagnostics-bytes", n.limits.DiagnosticsBytes, "how much of standard error is kept")
	_ = cmd.MarkFlagRequired("module")
}

// fill takes into the contract what flags say in a form of their own.
func (n *newContract) fill(cmd *cobra.Command) (err error) {
	c := &n.contract
	c.ProtocolVersion, c.Versions, c.Argv = contract.ProtocolVersion, sandbox.Metered(), n.args
	if n.unmetered {
		c.Versions.Rewriter, c.Versions.CostTable, n.limits.Gas, n.limits.Frames = 0, 0, 0, 0
	}
	if c.MaxAssigned < c.Nodes {
		c.MaxAssigned = c.Nodes
	}
	if c.MaxAssigned == c.Nodes {
		c.Step = 0
	}
	if n.seed != "" {
		if c.Seed, err = digest.Parse(n.seed); err != nil {
			return wiring.Usage(cmd, fmt.Errorf("--seed: %w", err))
		}
	}
	if c.Environment, err = pairs(n.env); err != nil {
		return wiring.Usage(cmd, err)
	}
	labels, err := pairs(n.nodeLabels)
	if err != nil {
		return wiring.Usage(cmd, err)
	}
	for _, l := range labels {
		if c.NodeLabels == nil {
			c.NodeLabels = map[string]string{}
		}
		c.NodeLabels[l[0]] = l[1]
	}
	return nil
}

// admit checks the module as a node will, and takes into the contract what it is
// granted: the capabilities that are named, or those that it imports.
func (n *newContract) admit(cmd *cobra.Command, module []byte) (*sandbox.Admission, error) {
	c, l, named := &n.contract, n.limits, cmd.Flags().Changed("capability")
	grant := n.capabilities
	if !named {
		grant = allCapabilities()
	}
	admission, err := sandbox.Admit(module, grant, l)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", n.module, err)
	}
	if !named {
		grant = admission.Needs
	}
	for _, name := range grant {
		c.Capabilities = append(c.Capabilities, contract.Capability(name))
	}
	c.Limits = contract.Limits{
		Gas: l.Gas, Frames: l.Frames,
		DiagnosticsBytes: uint64(l.DiagnosticsBytes), InputBytes: uint64(l.InputBytes),
		MemoryPages: uint64(l.MemoryPages), OutputBytes: uint64(l.OutputBytes),
	}
	return admission, nil
}

func (n *newContract) print(w io.Writer, admission *sandbox.Admission) {
	c := &n.contract
	fmt.Fprintf(w, "contract      %s (unsigned)\n", n.output)
	fmt.Fprintf(w, "module        %s (%d bytes, %d functions)\n", c.Module, admission.ModuleBytes, admission.Functions)
	if n.unmetered {
		fmt.Fprintf(w, "gas           unmetered, for development only\n")
	} else {
		fmt.Fprintf(w, "gas           at most %d, and %d frames\n", c.Limits.Gas, c.Limits.Frames)
	}
	var granted []string
	for _, name := range c.Capabilities {
		granted = append(granted, string(name))
	}
	fmt.Fprintf(w, "capabilities  %s\n", strings.Join(granted, ", "))
	fmt.Fprintf(w, "agreement     %d of %d nodes, at most %d asked\n", c.Agreement, c.Nodes, c.MaxAssigned)
	fmt.Fprintf(w, "sign it with: tally contract sign %s\n", n.output)
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
