package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// endlessCmd makes a log of three executions. Two write what they read; the one
// between them never ends, unless nobody has its module.
func endlessCmd(ts *testscript.TestScript, _ bool, _ []string) {
	c := testcluster.New(ts.Value("t").(testing.TB), testcluster.Options{})
	b := wasmtest.Command()
	b.Start("", []byte{0x03, 0x40, 0x0c, 0x00, 0x0b}) // loop, br 0, end
	spin := b.Bytes()
	write := func(name string, data []byte) {
		ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(name)), 0o755))
		ts.Check(os.WriteFile(ts.MkAbs(name), data, 0o644))
	}
	con := c.Contract()
	con.Module = digest.Of(echo())
	echoes := c.Register(con)
	con.Name, con.Module = "spin", digest.Of(spin)
	spins := c.Register(con)
	for _, run := range []struct {
		contract digest.Digest
		input    string
	}{{echoes, "first"}, {spins, "second"}, {echoes, "third"}} {
		c.Run(c.Submit(run.contract, []byte(run.input)), testcluster.OK(run.input))
		write("payloads/"+digest.Of([]byte(run.input)).String(), []byte(run.input))
	}
	write("payloads/"+digest.Of(echo()).String(), echo())
	write("spins/"+digest.Of(spin).String(), spin)
	openings := provenance.FormatOpenings(c.Audit.Origin, c.Audit.Checkpoint(c.Audit.Size()).Tree())
	for _, opening := range c.Audit.Openings {
		openings = provenance.AppendOpening(openings, opening)
	}
	write("audit.openings", openings)
	treeOf(ts, "audit", c.Audit, c.Audit.Size())
	treeOf(ts, "membership", c.Membership, c.Membership.Size())
	write("genesis.json", c.Genesis)
	write("audit.policy", c.PolicyText.Audit)
	write("membership.policy", c.PolicyText.Membership)
}

// awaitCmd waits for a file that a program in the background makes.
func awaitCmd(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	enough := time.After(time.Minute)
	for {
		if _, err := os.Stat(name); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-enough:
			ts.Fatalf("there is no %s after a minute", args[0])
		}
	}
}
