package orchestrator_test

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
)

// A contract whose outputs nobody could deliver is refused, and one that was
// registered when more could be put is not applied any more.
func TestUndeliverableContracts(t *testing.T) {
	w := prepare(t, 3)
	most := uint64(2 << 10)
	w.config = func(c *orchestrator.Config) { c.MaxPayload = most }
	w.mustOpen()

	for name, edit := range map[string]func(*contract.Limits){
		"output_bytes":      func(l *contract.Limits) { l.OutputBytes = most + 1 },
		"diagnostics_bytes": func(l *contract.Limits) { l.DiagnosticsBytes = most + 1 },
	} {
		before := w.audit.Size()
		envelope, _, err := contract.Sign(newContract(func(c *contract.Contract) { edit(&c.Limits) }), testKey("acme"))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = w.RegisterContract(ctx(t), actor("acme"), "acme", envelope, testModule)
		wantCode(t, name, err, orchestrator.CodeContractRules)
		if err != nil && !strings.Contains(err.Error(), name+" is 2049, and nodes can deliver at most 2048") {
			t.Errorf("%s: %v", name, err)
		}
		if w.audit.Size() != before {
			t.Errorf("%s: a record was made", name)
		}
	}

	hash := w.register(newContract(func(c *contract.Contract) { c.Limits.OutputBytes = most }))
	if _, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "one", 1), []byte("one")); err != nil {
		t.Errorf("at the bound: %v", err)
	}
	most--
	w.restart()
	_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "two", 2), []byte("two"))
	wantCode(t, "a bound that has shrunk", err, orchestrator.CodeContractRules)
	if _, a, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "one", 1), []byte("one")); err != nil || !a.Duplicate {
		t.Errorf("what was taken before: %+v, %v", a, err)
	}
}
