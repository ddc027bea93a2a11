package main

import (
	"testing"

	"github.com/tallystick/tallystick/controlapi"
	"github.com/tallystick/tallystick/controlapi/blobstore"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/sandbox"
)

// What a module may put out fits through the API and into the store, and the core
// refuses contracts by the bound that the API has.
func TestPayloadBoundsAgree(t *testing.T) {
	const most = controlapi.DefaultMaxPayload
	if most != orchestrator.DefaultMaxPayload {
		t.Errorf("the API carries payloads of %d bytes, the core admits contracts for %d", most, orchestrator.DefaultMaxPayload)
	}
	for name, n := range map[string]int{"output": sandbox.MaxOutputBytes, "diagnostics": sandbox.MaxDiagnosticsBytes, "module": sandbox.MaxModuleBytes} {
		if n > most {
			t.Errorf("%s: the sandbox takes %d bytes, the API %d", name, n, most)
		}
	}
	if most > blobstore.DefaultMaxSize {
		t.Errorf("the API carries payloads of %d bytes, the store takes %d", most, blobstore.DefaultMaxSize)
	}
}
